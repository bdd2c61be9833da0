use crate::program::run;

#[test]
fn the_demo_shows_a_scan_that_fits_and_one_that_does_not() {
    let ran = run(["demo"]);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.err, "");
    assert!(ran.out.contains("✓ Fits."), "{}", ran.out);
    assert!(ran.out.contains("✗ Does not fit."), "{}", ran.out);

    let scans = run(["demo", "--json"]).json();
    let fits: Vec<&serde_json::Value> = scans["scans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|scan| &scan["fits"])
        .collect();
    assert_eq!(fits, [true, false]);
}

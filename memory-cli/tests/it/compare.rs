use std::fs;

use crate::program::{ROWS, directory, run, table, text};

#[test]
fn every_backend_does_the_same_work_and_the_chart_shows_it() {
    let chart = directory("compare").join("chart.svg");
    let common = ["--rounds", "1", "--threads", "2", "--chart", text(&chart)];
    let file = table("parquet");

    let ran = run(["--json", "compare", text(&file)].iter().chain(&common));

    let report = ran.json();
    let backends = report["backends"].as_array().unwrap();
    let names: Vec<&str> = backends
        .iter()
        .map(|b| b["backend"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["jemalloc", "mimalloc", "system", "arena"]);
    for backend in backends {
        assert_eq!(backend["rows"], ROWS, "{backend}");
        assert!(
            backend["peak_accounted"].as_u64().unwrap() > 100_000,
            "{backend}"
        );
    }
    let svg = fs::read_to_string(&chart).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    for name in names {
        assert!(svg.contains(name), "no {name} in {svg}");
    }
}

#[test]
fn only_the_chosen_backends_are_compared() {
    let chart = directory("compare-two").join("chart.svg");
    let ran = run([
        "compare",
        text(&table("csv")),
        "--rounds",
        "1",
        "--backends",
        "system,arena",
        "--chart",
        text(&chart),
    ]);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.contains("system") && !ran.out.contains("jemalloc"),
        "{}",
        ran.out
    );
}

#[test]
fn a_bad_file_or_backend_is_one_line_and_no_process_is_started() {
    let chart = directory("compare-bad").join("chart.svg");
    let compare = |file: &str, backends: &str| {
        run([
            "compare",
            file,
            "--backends",
            backends,
            "--chart",
            text(&chart),
        ])
    };
    compare("no-such.csv", "system").failed(1, &["no-such.csv"]);
    compare(text(&table("csv")), "tcmalloc").failed(2, &["tcmalloc"]);
    assert!(!chart.exists());
}

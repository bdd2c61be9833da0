//! The demo.

use std::fs;

use crate::program::{Folder, Ran, command};

/// Runs the demo with its temporary folder in `folder`.
fn demo(folder: &Folder, arguments: &[&str]) -> Ran {
    let mut command = command();
    command
        .env("TMPDIR", folder.path())
        .arg("demo")
        .args(arguments);
    Ran::of(command.output().unwrap())
}

#[test]
fn the_demo_shows_a_query_that_fits_one_that_spills_and_one_that_is_refused() {
    let folder = Folder::new();

    let ran = demo(&folder, &["--json"]);

    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let document = ran.json();
    let queries = document["queries"].as_array().unwrap();
    let told: Vec<_> = queries
        .iter()
        .map(|query| (&query["expected"], &query["outcome"]))
        .collect();
    let (finished, refused) = (&"finished".into(), &"refused".into());
    assert_eq!(
        told,
        [
            (&"fits".into(), finished),
            (&"spills".into(), finished),
            (&"is_refused".into(), refused)
        ]
    );
    assert!(
        queries.iter().all(|query| query["as_expected"] == true),
        "{ran:?}"
    );
    assert!(
        queries[1]["report"]["spilled_bytes"].as_u64() > Some(0),
        "{ran:?}"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "it removes what it made"
    );
}

#[test]
fn the_demo_says_what_will_be_seen_before_each_query() {
    let ran = demo(&Folder::new(), &[]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let mut rest = &*ran.out;
    for part in [
        "1. A query that fits",
        "$ arrow-memory-sql --limit",
        "query `query`",
        "2. A query that spills",
        "query `query`",
        "3. A query that is refused",
        "refused: HashJoin",
        "query `query`",
        "Each query did what it should",
    ] {
        let (_, after) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("{part}: {}", ran.out));
        rest = after;
    }
}

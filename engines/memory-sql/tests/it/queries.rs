//! Queries: their rows, their report, and how they end.

use std::process::Stdio;

use crate::program::{Folder, JOIN, Ran, SMALL, SORT, command, run, run_with};

#[test]
fn rows_come_first_then_the_operators() {
    let folder = Folder::new();
    let table = folder.parquet("numbers.parquet", 1000);
    let ran = run(&[
        "--limit=64MiB",
        "--partitions=1",
        "--table",
        &table,
        "SELECT n % 2 AS odd, count(*) AS rows, min(text) AS first FROM numbers GROUP BY 1 ORDER BY 1",
    ]);

    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let expected = "  \
  odd  rows  first
  ───  ────  ──────
    0   500  row 10
    1   500  row 1

2 rows in ";
    assert!(ran.out.starts_with(expected), "{}", ran.out);
    let after = &ran.out[expected.len()..];
    for part in [
        "query `query`: ",
        "limit 64.0 MiB",
        "operator",
        "declared",
        "peak",
        "└─ ",
    ] {
        assert!(after.contains(part), "{part}: {}", ran.out);
    }
    if cfg!(target_os = "linux") {
        assert!(after.contains("\nprocess: "), "{}", ran.out);
    }
}

#[test]
fn tables_are_files_and_folders_of_parquet_and_csv() {
    let folder = Folder::new();
    let sum = |table: &str, query: &str| {
        let ran = run(&["--json", "--table", table, query]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["first_rows"][0][0].as_str().unwrap().to_owned()
    };
    let parquet = folder.parquet("parts/a.parquet", 10);
    folder.parquet("parts/b/c.parquet", 20);
    folder.file("parts/_SUCCESS", "");
    folder.file("parts/notes.txt", "");
    let parts = folder.path().join("parts");
    let csv = folder.file("Some-Rows.csv", "n,text\n1,a\n2,b\n");
    let tsv = folder.file("t.tsv", "n\ttext\n4\ta,b\n");

    assert_eq!(sum(&parquet, "SELECT sum(n) FROM a"), "55");
    assert_eq!(
        sum(parts.to_str().unwrap(), "SELECT sum(n) FROM parts"),
        "265"
    );
    assert_eq!(sum(&format!("X={parquet}"), "SELECT sum(n) FROM X"), "55");
    assert_eq!(sum(&csv, "SELECT sum(n) FROM some_rows"), "3");
    assert_eq!(sum(&tsv, "SELECT text FROM t WHERE n = 4"), "a,b");
}

#[test]
fn several_tables_are_joined() {
    let folder = Folder::new();
    let (one, two) = (
        folder.parquet("one.parquet", 10),
        folder.parquet("two.parquet", 20),
    );
    let ran = run(&[
        "-t",
        &one,
        "-t",
        &two,
        "SELECT count(*) FROM one JOIN two ON one.n = two.n",
        "--json",
    ]);
    assert_eq!(ran.json()["first_rows"][0][0], "10", "{ran:?}");
}

#[test]
fn a_query_is_an_argument_or_a_file_or_standard_input() {
    let folder = Folder::new();
    let file = folder.file("query.sql", "-- a comment\nSELECT 40 + 2 AS n;\n");
    for ran in [
        run(&["--json", "SELECT 42 AS n"]),
        run(&["--json", "--file", &file]),
        run_with("SELECT\n42 AS n", &["--json", "-"]),
    ] {
        assert_eq!(
            ran.json()["first_rows"],
            serde_json::json!([["42"]]),
            "{ran:?}"
        );
    }
}

#[test]
fn of_several_statements_the_last_one_is_the_query() {
    let ran = run(&[
        "--json",
        "CREATE TABLE t AS SELECT 1 AS a; INSERT INTO t VALUES (2); SELECT sum(a) FROM t",
    ]);
    assert_eq!(ran.json()["first_rows"][0][0], "3", "{ran:?}");
}

#[test]
fn rows_beyond_the_maximum_are_counted() {
    let sql = "SELECT value FROM generate_series(1, 12345) ORDER BY value";
    let ran = run(&["--max-rows=2", sql]);
    let expected = "  \
  value
  ─────
      1
      2

12,345 rows in ";
    assert!(ran.out.starts_with(expected), "{}", ran.out);
    assert!(
        ran.out.contains(" s; the first 2 are shown (--max-rows)\n"),
        "{}",
        ran.out
    );
    let ran = run(&["--max-rows=0", "--json", sql]).json();
    assert_eq!(
        (&ran["rows"], &ran["first_rows"]),
        (&12345.into(), &serde_json::json!([]))
    );
}

#[test]
fn a_table_is_as_wide_as_the_terminal() {
    let sql = "SELECT repeat('x', 500) AS x, 1 AS n";
    let widest = |columns: Option<&str>| {
        let mut command = command();
        if let Some(columns) = columns {
            command.env("COLUMNS", columns);
        }
        let ran = Ran::of(command.arg(sql).output().unwrap());
        let rows = ran.out.split("\n\n").next().unwrap();
        rows.lines().map(|line| line.chars().count()).max().unwrap()
    };
    assert_eq!(
        [widest(Some("80")), widest(Some("120")), widest(None)],
        [80, 120, 505]
    );
}

/// Scripts read these names.
#[test]
fn json_is_one_document_with_these_names() {
    let ran = run(&[
        "--json",
        "--limit",
        "64MiB",
        "--partitions=2",
        "SELECT 1 AS a, NULL AS b",
    ]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let document = ran.json();
    let names: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "columns",
            "error",
            "first_rows",
            "limit",
            "limit_from",
            "outcome",
            "partitions",
            "report",
            "resident_before",
            "resident_peak",
            "rows",
            "seconds"
        ]
    );
    assert_eq!(document["outcome"], "finished");
    assert_eq!(document["limit"], 64 << 20);
    assert_eq!(document["limit_from"], "--limit");
    assert_eq!(document["partitions"], 2);
    assert_eq!(document["rows"], 1);
    assert_eq!(document["first_rows"], serde_json::json!([["1", null]]));
    assert_eq!(
        document["columns"],
        serde_json::json!([{"name": "a", "type": "Int64"}, {"name": "b", "type": "Null"}])
    );
    let report = &document["report"];
    assert_eq!(
        (&report["name"], &report["limit"]),
        (&"query".into(), &(64 << 20).into())
    );
    assert_eq!(report["waited_seconds"], 0.0);
}

#[test]
fn without_a_limit_the_machine_says_how_much_may_be_used() {
    let ran = run(&["--json", "SELECT 1"]).json();
    if cfg!(target_os = "linux") {
        assert!(ran["limit"].as_u64().unwrap() > 64 << 20, "{ran}");
        assert!(
            ran["limit_from"].as_str().unwrap().starts_with("70 % of "),
            "{ran}"
        );
        let text = run(&["SELECT 1"]).out;
        assert!(text.contains("\nlimit: 70 % of "), "{text}");
    }
}

#[test]
fn a_sort_that_does_not_fit_spills_and_finishes() {
    let arguments = [
        &["--json", "--limit=8MiB", "--max-rows=1"],
        &SMALL[..],
        &[SORT],
    ]
    .concat();
    let ran = run(&arguments);

    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let document = ran.json();
    let report = &document["report"];
    assert_eq!(
        (&document["outcome"], &document["rows"]),
        (&"finished".into(), &300_000.into())
    );
    assert!(
        report["spilled_bytes"].as_u64().unwrap() > 8 << 20,
        "{report}"
    );
    assert!(report["refused"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        (&report["charged"], &report["open_streams"]),
        (&0.into(), &0.into())
    );
    let arguments = [&["--limit=8MiB", "--max-rows=1"], &SMALL[..], &[SORT]].concat();
    assert!(run(&arguments).out.contains("SortExec#"));
}

#[test]
fn a_query_that_is_refused_says_who_asked_and_who_holds_what() {
    let arguments = [&["--limit=2MiB"], &SMALL[..], &[JOIN]].concat();
    let ran = run(&arguments);

    assert_eq!(ran.code, Some(3), "{ran:?}");
    for part in [
        "refused: HashJoin",
        "of query `query` was refused",
        "largest operators of `query`",
        "--limit",
        "prefer_hash_join=false",
    ] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    for part in [
        "refused after ",
        "query `query`: ",
        "HashJoinExec#",
        "refused",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let ran = run(&[&["--json"], &arguments[..]].concat());
    let document = ran.json();
    assert_eq!(
        (ran.code, &document["outcome"]),
        (Some(3), &"refused".into())
    );
    assert!(
        document["error"]
            .as_str()
            .unwrap()
            .contains("HashJoinExec#"),
        "{ran:?}"
    );
    assert!(document["report"]["refused"].as_u64() > Some(0), "{ran:?}");
}

#[test]
fn what_a_refusal_advises_is_enough() {
    let sorted = [
        "--limit=16MiB",
        "--set",
        "datafusion.optimizer.prefer_hash_join=false",
    ];
    for advice in [&["--limit=64MiB"][..], &sorted] {
        let ran = run(&[advice, &SMALL[..], &["--json", JOIN]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.json()["first_rows"][0][0], "300000", "{ran:?}");
    }
}

#[test]
fn a_reader_that_ends_early_is_no_failure() {
    let mut child = command();
    child.args([
        "--max-rows=100000",
        "SELECT * FROM generate_series(1, 100000)",
    ]);
    let mut child = child
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
}

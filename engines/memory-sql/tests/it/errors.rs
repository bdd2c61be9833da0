//! Errors: one line that says what to do, and an exit code.

use std::fs;

use crate::program::{Folder, run};

#[test]
fn a_query_that_is_wrong_is_named_in_one_line() {
    let folder = Folder::new();
    let table = folder.parquet("numbers.parquet", 10);
    let of = |sql: &str| run(&["--table", &table, sql]);

    of("SELEC 1").failed(1, &["SELEC"]);
    of("SELECT n FROM numbers GROUP").failed(1, &["Expected", "Line: 1"]);
    of("SELECT m FROM numbers").failed(1, &["No field named m", "numbers.n"]);
    of("SELECT nosuch(1)").failed(1, &["nosuch"]);
    of("SELECT n FROM orders").failed(1, &["`orders`", "there are numbers", "--table orders=PATH"]);
    run(&["SELECT n FROM orders"]).failed(1, &["no table is given", "--table orders=PATH"]);
    of("").failed(2, &["there is no query"]);
    of("/* nothing */").failed(2, &["there is no query"]);
}

#[test]
fn a_query_that_fails_while_it_runs_has_a_report() {
    let sql = "SELECT 10 / (value - 5) FROM generate_series(1, 10)";
    let ran = run(&[sql]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.starts_with("error: ") && ran.err.contains("ivide by zero"),
        "{ran:?}"
    );
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(ran.out.contains("query `query`: "), "{ran:?}");
    let ran = run(&["--json", sql]);
    assert_eq!(
        (ran.code, &ran.json()["outcome"]),
        (Some(1), &"failed".into()),
        "{ran:?}"
    );
}

#[test]
fn a_table_that_cannot_be_read_is_named_with_its_path() {
    let folder = Folder::new();
    let of = |table: &str| run(&["--table", table, "SELECT 1"]);
    let text = folder.file("notes.txt", "x");
    let broken = folder.file("broken.parquet", "PAR1 and nothing more");
    folder.file("mixed/a.csv", "n\n1\n");
    folder.parquet("mixed/b.parquet", 1);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();

    of("nowhere.parquet").failed(1, &["table `nowhere`", "`nowhere.parquet`", "No such file"]);
    of(&text).failed(1, &["table `notes_txt`", ".parquet, .csv"]);
    of(&broken).failed(1, &["table `broken`", "Parquet"]);
    of(empty.to_str().unwrap()).failed(1, &["table `empty`", "no file that ends in .parquet"]);
    of(folder.path().join("mixed").to_str().unwrap()).failed(1, &["files of two kinds"]);
    run(&["--file", "nowhere.sql"]).failed(1, &["cannot read `nowhere.sql`"]);
}

#[test]
fn a_command_line_that_is_wrong_is_a_usage_error() {
    let folder = Folder::new();
    let (one, two) = (
        folder.parquet("a.parquet", 1),
        folder.parquet("b/a.parquet", 1),
    );

    run(&[]).failed(2, &["there is no query", "demo", "--help"]);
    run(&["--limit", "much", "SELECT 1"]).failed(2, &["`much` is not a size", "256MiB"]);
    run(&["--limit", "1KiB", "SELECT 1"]).failed(2, &["too small", "1MiB or more"]);
    run(&["--limit", "0", "SELECT 1"]).failed(2, &["too small"]);
    run(&["--partitions", "0", "SELECT 1"]).failed(2, &["--partitions"]);
    run(&["--max-rows=-1", "SELECT 1"]).failed(2, &["--max-rows"]);
    run(&["--nonsense", "SELECT 1"]).failed(2, &["--nonsense"]);
    run(&["SELECT 1", "SELECT 2"]).failed(2, &["SELECT 2"]);
    run(&["--file", "q.sql", "SELECT 1"]).failed(2, &["--file"]);
    run(&["--set", "batch=1", "SELECT 1"]).failed(2, &["datafusion.execution.batch_size"]);
    run(&["--set", "datafusion.nonsense=1", "SELECT 1"]).failed(2, &["--set datafusion.nonsense"]);
    run(&["--table", "a b=c.parquet", "SELECT 1"]).failed(2, &["NAME=PATH"]);
    run(&["-t", &one, "-t", &two, "SELECT 1"]).failed(2, &["two tables are called `a`"]);
}

#[test]
fn help_and_version_are_no_errors() {
    for (argument, says) in [
        ("--help", "Exit codes"),
        ("--version", "arrow-memory-sql 0."),
    ] {
        let ran = run(&[argument]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        assert!(ran.out.contains(says), "{ran:?}");
    }
}

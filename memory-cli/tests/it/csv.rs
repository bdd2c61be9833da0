//! CSV with the irregularities of real files.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::program::{Ran, directory, feed, run, text};

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn columns(ran: &Ran) -> u64 {
    ran.json()["files"][0]["columns"].as_u64().unwrap()
}

fn scan(file: &Path, options: &[&str]) -> Ran {
    run(["--json", "scan", text(file)].iter().chain(options))
}

#[test]
fn fields_are_separated_by_what_was_said_or_by_what_the_name_says() {
    let directory = directory("csv-delimiter");
    let pipes = file(&directory, "pipes.csv", "id|name\n1|a\n2|b\n");
    let tabs = file(&directory, "tabs.tsv", "id\tname\n1\ta\n");
    let semicolons = file(&directory, "semicolons.csv", "id;x\n1;2\n");

    assert_eq!(columns(&scan(&pipes, &[])), 1);
    assert_eq!(columns(&scan(&pipes, &["--delimiter", "|"])), 2);
    assert_eq!(columns(&scan(&tabs, &[])), 2);
    assert_eq!(columns(&scan(&tabs, &["--delimiter", ","])), 1);
    let hint = run(["scan", text(&pipes)]).out;
    assert!(
        hint.contains("hint: it has one column, `id|name`") && hint.contains("--delimiter '|'"),
        "{hint}"
    );
    let hint = run(["scan", text(&semicolons)]).out;
    assert!(hint.contains("--delimiter ';'"), "{hint}");
    let unequal = file(&directory, "unequal.csv", "id;x\n1;2,5\n");
    run(["scan", text(&unequal)]).failed(1, &["line 2", "--delimiter"]);
    run(["scan", text(&pipes), "--delimiter", "||"]).failed(2, &["one ASCII character"]);
}

#[test]
fn a_first_row_that_is_data_is_read() {
    let directory = directory("csv-header");
    let path = file(&directory, "data.csv", "1,2.5\n3,4.5\n");

    assert_eq!(scan(&path, &[]).json()["rows"], 1);
    assert_eq!(scan(&path, &["--no-header"]).json()["rows"], 2);
    let hint = run(["scan", text(&path)]).out;
    assert!(hint.contains("--no-header"), "{hint}");
    assert_eq!(
        columns(&scan(&path, &["--no-header", "--columns", "column_2"])),
        1
    );
}

#[test]
fn texts_that_were_said_to_be_nulls_are_nulls() {
    let directory = directory("csv-nulls");
    let rows = "1,NA\nNA,2.5\n,NaN\n".repeat(100);
    let path = file(&directory, "nulls.csv", &format!("a,b\n{rows}"));
    let used = |options: &[&str]| {
        let ran = scan(&path, &[options, &["--keep"]].concat());
        ran.json()["accounted"]["used"].as_u64().unwrap()
    };

    // 300 numbers in each column, and a validity bit for each.
    let numbers = used(&["--null", "NA", "--null", "NaN"]);
    assert_eq!(numbers, 2 * (2432 + 64));
    assert!(used(&[]) != numbers, "without the option they are text");
}

#[test]
fn a_value_of_another_type_says_how_to_go_on_and_that_works() {
    let directory = directory("csv-types");
    let digits: String = (0..100_000)
        .map(|n| format!("{n},{}\n", "x".repeat(680)))
        .collect();
    let path = file(
        &directory,
        "late.csv",
        &format!("code,pad\n{digits}K1A 0B1,y\n"),
    );

    let ran = run(["scan", text(&path)]);
    ran.failed(
        1,
        &[
            "K1A 0B1",
            "line 10000",
            "first 100,000 rows",
            "--types 'code=Utf8'",
            "--null 'K1A 0B1'",
        ],
    );
    assert_eq!(
        scan(&path, &["--types", "code=text"]).json()["rows"],
        100_001
    );
    assert_eq!(scan(&path, &["--null", "K1A 0B1"]).json()["rows"], 100_001);
    run(["scan", text(&path), "--types", "cod=text"]).failed(2, &["did you mean `code`?"]);
    run(["scan", text(&path), "--types", "code=thing"]).failed(2, &["no type"]);
}

#[test]
fn compressed_text_is_read() {
    let directory = directory("csv-gz");
    let compressed = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        let out = fs::File::create(&path).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap();
        path
    };
    let csv = compressed("a.csv.gz", b"a,b\n1,2\n");
    let tsv = compressed("a.tsv.gz", b"a\tb\n1\t2\n");
    let parquet = compressed("a.parquet.gz", b"PAR1 and so on");

    assert_eq!(columns(&scan(&csv, &[])), 2);
    assert_eq!(columns(&scan(&tsv, &[])), 2);
    assert_eq!(run(["scan", text(&parquet)]).code, Some(1));
    let cut = fs::read(&csv).unwrap();
    fs::write(&csv, &cut[..cut.len() - 6]).unwrap();
    assert_eq!(run(["scan", text(&csv)]).code, Some(1));
}

#[test]
fn a_record_without_an_end_is_an_error_before_it_fills_the_memory() {
    let directory = directory("csv-record");
    let path = directory.join("long.csv");
    let mut out = fs::File::create(&path).unwrap();
    let piece = vec![b'z'; 1 << 20];
    for _ in 0..200 {
        out.write_all(&piece).unwrap();
    }
    out.write_all(b"\n1\n").unwrap();

    run(["scan", text(&path)]).failed(1, &["more than 64.0 MiB", "quotation mark"]);
}

#[test]
fn other_encodings_are_told() {
    let directory = directory("csv-encoding");
    let path = directory.join("latin1.csv");
    fs::write(&path, b"a,b\n1,caf\xe9\n").unwrap();

    run(["scan", text(&path)]).failed(1, &["line 2", "iconv"]);
}

#[test]
fn standard_input_is_read_in_any_format() {
    for format in ["parquet", "arrow", "csv"] {
        let bytes = fs::read(crate::program::table(format)).unwrap();
        let report = feed(["--json", "scan", "--keep", "-"], &bytes).json();

        assert_eq!(report["rows"], crate::program::ROWS, "{format}");
        assert_eq!(report["files"][0]["path"], "standard input");
    }
    let nothing = b"\0\0\0\0";
    feed(["scan", "-"], nothing).failed(1, &["standard input", "no text"]);
    let pipes = feed(["--json", "scan", "-", "--delimiter", "|"], b"a|b\n1|2\n");
    assert_eq!(columns(&pipes), 2);
}

#[test]
fn directories_stand_for_the_tables_in_them() {
    let directory = directory("partitioned");
    for year in ["2023", "2024"] {
        let below = directory.join(format!("year={year}"));
        fs::create_dir(&below).unwrap();
        file(&below, "part-0.csv", "a\n1\n");
        file(&below, "_SUCCESS", "");
        file(&below, ".part-0.csv.crc", "x");
        file(&below, "notes.md", "x");
    }
    let report = run(["--json", "scan", text(&directory)]).json();

    assert_eq!(report["rows"], 2);
    let paths = report["files"].as_array().unwrap().iter();
    let paths: Vec<&str> = paths.map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths[0].ends_with("year=2023/part-0.csv"), "{paths:?}");
    assert!(paths[1].ends_with("year=2024/part-0.csv"), "{paths:?}");
    run(["scan", "s3://bucket/key.parquet"]).failed(1, &["only files of this machine"]);
    run(["scan", "no-such-*.parquet"]).failed(1, &["no file matches this pattern"]);
}

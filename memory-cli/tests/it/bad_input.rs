use std::fs;
use std::path::PathBuf;

use crate::program::{directory, run, table, text};

#[test]
fn a_missing_file_a_directory_and_an_empty_file_are_one_line_each() {
    let directory = directory("missing");
    run(["scan", text(&directory.join("none.parquet"))])
        .failed(1, &["none.parquet", "No such file"]);
    run(["scan", text(&directory)]).failed(1, &["no file below it"]);
    for name in ["a.parquet", "a.arrow", "a.csv", "a"] {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        run(["scan", text(&path)]).failed(1, &[name, "the file is empty"]);
    }
}

#[test]
fn a_bad_file_after_a_good_one_fails_before_any_is_read() {
    let ran = run(["scan", text(&table("csv")), "no-such-file.csv"]);
    ran.failed(1, &["no-such-file.csv"]);
}

/// Wherever a file is cut off, the scan prints one line, or reads the file if the rest is a whole file of its
/// format. It releases all memory: if not, the exit code would be another one.
#[test]
fn truncated_files_end_the_scan_cleanly() {
    let directory = directory("truncated");
    for format in ["parquet", "arrow", "csv"] {
        let whole = fs::read(table(format)).unwrap();
        for part in 1..8 {
            let path = directory.join(format!("part{part}.{format}"));
            fs::write(&path, &whole[..whole.len() * part / 8]).unwrap();

            let ran = run(["scan", "--keep", text(&path)]);

            if format == "csv" && ran.code == Some(0) {
                continue;
            }
            ran.failed(1, &[&format!("part{part}.{format}")]);
        }
    }
}

#[test]
fn corrupt_files_end_the_scan_cleanly() {
    let directory = directory("corrupt");
    for format in ["parquet", "arrow", "csv"] {
        let whole = fs::read(table(format)).unwrap();
        for step in 0..24 {
            let mut damaged = whole.clone();
            // Spread over the file, and dense near its end, where Parquet and IPC have their
            // metadata.
            let at = if step % 2 == 0 {
                whole.len() * step / 24 + 8
            } else {
                whole.len() - 8 - step * 37
            };
            for byte in &mut damaged[at..at + 4] {
                *byte ^= 0xA5;
            }
            let path = directory.join(format!("damaged{step}.{format}"));
            fs::write(&path, damaged).unwrap();

            let ran = run(["scan", "--keep", text(&path)]);

            // A damaged value may be a valid one, and then the scan succeeds.
            if ran.code != Some(0) {
                ran.failed(1, &[&format!("damaged{step}.{format}")]);
            }
        }
    }
}

#[test]
fn a_file_of_another_type_is_told_by_its_first_bytes() {
    let directory = directory("wrong-type");
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    run(["scan", text(&file("a.parquet", png))]).failed(1, &["PAR1"]);
    run(["scan", text(&file("a.arrow", png))]).failed(1, &["Arrow IPC"]);
    run(["scan", text(&file("a.csv", png))]).failed(1, &["no text"]);
    run(["scan", text(&file("a.png", png))]).failed(1, &["neither Parquet nor Arrow IPC"]);
    // The contents determine the format, not the name.
    let parquet = fs::read(table("parquet")).unwrap();
    assert_eq!(run(["scan", text(&file("b.csv", &parquet))]).code, Some(0));
}

#[test]
fn rows_that_are_no_rows_are_found_with_their_line() {
    let path = directory("ragged").join("ragged.csv");
    fs::write(&path, "a,b\n1,2\n3\n").unwrap();

    run(["scan", text(&path)]).failed(1, &["ragged.csv", "line 3"]);
}

#[test]
fn bad_sizes_and_options_are_one_line_with_what_to_write_instead() {
    let file = table("csv");
    let scan = |options: &[&str]| run(["scan", text(&file)].iter().chain(options));
    scan(&["--limit", "0"]).failed(2, &["leaves no room", "256MiB"]);
    scan(&["--limit", "0KiB"]).failed(2, &["leaves no room"]);
    scan(&["--limit", "12XB"]).failed(2, &["`12XB` is not a size", "256MiB"]);
    scan(&["--limit=-1"]).failed(2, &["not a size"]);
    scan(&["--limit", "99999999999999999999"]).failed(2, &["address"]);
    scan(&["--batch-size", "0"]).failed(2, &["--batch-size"]);
    scan(&["--backend", "tcmalloc"]).failed(2, &["tcmalloc", "jemalloc", "system"]);
    scan(&["--columns", "nope"]).failed(2, &["no column `nope`", "o_orderkey"]);
    run(["scan"]).failed(2, &["FILE"]);
    run(["scna"]).failed(2, &["scna"]);
    run(["gen", "tpch", "--scale", "0", "--out", "x"]).failed(2, &["a scale is a number"]);
}

#[test]
fn an_output_that_cannot_be_written_is_one_line() {
    let directory = directory("unwritable");
    let in_the_way = directory.join("file");
    fs::write(&in_the_way, "").unwrap();
    let below = in_the_way.join("out");
    let tpch = [
        "gen", "tpch", "--scale", "0.001", "--tables", "region", "--out",
    ];
    run(tpch.iter().copied().chain([text(&below)])).failed(1, &["cannot create directory"]);
    run(["compare", text(&table("csv")), "--chart", text(&below)]).failed(1, &["--chart"]);
    let flame = ["flame", text(&in_the_way), "--out", text(&below)];
    run(flame).failed(1, &["no folded stacks"]);
    fs::write(&in_the_way, "main;scan 64\n").unwrap();
    run(flame).failed(1, &["--out"]);
    // A directory at the path of the table: the attempt leaves no partial file beside it.
    fs::create_dir(directory.join("region.parquet")).unwrap();
    let tpch = run(tpch.iter().copied().chain([text(&directory)]));
    tpch.failed(1, &["region.parquet"]);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
}

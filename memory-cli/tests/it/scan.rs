use std::fs;

use crate::program::{ROWS, directory, run, table, text};

const FORMATS: [&str; 3] = ["parquet", "arrow", "csv"];

#[test]
fn each_format_is_read_into_a_tree_with_an_allocator_per_column() {
    for format in FORMATS {
        let file = table(format);
        let report = run(["--json", "scan", "--keep", text(&file)]).json();

        assert!(report["fits"].is_null(), "no limit: {report}");
        assert_eq!(report["rows"], ROWS);
        let tree = report["tree"].as_array().unwrap();
        let names: Vec<&str> = tree
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        assert_eq!(names[..2], ["scan", &format!("orders.{format}")]);
        assert_eq!(names[2], format!("orders.{format}/o_orderkey"));
        assert_eq!(
            names.len(),
            2 + 9 + 1,
            "nine columns, and the decoder: {names:?}"
        );
        let used = |row: &serde_json::Value| row["used"].as_u64().unwrap();
        let columns: u64 = tree[2..].iter().map(used).sum();
        assert_eq!(used(&tree[0]), columns);
        assert_eq!(report["backend"]["live"].as_u64(), Some(columns));
    }
}

#[test]
fn the_text_has_the_tree_the_totals_and_the_verdict() {
    let ran = run(["scan", "--limit", "1GiB", text(&table("parquet"))]);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.err, "");
    for words in [
        "1,500 rows",
        "├─ o_orderkey",
        "└─ (decoding)",
        "accounted",
        "backend",
        "✓ Fits.",
    ] {
        assert!(ran.out.contains(words), "no `{words}` in {}", ran.out);
    }
    assert!(!ran.out.contains('\u{1b}'), "a pipe gets no colours");
}

/// Whether this platform tells what a decoder allocates.
const ATTRIBUTES: bool = cfg!(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
));

#[test]
fn what_the_decoder_allocates_besides_is_reported() {
    for format in FORMATS {
        let file = table(format);
        let report = run(["--json", "scan", text(&file)]).json();
        let decoder = &report["decoder"];
        if !ATTRIBUTES {
            assert!(decoder.is_null(), "{report}");
            continue;
        }
        let peak = decoder["peak"].as_u64().unwrap();
        let process = report["resident"]["peak"].as_u64().unwrap();
        assert!((1..process).contains(&peak), "{format}: {peak}");
        assert!(decoder["used"].as_u64().unwrap() <= peak);
    }
}

#[test]
fn what_the_scan_adopts_is_not_the_decoders_any_more() {
    let file = table("parquet");
    let arguments = ["--json", "scan", "--adopt", "--keep", text(&file)];
    let report = run(arguments).json();

    let kept = report["accounted"]["used"].as_u64().unwrap();
    assert!(kept > 100_000, "{report}");
    if ATTRIBUTES {
        let used = report["decoder"]["used"].as_u64().unwrap();
        assert!(used < kept / 4, "{used} beside {kept}");
    }
}

#[test]
fn the_text_says_that_the_limit_does_not_bound_the_decoder() {
    let ran = run(["scan", "--limit", "1GiB", text(&table("parquet"))]);

    let words = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let bounds = "nor the pages and scratch of the decoder in it";
    assert_eq!(words.contains(bounds), ATTRIBUTES, "{words}");
    assert_eq!(ran.out.contains("\n  decoder "), ATTRIBUTES, "{words}");
}

#[test]
fn what_it_says_it_needs_is_the_least_limit_that_does() {
    for format in FORMATS {
        let file = table(format);
        for (keep, need) in [(&["--keep"][..], "kept"), (&[], "batch")] {
            let scan = |limit: &str| {
                let common = [
                    "--json",
                    "scan",
                    "--batch-size",
                    "100",
                    text(&file),
                    "--limit",
                    limit,
                ];
                run(common.iter().chain(keep))
            };
            let refused = scan("1");
            assert_eq!(refused.code, Some(3), "{refused:?}");
            let needed = refused.json()["need"][need].as_u64().unwrap();

            let enough = scan(&needed.to_string());
            let short = scan(&(needed - 1).to_string());

            assert_eq!(enough.code, Some(0), "{format} {need}: {enough:?}");
            assert_eq!(enough.json()["accounted"]["peak"].as_u64(), Some(needed));
            assert_eq!(short.code, Some(3), "{format} {need}: {short:?}");
            assert_eq!(short.json()["need"][need].as_u64(), Some(needed));
            assert_eq!(
                short.json()["rows"].as_u64(),
                Some(ROWS),
                "the rest is measured"
            );
        }
    }
}

#[test]
fn a_refusal_names_who_asked_who_refused_and_what_would_do() {
    let ran = run(["scan", "--keep", "--limit", "100kB", text(&table("csv"))]);

    assert_eq!(ran.code, Some(3), "{ran:?}");
    for words in [
        "✗ Does not fit. `orders.csv/",
        "`scan` had",
        "It would have needed",
        "--limit ",
    ] {
        assert!(ran.out.contains(words), "no `{words}` in {}", ran.out);
    }
}

#[test]
fn every_backend_is_there_by_name() {
    for backend in ["jemalloc", "mimalloc", "system", "arena"] {
        let ran = run([
            "--json",
            "scan",
            "--backend",
            backend,
            text(&table("parquet")),
        ]);

        assert_eq!(ran.json()["backend"]["name"], backend);
    }
}

#[test]
fn only_the_chosen_columns_are_read() {
    for format in FORMATS {
        let file = table(format);
        let ran = run([
            "--json",
            "scan",
            "--columns",
            "o_comment,o_orderkey",
            text(&file),
        ]);

        let report = ran.json();
        assert_eq!(report["files"][0]["columns"], 2, "{format}");
        assert_eq!(report["rows"], ROWS);
    }
}

#[test]
fn adopted_buffers_are_charged_where_they_are() {
    for format in FORMATS {
        let ran = run(["--json", "scan", "--adopt", "--keep", text(&table(format))]);

        let report = ran.json();
        assert_eq!(ran.code, Some(0));
        // Messages are memory of the tree; other decoders allocate their own.
        let from_backend = report["backend"]["peak"].as_u64().unwrap();
        assert_eq!(from_backend > 0, format == "arrow", "{report}");
        assert!(
            report["accounted"]["used"].as_u64().unwrap() > 100_000,
            "{report}"
        );
    }
}

#[test]
fn files_are_read_one_after_the_other_into_one_tree() {
    let (parquet, csv) = (table("parquet"), table("csv"));
    let report = run(["--json", "scan", text(&parquet), text(&csv)]).json();

    assert_eq!(report["rows"], 2 * ROWS);
    let tree = report["tree"].as_array().unwrap();
    let files = tree.iter().filter(|row| row["depth"] == 1);
    assert_eq!(files.count(), 2);
    assert!(
        tree.iter()
            .all(|row| row["name"].as_str().unwrap().contains("(decoding)")
                || row["peak"].as_u64().unwrap() > 0)
    );
}

#[test]
fn a_csv_file_with_a_header_and_no_rows_is_read() {
    let path = directory("no-rows").join("empty.csv");
    fs::write(&path, "a,b\n").unwrap();

    let ran = run(["scan", text(&path)]);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("0 rows, 2 columns"), "{}", ran.out);
}

//! The need of adopted buffers that batches share.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

use std::path::Path;

use crate::files;
use crate::program::{Ran, directory, run, text};

fn scan(file: &Path, options: &[&str]) -> Ran {
    run(["--json", "scan", "--adopt", text(file)]
        .iter()
        .chain(options))
}

fn need(ran: &Ran, which: &str) -> u64 {
    ran.json()["need"][which].as_u64().unwrap()
}

/// Dictionaries and the pages that views point to are shared by batches, and are charged once.
#[test]
fn what_batches_share_is_needed_once() {
    let directory = directory("adopt");
    for format in ["parquet", "arrow", "arrows"] {
        let file = files::write(
            &directory.join(format!("shared.{format}")),
            &files::batches(),
        );
        for batch_size in ["100", "777"] {
            let keep = |limit: u64| {
                let limit = limit.to_string();
                scan(
                    &file,
                    &["--keep", "--batch-size", batch_size, "--limit", &limit],
                )
            };
            let unlimited = scan(&file, &["--keep", "--batch-size", batch_size]);
            let needed = need(&unlimited, "kept");
            let peak = unlimited.json()["accounted"]["peak"].as_u64().unwrap();

            assert_eq!(needed, peak, "{format} {batch_size}");
            assert_eq!(keep(needed).code, Some(0), "{format} {batch_size}");
            for limit in [needed - 1, needed * 2 / 3, needed / 3, 1000, 1] {
                let refused = keep(limit);
                assert_eq!(refused.code, Some(3), "{format} {limit}");
                assert_eq!(
                    need(&refused, "kept"),
                    needed,
                    "{format} {batch_size} {limit}"
                );
            }
            if format == "parquet" {
                let passing = scan(&file, &["--batch-size", batch_size]);
                assert_eq!(need(&passing, "kept"), needed, "{batch_size}");
            }
        }
    }
}

#[test]
fn a_batch_at_a_time_needs_what_it_says_however_it_is_read() {
    let directory = directory("adopt-batch");
    for format in ["parquet", "arrow", "arrows"] {
        let file = files::write(
            &directory.join(format!("shared.{format}")),
            &files::batches(),
        );
        let needed = need(&scan(&file, &["--batch-size", "100"]), "batch");
        let limited = |limit: u64| {
            let limit = limit.to_string();
            scan(&file, &["--batch-size", "100", "--limit", &limit])
        };

        assert_eq!(limited(needed).code, Some(0), "{format}");
        for limit in [needed - 1, needed / 2, 1] {
            let refused = limited(limit);
            assert_eq!(refused.code, Some(3), "{format} {limit}");
            assert_eq!(need(&refused, "batch"), needed, "{format} {limit}");
        }
    }
}

#[test]
fn the_advice_of_a_refusal_is_enough() {
    let directory = directory("adopt-advice");
    let file = files::write(&directory.join("shared.parquet"), &files::batches());
    let scan = |limit: &str| {
        let options = [
            "--adopt",
            "--keep",
            "--columns",
            "view",
            "--batch-size",
            "100",
        ];
        run(["scan", text(&file), "--limit", limit]
            .iter()
            .chain(&options))
    };

    let refused = scan("100KiB").out;
    let advised = refused.split("Give it --limit ").nth(1).unwrap();
    let advised = advised.split([' ', ',', '.']).next().unwrap();

    assert_eq!(scan(advised).code, Some(0), "{advised}: {refused}");
    assert!(
        advised.ends_with("KiB"),
        "the table has 400 KB of strings: {advised}"
    );
}

/// All columns of a batch of Arrow IPC share one message.
#[test]
fn columns_that_share_a_message_are_told_by_their_parts() {
    let directory = directory("adopt-message");
    let file = files::write(&directory.join("shared.arrow"), &files::batches());

    let tree = scan(&file, &["--keep"]).json()["tree"].clone();
    let text = run(["scan", "--adopt", "--keep", text(&file)]).out;

    let row = |name: &str| {
        let rows = tree.as_array().unwrap();
        let found = rows
            .iter()
            .find(|row| row["name"].as_str().unwrap().ends_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {tree}"))
            .clone()
    };
    let messages = row("(messages)")["used"].as_u64().unwrap();
    let parts: u64 = ["id", "view", "dictionary", "s"]
        .map(|name| row(name)["part"].as_u64().unwrap())
        .iter()
        .sum();
    assert!(row("id")["part"].as_u64() == Some(80_000), "{tree}");
    assert!(
        messages * 9 / 10 < parts && parts < messages * 2,
        "{messages} {parts}"
    );
    assert!(text.contains("(78.1 KiB)"), "{text}");
    assert!(
        text.contains("Columns in messages share their memory"),
        "{text}"
    );
}

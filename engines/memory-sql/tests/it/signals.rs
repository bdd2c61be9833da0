//! Ctrl-C, and the signal to terminate.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{Ran, command};

/// Takes hours.
const LONG: &str = "SELECT sum(value % 7) FROM generate_series(1, 10000000000000)";

fn start(arguments: &[&str]) -> Child {
    let mut child = command();
    child
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    child.spawn().unwrap()
}

/// Gives the program time to begin its query, a hundred times as long as it needs.
#[expect(
    clippy::disallowed_methods,
    reason = "the program says nothing before its query has ended"
)]
fn let_it_begin() {
    thread::sleep(Duration::from_millis(1500));
}

fn signal(name: &str, child: &Child) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_signal_cancels_the_query_and_the_report_is_printed() {
    for name in ["-INT", "-TERM"] {
        let child = start(&["--limit=64MiB", LONG]);
        let_it_begin();
        let begun = Instant::now();

        signal(name, &child);
        let ran = Ran::of(child.wait_with_output().unwrap());

        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.err.contains("cancelled"), "{ran:?}");
        assert!(
            ran.out.contains("cancelled after ") && ran.out.contains("query `query`"),
            "{ran:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn json_says_that_the_query_was_cancelled() {
    let child = start(&["--json", "--limit=64MiB", LONG]);
    let_it_begin();
    signal("-INT", &child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(
        (ran.code, &ran.json()["outcome"]),
        (Some(130), &"cancelled".into()),
        "{ran:?}"
    );
}

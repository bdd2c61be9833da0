//! Environment variables: the accepted words, and the single warning about a wrong one.

use arrow_memory_core::RootAllocator;
use arrow_memory_manager::{DEBUG_POOL_VARIABLE, backend};
use arrow_memory_system as _;

use crate::children;
use crate::subscriber::Recorder;

const DEBUG: &str = "ARROW_MEMORY_DEBUG_ALLOCATOR";

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_builds_three_roots() {
    let roots = [0; 3].map(|_| RootAllocator::unlimited());
    println!(
        "debug {}, backend {}.",
        roots[2].is_debug(),
        roots[2].allocation_manager().name()
    );
}

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_builds_three_roots_and_listens() {
    let heard = Recorder::record(child_that_builds_three_roots);
    println!("heard {heard:?}");
}

/// The child's standard output, and its standard error.
fn run(test: &str, variables: &[(&str, &str)]) -> (String, String) {
    let output = children::run(&format!("environment::{test}"), variables);
    let stderr = children::stderr(&output);
    assert!(output.status.success(), "{stderr}");
    (children::stdout(&output), stderr)
}

fn is_debug(word: &str) -> bool {
    let (stdout, stderr) = run("child_that_builds_three_roots", &[(DEBUG, word)]);
    assert_eq!(stderr, "", "{word}");
    stdout.contains("debug true")
}

#[test]
fn words_for_on_and_off_turn_debug_mode_on_and_off_in_silence() {
    for word in ["1", "on", "TRUE", "Yes"] {
        assert!(is_debug(word), "{word}");
    }
    for word in ["", "0", "OFF", "false", "no"] {
        assert!(!is_debug(word), "{word}");
    }
}

#[test]
fn a_word_that_is_neither_is_told_once_on_standard_error_without_a_subscriber() {
    let variables = [
        (DEBUG, "maybe"),
        (backend::DEFAULT_POOL_VARIABLE, "jemallocc"),
        (DEBUG_POOL_VARIABLE, "lo\u{1b}ud"),
    ];

    let (stdout, stderr) = run("child_that_builds_three_roots", &variables);

    assert!(stdout.contains("debug false, backend std."), "{stdout}");
    assert_eq!(
        stderr,
        "ARROW_DEFAULT_MEMORY_POOL names `jemallocc`, which is not linked into this program; \
         supported are: std, system\n\
         ARROW_DEBUG_MEMORY_POOL is ignored: `lo\\u{1b}ud` is none of abort, trap, warn and none\n\
         ARROW_MEMORY_DEBUG_ALLOCATOR is ignored: `maybe` is none of 1, on, true, yes and 0, off, \
         false, no\n"
    );
}

#[test]
fn with_a_subscriber_it_is_told_there_and_not_on_standard_error() {
    let variables = [(DEBUG, "maybe"), (DEBUG_POOL_VARIABLE, "OFF")];

    let (stdout, stderr) = run("child_that_builds_three_roots_and_listens", &variables);

    let warning = "WARN ARROW_MEMORY_DEBUG_ALLOCATOR is ignored: `maybe` is none of";
    assert_eq!(stdout.matches(warning).count(), 1, "{stdout}");
    assert_eq!(stderr, "");
}

#[test]
fn a_backend_is_found_in_any_case_of_letters() {
    let variables = [(backend::DEFAULT_POOL_VARIABLE, "System")];

    let (stdout, stderr) = run("child_that_builds_three_roots", &variables);

    assert!(stdout.contains("backend system."), "{stdout}");
    assert_eq!(stderr, "");
}

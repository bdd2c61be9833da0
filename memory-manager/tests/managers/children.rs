//! Runs the second half of a test in a child process, with another environment or until it aborts.

use std::env;
use std::process::{Command, Output};

/// Runs an `#[ignore]`d test of this binary in a child process with these variables.
pub(crate) fn run(test: &str, variables: &[(&str, &str)]) -> Output {
    let this = env::current_exe().expect("tests have a binary");
    Command::new(this)
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env_remove("ARROW_DEFAULT_MEMORY_POOL")
        .env_remove("ARROW_DEBUG_MEMORY_POOL")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary can be run")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! Processes that this program starts of itself, and that end when it does.
//!
//! Such a process has its standard input on a pipe, of which the one that started it holds the other
//! end and writes nothing. When that process ends, by whatever signal, the system closes its end.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

/// A command that starts this program again, by [`output`] or [`status`]. The child ends when this
/// process does.
pub(crate) fn again(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env(VARIABLE, "1").stdin(Stdio::piped());
    command
}

/// Runs the command and collects what it prints.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    while_held(command, Child::wait_with_output)
}

/// Runs the command, which prints where this process does.
pub(crate) fn status(command: &mut Command) -> io::Result<ExitStatus> {
    while_held(command, |mut child| child.wait())
}

/// Waiting closes the child's standard input, unless that was taken from it.
fn while_held<T>(
    command: &mut Command,
    wait: impl FnOnce(Child) -> io::Result<T>,
) -> io::Result<T> {
    let mut child = command.spawn()?;
    let held = child.stdin.take();
    let waited = wait(child);
    drop(held);
    waited
}

/// Ends this process, with exit code 1, when the one that started it by [`again`] ends.
///
/// Does nothing in a process that a person started.
pub(crate) fn watch() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let until_closed = || {
        let mut byte = [0];
        // Nothing is ever written: both the end and an error mean that the other side is gone.
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        std::process::exit(1);
    };
    // Without the thread the process works all the same; it outlives a parent that is killed.
    let _ = thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(until_closed);
}

/// Set for children only.
const VARIABLE: &str = "ARROW_MEMORY_CHILD";

//! Child processes that run this program and end when their parent does.
//!
//! The standard input of such a process is a pipe. The parent holds the other end and writes nothing. When
//! the parent ends, by whatever signal, the system closes that end.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

/// A command that runs this program again, to pass to [`output`] or [`status`]. The child ends when this
/// process does.
pub(crate) fn again(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env(VARIABLE, "1").stdin(Stdio::piped());
    command
}

/// Runs the command and collects its output.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    while_held(command, Child::wait_with_output)
}

/// Runs the command, which prints to this process's standard output.
pub(crate) fn status(command: &mut Command) -> io::Result<ExitStatus> {
    while_held(command, |mut child| child.wait())
}

/// Takes the child's standard input first, since waiting for the child would close it.
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

/// Ends this process, with exit code 1, when the parent that started it by [`again`] ends.
///
/// Does nothing in a process that was not started by [`again`].
pub(crate) fn watch() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let until_closed = || {
        let mut byte = [0];
        // The parent never writes: both the end of the input and an error mean that it has ended.
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        std::process::exit(1);
    };
    // Without the thread the process works, but outlives a parent that is killed.
    let _ = thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(until_closed);
}

/// The variable that [`again`] sets for its children.
const VARIABLE: &str = "ARROW_MEMORY_CHILD";

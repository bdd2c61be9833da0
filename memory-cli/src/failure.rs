//! The failure of a command: one line for people, an exit code for scripts.

use std::fmt;
use std::process::ExitCode;

use crate::text::is_harmful;

/// The error of a command.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

/// The cause of a failure, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file, or the machine.
    Environment = 1,
    /// The arguments on the command line.
    Usage = 2,
    /// A bug in this program: memory stayed charged.
    Bug = 70,
}

/// The exit code of a scan that its limit stopped.
pub(crate) const DOES_NOT_FIT: u8 = 3;

impl Failure {
    /// A failure that a file or the machine caused.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::of(Kind::Environment, message)
    }

    /// A failure that the command line caused.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::of(Kind::Usage, message)
    }

    /// A failure that a bug in this program caused.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::of(Kind::Bug, message)
    }

    fn of(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: one_line(&message.into()),
        }
    }

    /// The same failure, with its message starting with `subject`.
    pub(crate) fn about(self, subject: impl fmt::Display) -> Self {
        Self {
            message: format!("{subject}: {}", self.message),
            ..self
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The text without line breaks, runs of blanks, and characters that a terminal would interpret rather than
/// show. Long texts are cut.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;

    let plain = text.replace(is_harmful, " ");
    let mut line = String::with_capacity(plain.len());
    for word in plain.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST).collect();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_a_library_said() {
        let failure = Failure::new("a\n  b\tc\r\n\u{1b}[1m\u{202e}");

        assert_eq!(failure.to_string(), "a b c [1m");
        assert!(one_line(&"x".repeat(10_000)).len() < 1000);
    }
}

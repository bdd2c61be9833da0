//! Why the program ends otherwise than well: a line for people, an exit code for scripts.

use std::fmt;
use std::process::ExitCode;

/// A query, a file or the machine was at fault.
pub(crate) const FAILED: u8 = 1;
/// The command line was.
pub(crate) const USAGE: u8 = 2;
/// The query was refused memory.
pub(crate) const REFUSED: u8 = 3;
/// Memory was not given back: a bug.
pub(crate) const BUG: u8 = 70;
/// The query was cancelled, by Ctrl-C or a signal to terminate.
pub(crate) const CANCELLED: u8 = 130;

/// An error that ends the program.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure that the query, a file or the machine caused.
    pub(crate) fn new(message: impl AsRef<str>) -> Self {
        Self::of(FAILED, message)
    }

    /// A failure that the command line caused.
    pub(crate) fn usage(message: impl AsRef<str>) -> Self {
        Self::of(USAGE, message)
    }

    pub(crate) fn of(code: u8, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref());
        Self { code, message }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The text without line breaks, runs of blanks and control characters. A long text is cut.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;

    let plain = text.replace(char::is_control, " ");
    let words: Vec<&str> = plain.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_a_library_said() {
        let failure = Failure::new("a\n  b\tc\r\n\u{1b}[1m");
        assert_eq!(failure.to_string(), "a b c [1m");
        assert!(one_line(&"x".repeat(10_000)).chars().count() == 601);
    }
}

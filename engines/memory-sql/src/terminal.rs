//! Writes for people: styles if there is a terminal, lines as wide as it is.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// Emphasis, if standard output is a terminal and `NO_COLOR` is not set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    pub(crate) fn stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            on: io::stdout().is_terminal() && !unwanted,
        }
    }

    /// A style without emphasis.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn accent(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.on {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Returns the width of lines on standard output, from `COLUMNS` or the terminal. `None` if it has none: a file or a pipe.
pub(crate) fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok();
    let said = said.and_then(|columns| columns.parse().ok());
    let terminal = console::Term::stdout();
    let found = || Some(usize::from(terminal.size_checked()?.1));
    said.or_else(found).filter(|&columns| columns > 0)
}

/// Writes to standard output. It is no failure if the reader has closed it, as `head` does.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Writes one JSON document to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => Err(Failure::new(format!("the result is no JSON: {error}"))),
    }
}

/// Writes a line to standard error in one write, so that no other output splits it.
pub(crate) fn say(line: &str) {
    // If this fails, there is no place to report it.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

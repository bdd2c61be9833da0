//! Writes for people: styles if there is a terminal, progress on standard error.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(crate) fn accent(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The width of a line in cells, from `COLUMNS` or the terminal, or a default that fits nearly all lines.
pub(crate) fn width() -> usize {
    /// The default, wide enough for long names in a file or a pager.
    const ELSEWHERE: usize = 120;
    /// The minimum width that can be read.
    const NARROWEST: usize = 40;

    let said = std::env::var("COLUMNS").ok();
    let said = said
        .and_then(|columns| columns.parse().ok())
        .filter(|&columns| columns > 0);
    let found = || {
        let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(usize::from(columns)).filter(|&columns| columns > 0)
    };
    said.or_else(found).unwrap_or(ELSEWHERE).max(NARROWEST)
}

/// Writes to standard output. It is no failure if the reader closed it, as `head` does.
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

/// Writes one JSON document, as [`print`] writes text.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => Err(Failure::bug(format!("the report is no JSON: {error}"))),
    }
}

/// Prints a line to standard error in one write, so that no other output splits it.
pub(crate) fn say(line: &str) {
    // If this fails, there is no place to report it.
    let _ = io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

/// A bar of `total` steps on standard error if that is a terminal, or a spinner if the total is unknown.
pub(crate) fn progress(total: Option<u64>, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    bar_of(total, what, "rows")
}

/// A bar like that of [`progress`], for steps that each take a while.
pub(crate) fn steps(total: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    bar_of(Some(total), what, "runs")
}

fn bar_of(total: Option<u64>, what: &str, unit: &str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            format!("{{msg}} {{wide_bar:.cyan}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left"),
        ),
        None => (
            ProgressBar::new_spinner(),
            format!("{{msg}} {{spinner}} {{human_pos}} {unit}, {{elapsed}}"),
        ),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

//! The limits that were found, and the words that say so.

use std::io;

use arrow_memory_core::__private::text::Size;

use super::files::bytes;
use super::level::Level;
use crate::host::Ceiling;

/// What was read while a limit was looked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    limits: Vec<(usize, Level, String)>,
    /// Files that say that there is no limit.
    unlimited: Vec<String>,
    /// Files that could not be read, or made no sense.
    unread: Vec<String>,
    /// Whatever else the reader should know.
    notes: Vec<String>,
}

impl Found {
    pub(super) fn limit(&mut self, level: Level, what: String, bytes: usize) {
        self.limits.push((bytes, level, what));
    }

    /// Takes the text of a limit, which need not be a number.
    pub(super) fn number(&mut self, level: Level, what: String, text: &str) {
        match text.parse::<u64>() {
            Ok(number) if number >= UNLIMITED => self.no_limit(what),
            Ok(number) => self.limit(level, what, bytes(number)),
            Err(_) => self.not_read(format!("{what} (`{}` is no number)", text.escape_debug())),
        }
    }

    pub(super) fn no_limit(&mut self, what: String) {
        self.unlimited.push(what);
    }

    pub(super) fn not_read(&mut self, what: String) {
        self.unread.push(what);
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The smallest limit; of equal ones the one that was found first.
    pub(super) fn least(mut self) -> io::Result<Ceiling> {
        self.limits.sort_by_key(|(bytes, _, _)| *bytes);
        let mut words: Vec<String> = self
            .limits
            .iter()
            .map(|(bytes, _, what)| format!("{what}: {}", Size(*bytes)))
            .collect();
        let decided = (!words.is_empty()).then(|| words.remove(0));
        let mut source = decided.clone().unwrap_or_default();
        for (title, list) in [
            ("larger", &words),
            ("no limit in", &self.unlimited),
            ("not read", &self.unread),
        ] {
            if !list.is_empty() {
                source += &format!("; {title}: {}", list.join(", "));
            }
        }
        for note in &self.notes {
            source += &format!("; {note}");
        }
        match self.limits.into_iter().next() {
            Some((bytes, level, _)) => Ok(Ceiling {
                bytes,
                level,
                source,
            }),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the host says no limit of its memory; set a limit in bytes{source}"),
            )),
        }
    }
}

/// From here on a limit means that there is none: version 1 of cgroups says `i64::MAX`, rounded down to a page.
const UNLIMITED: u64 = i64::MAX as u64 & !0xFFFF;

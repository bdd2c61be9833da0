//! The limits that were found, and the words that say so.

use std::io;

use arrow_memory_core::__private::text::Size;

use super::files::bytes;
use super::level::Level;
use crate::host::{Ceiling, Ceilings};

/// What was read while a limit was looked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// A limit that has no level is one of which nobody says how much is used.
    limits: Vec<(usize, Option<Level>, String)>,
    /// Files that say that there is no limit.
    unlimited: Vec<String>,
    /// Files that could not be read, or made no sense.
    unread: Vec<String>,
    /// Whatever else the reader should know.
    notes: Vec<String>,
}

impl Found {
    pub(super) fn limit(&mut self, level: Level, what: String, bytes: usize) {
        self.limits.push((bytes, Some(level), what));
    }

    /// Takes a limit that matters only if it is smaller than those that were found before. Otherwise it is one of those.
    pub(super) fn limit_if_smaller(&mut self, level: Level, what: String, bytes: usize) {
        let smaller = self.limits.iter().all(|(other, _, _)| bytes < *other);
        self.limits.push((bytes, smaller.then_some(level), what));
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

    /// The limits, in the order of their sizes, and then in that in which they were found.
    pub(super) fn sorted(mut self) -> io::Result<Ceilings> {
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
        let limits = self.limits.into_iter();
        let mut levels =
            limits.filter_map(|(bytes, level, _)| level.map(|level| Ceiling { bytes, level }));
        match levels.next() {
            Some(least) => {
                let mut larger: Vec<Ceiling> = Vec::new();
                for ceiling in levels.filter(|ceiling| ceiling.level != Level::Physical) {
                    let same = |other: &Ceiling| other.level == ceiling.level;
                    if !same(&least) && !larger.iter().any(same) {
                        larger.push(ceiling);
                    }
                }
                Ok(Ceilings {
                    least,
                    larger,
                    source,
                })
            }
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the host says no limit of its memory; set a limit in bytes{source}"),
            )),
        }
    }
}

/// From here on a limit means that there is none: version 1 of cgroups says `i64::MAX`, rounded down to a page.
pub(super) const UNLIMITED: u64 = i64::MAX as u64 & !0xFFFF;

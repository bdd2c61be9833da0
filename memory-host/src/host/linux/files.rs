//! Reading the small files of `/proc` and `/sys`, or of a directory that stands for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where absolute paths lead to.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Stands for `/` in tests.
    root: Option<PathBuf>,
}

impl Files {
    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        let root = Some(root.to_owned());
        Self { root }
    }

    /// Reads a whole file, whose path is absolute.
    pub(super) fn read(&self, path: &Path) -> io::Result<String> {
        let bytes = match &self.root {
            None => fs::read(path)?,
            Some(root) => fs::read(root.join(path.strip_prefix("/").unwrap_or(path)))?,
        };
        // A file that is not text has no number at the place where one is looked for.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The number after `name` in a file of lines `name number …`, such as `memory.stat`.
    pub(super) fn field(&self, path: &Path, name: &str) -> Option<usize> {
        field(&self.read(path).ok()?, name)
    }
}

/// The number after `name` in a text of lines `name number …`; a colon may follow the name.
pub(super) fn field(text: &str, name: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        rest.starts_with([' ', '\t']).then_some(rest)
    })?;
    let mut words = rest.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let unit = if words.next() == Some("kB") { 1024 } else { 1 };
    Some(bytes(number.saturating_mul(unit)))
}

/// A number of bytes as `usize`; what does not fit is unlimited.
pub(super) fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

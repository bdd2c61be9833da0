//! [`HostLimit`]: how much memory this process may use, as the machine says.

use std::fmt;
use std::io;

use arrow_memory_core::__private::text::Bytes;

use crate::host::Machine;

/// A limit in bytes that comes from the machine, for the limit of a root.
///
/// # Examples
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_host::HostLimit;
///
/// # if cfg!(not(target_os = "linux")) { return Ok(()); }
/// // 80 % of what the process may use, without 64 MiB for a cache that no tree counts.
/// let limit = HostLimit::read()?.fraction(0.8).minus(64 << 20);
/// println!("{limit}");
/// let root = RootAllocator::builder().limit(limit.bytes()).build()?;
/// assert_eq!(root.limit(), limit.bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimit {
    bytes: usize,
    source: String,
}

impl HostLimit {
    /// Reads the limits of the machine, and takes the smallest: those of the process's cgroup and of every cgroup
    /// above it that can be seen (versions 1 and 2; `memory.high` counts as a limit), the soft resource limits of
    /// address space and data, and the physical memory.
    ///
    /// Limits of cgroups above the root of the process's cgroup namespace cannot be seen, but for version 1, which
    /// computes them into a file. Two processes in one cgroup both get its whole limit: take a
    /// [`fraction`](Self::fraction) in each. Reads a few small files.
    ///
    /// # Errors
    ///
    /// * [`Unsupported`](io::ErrorKind::Unsupported) on platforms other than Linux.
    /// * [`NotFound`](io::ErrorKind::NotFound) if no limit can be read at all; the message has what was tried.
    pub fn read() -> io::Result<Self> {
        Self::of(&Machine::default())
    }

    /// The limit of a machine, which a test may have made up.
    pub(crate) fn of(machine: &Machine) -> io::Result<Self> {
        let limits = machine.limits()?;
        Ok(Self {
            bytes: limits.least.bytes,
            source: limits.source,
        })
    }

    /// Takes a part of the limit: `fraction` is between 0 and 1. A number outside counts as the closer
    /// of the two, and NaN as 0.
    #[must_use]
    pub fn fraction(mut self, fraction: f64) -> Self {
        self.bytes = part(self.bytes, fraction);
        self.source = format!("{fraction} of ({})", self.source);
        self
    }

    /// Takes `bytes` off the limit, for memory that no tree counts. The limit does not fall below 0.
    #[must_use]
    pub fn minus(mut self, bytes: usize) -> Self {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.source = format!("({}) minus {}", self.source, Bytes(bytes));
        self
    }

    /// Returns the limit in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns in words where the limit comes from: the file that decided, those that say more or nothing, those
    /// that could not be read, and whether there are cgroups that cannot be seen.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// The limit and its source, in one line.
impl fmt::Display for HostLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, from {}", Bytes(self.bytes), self.source)
    }
}

/// A part of a number of bytes.
pub(crate) fn part(bytes: usize, fraction: f64) -> usize {
    // A NaN stays one, and becomes 0.
    (bytes as f64 * fraction.clamp(0.0, 1.0)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_between_nothing_and_all_of_it() {
        let parts = [-1.0, 0.0, 0.5, 1.0, 2.0, f64::NAN, f64::INFINITY];

        assert_eq!(
            parts.map(|fraction| part(1000, fraction)),
            [0, 0, 500, 1000, 1000, 0, 1000]
        );
    }

    #[test]
    fn what_was_taken_is_in_the_words() {
        let limit = HostLimit {
            bytes: 1000,
            source: "a file: 1000".to_owned(),
        };

        let limit = limit.fraction(0.8).minus(300);

        assert_eq!(limit.bytes(), 500);
        assert_eq!(limit.source(), "(0.8 of (a file: 1000)) minus 300 bytes");
        assert_eq!(limit.minus(501).bytes(), 0);
    }
}

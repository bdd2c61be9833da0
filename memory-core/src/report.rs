//! The state of a tree as plain data: what `snapshot()` and a failed `close()` return.

use std::fmt;

use crate::outcome::{AllocatorId, AllocatorInfo};

/// The numbers of one allocator, in bytes. Taken one after another while others work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllocatorStats {
    /// In blocks of the tree's manager that this allocator owns.
    pub own_bytes: usize,
    /// In foreign allocations that this allocator owns.
    pub foreign_bytes: usize,
    /// Charged without a block: external bytes and reservations.
    pub external_bytes: usize,
    /// The largest `allocated_memory` that ever held.
    pub peak_bytes: usize,
    /// How many requests this allocator itself refused, for its limit or because it was closed.
    pub refusals: u64,
    /// Bytes that forced paths charged to it in total, whether or not they fitted.
    pub forced_bytes: u64,
    /// Bytes allocated in total (with `.statistics(true)`).
    pub total_bytes: Option<u64>,
    /// Blocks allocated in total (with `.statistics(true)`).
    pub allocations: Option<u64>,
    /// Allocations that this allocator owns now (with `.statistics(true)`).
    pub live_buffers: Option<u64>,
}

/// One allocator within an [`AllocatorSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SnapshotEntry {
    /// Which allocator.
    pub allocator: AllocatorInfo,
    /// The parent; `None` for the first entry of a root's snapshot.
    pub parent: Option<AllocatorId>,
    /// Levels below the snapshot's first entry.
    pub depth: usize,
    /// Allocated bytes, exact at the instant of the snapshot.
    pub allocated: usize,
    /// Peak of the allocated bytes.
    pub peak: usize,
    /// The limit; above `isize::MAX`: unlimited.
    pub limit: usize,
    /// The initial reservation in bytes.
    pub reservation: usize,
    /// Whether `close` was called.
    pub closed: bool,
    /// The allocator's own numbers.
    pub stats: AllocatorStats,
    /// The sizes of its reservations in bytes.
    pub reservations: Vec<usize>,
}

/// An allocator and all below it, parents before children, at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllocatorSnapshot {
    /// The allocators, parents before children.
    pub entries: Vec<SnapshotEntry>,
}

/// One ledger that was outstanding when an allocator was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutstandingLedger {
    /// Whether the allocation is charged here.
    pub owning: bool,
    /// Whether the memory is foreign.
    pub foreign: bool,
    /// The size of the allocation in bytes.
    pub size: usize,
    /// How many buffers hold it.
    pub references: usize,
}

impl fmt::Display for OutstandingLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owning,
            foreign,
            size,
            references,
        } = self;
        let foreign = if *foreign { ", foreign" } else { "" };
        write!(
            f,
            "owning: {owning}, size: {size}, references: {references}{foreign}"
        )
    }
}

/// What a failed `close` found outstanding. The allocator refuses new work from then on; its
/// bytes stay charged, and it leaves the tree when the last of them goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct CloseError {
    /// The allocator that was to be closed.
    pub allocator: AllocatorInfo,
    /// Bytes allocated from it then.
    pub allocated: usize,
    /// Its initial reservation in bytes.
    pub reservation: usize,
    /// Its peak in bytes.
    pub peak: usize,
    /// Its limit in bytes; above `isize::MAX`: unlimited.
    pub limit: usize,
    /// The direct children that are still in the tree, with the bytes charged for each.
    pub children: Vec<(AllocatorInfo, usize)>,
    /// The ledgers with buffers, largest first.
    pub ledgers: Vec<OutstandingLedger>,
    /// The sizes of the reservations in bytes.
    pub reservations: Vec<usize>,
    /// External bytes that were not released.
    pub external_bytes: usize,
}

impl CloseError {
    /// How many lines of each kind the text lists before it only counts.
    const LISTED: usize = 20;

    /// Buffers that hold the outstanding ledgers.
    pub fn buffers(&self) -> usize {
        self.ledgers.iter().map(|ledger| ledger.references).sum()
    }

    fn list<T>(
        f: &mut fmt::Formatter<'_>,
        items: &[T],
        mut line: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
    ) -> fmt::Result {
        for item in items.iter().take(Self::LISTED) {
            f.write_str("\n    ")?;
            line(f, item)?;
        }
        match items.len().saturating_sub(Self::LISTED) {
            0 => Ok(()),
            more => write!(f, "\n    … and {more} more"),
        }
    }
}

/// `count noun`, with an s where the language wants it.
pub(crate) fn counted(count: usize, noun: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { noun } else { plural })
}

/// A limit as a person reads it.
pub(crate) fn limit_text(limit: usize) -> String {
    if limit > isize::MAX as usize {
        "none".to_owned()
    } else {
        limit.to_string()
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allocator,
            allocated,
            reservation,
            peak,
            ..
        } = self;
        let mut found = Vec::new();
        let mut count = |count, noun, plural| {
            if count > 0 {
                found.push(counted(count, noun, plural));
            }
        };
        count(
            self.children.len(),
            "outstanding child",
            "outstanding children",
        );
        count(self.buffers(), "outstanding buffer", "outstanding buffers");
        count(
            self.reservations.len(),
            "outstanding reservation",
            "outstanding reservations",
        );
        if self.external_bytes > 0 {
            found.push(format!("{} external bytes", self.external_bytes));
        }
        if found.is_empty() {
            // Only seen where buffers went between the decision and the report.
            found.push("memory outstanding".to_owned());
        }
        writeln!(
            f,
            "allocator `{allocator}` closed with {} ({allocated} bytes)",
            found.join(", ")
        )?;
        let limit = limit_text(self.limit);
        writeln!(
            f,
            "Allocator({allocator}) {reservation}/{allocated}/{peak}/{limit} (res/actual/peak/limit)"
        )?;
        write!(f, "  child allocators: {}", self.children.len())?;
        Self::list(f, &self.children, |f, (child, bytes)| {
            write!(f, "Allocator({child}) {bytes} bytes charged")
        })?;
        write!(f, "\n  ledgers: {}", self.ledgers.len())?;
        Self::list(f, &self.ledgers, |f, ledger| {
            let OutstandingLedger {
                owning,
                foreign,
                size,
                references,
            } = ledger;
            let foreign = if *foreign { ", foreign" } else { "" };
            write!(
                f,
                "owning: {owning}, size: {size}, references: {references}{foreign}"
            )
        })?;
        write!(f, "\n  reservations: {}", self.reservations.len())?;
        Self::list(f, &self.reservations, |f, bytes| write!(f, "{bytes} bytes"))
    }
}

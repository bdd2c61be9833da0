//! The state of a tree as plain data: the results of `snapshot()`, `report()` and a failed `close()`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

mod history;
mod tree;

pub(crate) use history::CREATED;
pub use history::{History, HistoryEvent, OutstandingBuffer};
pub use tree::{
    MemoryReport, OutstandingLedger, OutstandingReservation, ReportEntry, RetainedHeap,
};

use crate::outcome::{AllocatorId, AllocatorInfo};
use crate::text::{Bytes, Size};

/// The numbers of one allocator, in bytes. They are read one after another while other threads may change
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllocatorStats {
    /// Bytes of the blocks of the tree's manager that this allocator owns.
    pub own_bytes: usize,
    /// Bytes of the foreign allocations that this allocator owns.
    pub foreign_bytes: usize,
    /// External bytes, which [`allocate_bytes`](crate::BufferAllocator::allocate_bytes) or
    /// [`force_allocate`](crate::BufferAllocator::force_allocate) charged and which were not released.
    pub external_bytes: usize,
    /// Bytes of its [`AllocationReservation`](crate::AllocationReservation)s.
    pub reserved_bytes: usize,
    /// The peak of `allocated_memory`, in bytes.
    pub peak_bytes: usize,
    /// The number of requests that this allocator itself refused, because of its limit or because it was
    /// closed.
    pub refusals: u64,
    /// Bytes that forced charges added to it in total, whether or not they fitted.
    pub forced_bytes: u64,
    /// Bytes that this allocator itself, without those below it, allocated in total; `None` without
    /// `.statistics(true)`.
    #[doc(alias = "total_bytes_allocated")]
    pub total_bytes: Option<u64>,
    /// Blocks that this allocator itself allocated in total; `None` without `.statistics(true)`.
    #[doc(alias = "num_allocations")]
    pub allocations: Option<u64>,
    /// Allocations that this allocator owns now; `None` without `.statistics(true)`.
    pub live_allocations: Option<u64>,
}

/// One allocator within an [`AllocatorSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SnapshotEntry {
    /// The allocator.
    pub allocator: AllocatorInfo,
    /// The parent; `None` for the first entry of a root's snapshot.
    pub parent: Option<AllocatorId>,
    /// The number of levels below the snapshot's first entry.
    pub depth: usize,
    /// The group from [`ChildAllocatorBuilder::group`](crate::ChildAllocatorBuilder::group), if it has
    /// one.
    pub group: Option<Arc<str>>,
    /// Allocated bytes, exact at the instant of the snapshot.
    pub allocated: usize,
    /// The peak of the allocated bytes.
    pub peak: usize,
    /// The limit in bytes; a value above `isize::MAX` means unlimited, and is serialized as `null`.
    #[cfg_attr(feature = "serde", serde(serialize_with = "limit_or_null"))]
    pub limit: usize,
    /// The live reservation in bytes.
    pub reservation: usize,
    /// Bytes that are free below the limit, but withheld for requests that [wait](crate::BufferAllocator::wait).
    pub withheld: usize,
    /// Whether `close` or `retire` was called.
    pub closed: bool,
    /// The allocator's own numbers.
    pub stats: AllocatorStats,
    /// The sizes of its reservations in bytes.
    pub reservations: Vec<usize>,
}

impl SnapshotEntry {
    /// Returns how many bytes are allocated here and below beyond the live reservation, as
    /// [`ReportEntry::undeclared`] does. `None` if the allocator has no reservation.
    pub fn undeclared(&self) -> Option<usize> {
        tree::undeclared(self.allocated, self.reservation)
    }
}

/// An allocator and all below it, parents before children, at one instant.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let _buffer = root.child("scan").build()?.buffer(100)?;
/// for entry in root.snapshot().entries {
///     assert_eq!((entry.allocated, entry.stats.peak_bytes >= 128), (128, true));
/// }
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllocatorSnapshot {
    /// The allocators, parents before children.
    pub entries: Vec<SnapshotEntry>,
    /// The requests of these allocators that wait for memory, the oldest first.
    pub waiters: Vec<WaitingRequest>,
}

/// A request that waits for memory, within an [`AllocatorSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaitingRequest {
    /// The allocator of the request; for an admission, that of the parent.
    pub allocator: AllocatorInfo,
    /// The allocator that lacks room for it.
    pub lacks_room: AllocatorInfo,
    /// The requested bytes.
    pub bytes: usize,
    /// How long it has waited, since its first attempt.
    pub waited: Duration,
    /// Whether a child waits for its reservation.
    pub admission: bool,
    /// Whether room is withheld for it from requests that do not wait, and from younger ones.
    pub withholds: bool,
}

/// The error of a failed `close`, with all that is outstanding. The allocator refuses new work from then
/// on; its bytes stay charged, and it leaves the tree when the last of them is released.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let scan = root.child("scan").build()?;
/// let buffer = scan.buffer_from_slice(&[1; 100])?;
/// let clone = buffer.clone();
/// scan.allocate_bytes(10)?;
/// let error = scan.close().unwrap_err();
/// assert_eq!((error.allocated, error.buffers(), error.external_bytes), (138, 2, 10));
/// assert_eq!((error.ledgers[0].size, error.ledgers[0].references), (128, 2));
/// # scan.release_bytes(10);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
///
/// It prints as a report: a summary line, then what is outstanding, in debug mode with the lines of code
/// that created it. `{:?}` prints the same, so that `close().unwrap()` is readable; `{:#?}` shows the
/// fields.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseError {
    /// The allocator that was to be closed.
    pub allocator: AllocatorInfo,
    /// The bytes allocated from it when `close` failed.
    pub allocated: usize,
    /// Its initial reservation in bytes.
    pub reservation: usize,
    /// Its peak in bytes.
    pub peak: usize,
    /// Its limit in bytes; a value above `isize::MAX` means unlimited.
    pub limit: usize,
    /// The direct children that are still in the tree, with the bytes charged for each.
    pub children: Vec<(AllocatorInfo, usize)>,
    /// The ledgers with buffers: owning ones first, each kind from the largest to the smallest.
    pub ledgers: Vec<OutstandingLedger>,
    /// The sizes of the reservations in bytes.
    pub reservations: Vec<usize>,
    /// External bytes that were not released.
    pub external_bytes: usize,
    /// The sum of the reservations in bytes.
    pub reserved_bytes: usize,
    /// The allocator and all below it, with what is outstanding in each; in debug mode with
    /// histories.
    pub report: MemoryReport,
}

impl CloseError {
    /// Returns the number of buffers that hold the outstanding ledgers.
    pub fn buffers(&self) -> usize {
        self.ledgers.iter().map(|ledger| ledger.references).sum()
    }

    /// Returns the number of buffers whose allocation is charged to another allocator.
    fn charged_elsewhere(&self) -> usize {
        let guests = self.ledgers.iter().filter(|ledger| !ledger.owning);
        guests.map(|ledger| ledger.references).sum()
    }

    /// Names what is outstanding, in a few words.
    fn summary(&self) -> String {
        let kinds = [
            (
                self.children.len(),
                "outstanding child",
                "outstanding children",
            ),
            (self.buffers(), "outstanding buffer", "outstanding buffers"),
            (
                self.reservations.len(),
                "outstanding reservation",
                "outstanding reservations",
            ),
        ];
        let mut found: Vec<String> = kinds
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, many)| counted(count, one, many))
            .collect();
        if self.external_bytes > 0 {
            found.push(format!("{} external bytes", Size(self.external_bytes)));
        }
        if found.is_empty() {
            // Buffers were dropped between the failure and the report.
            found.push("memory outstanding".to_owned());
        }
        found.join(", ")
    }
}

/// Serializes an unlimited limit as `null`: the number that stands for it here is not exact in JavaScript
/// or jq.
#[cfg(feature = "serde")]
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes the field by reference"
)]
fn limit_or_null<S: serde::Serializer>(limit: &usize, serializer: S) -> Result<S::Ok, S::Error> {
    let limited = Some(limit).filter(|&&limit| limit <= isize::MAX as usize);
    serde::Serialize::serialize(&limited, serializer)
}

/// Writes `count noun`, with the plural unless the count is 1.
pub(crate) fn counted(count: usize, noun: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { noun } else { plural })
}

/// Writes a limit for people to read.
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
            report,
            ..
        } = self;
        let (summary, allocated) = (self.summary(), Bytes(*allocated));
        write!(
            f,
            "allocator `{allocator}` closed with {summary} ({allocated})"
        )?;
        let elsewhere = self.charged_elsewhere();
        if elsewhere > 0 {
            let are = if elsewhere == 1 { "is" } else { "are" };
            write!(
                f,
                "; {elsewhere} of the buffers {are} charged elsewhere: a transfer moves the charge, and \
                 the buffer that it was called on stays until it is dropped"
            )?;
        }
        write!(f, "\n{report}")
    }
}

impl Error for CloseError {}

crate::__debug_as_display!(struct CloseError {
    allocator, allocated, reservation, peak, limit, children, ledgers, reservations, external_bytes,
    reserved_bytes, report,
});

//! Who refused a request, and the state of every level up to there: plain data.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::text::Escaped;

/// The identity of an allocator: unique in the process and never used again.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// assert_ne!(root.id(), root.child("scan").build()?.id());
/// assert_eq!(root.id().to_string(), root.id().as_u64().to_string());
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct AllocatorId(pub(crate) NonZeroU64);

impl AllocatorId {
    /// The identity as a number, for logs and exports.
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for AllocatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names an allocator in errors, reports and callbacks. It is plain data and keeps nothing alive.
///
/// Prints as its name, in one line and escaped: control characters, quotes, backslashes and what cannot
/// be seen as in a Rust string literal, `/` and the backtick with a backslash. So a name cannot be
/// taken for a path, cannot end the quotation that it stands in, and cannot command a terminal. The
/// empty name prints as `""`.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let scan = root.child("a/b\n").build()?;
/// assert_eq!(&*scan.info().name, "a/b\n");
/// assert_eq!(scan.info().to_string(), r"a\/b\n");
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllocatorInfo {
    /// The allocator's identity.
    pub id: AllocatorId,
    /// The allocator's name, as it was given; names need not be unique.
    pub name: Arc<str>,
}

impl AllocatorInfo {
    /// Stands for no allocator: foreign memory that was never wrapped.
    pub(crate) fn nobody() -> Self {
        Self {
            id: AllocatorId(NonZeroU64::MAX),
            name: Arc::from("(none)"),
        }
    }
}

impl fmt::Display for AllocatorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.name).fmt(f)
    }
}

/// One level that a request reached, with its numbers at the instant of the refusal, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutcomeEntry {
    /// Which allocator.
    pub allocator: AllocatorInfo,
    /// Its limit; above `isize::MAX`: unlimited.
    pub limit: usize,
    /// What was allocated from it. Exact for the refuser; at the levels below it too.
    pub allocated: usize,
    /// Its initial reservation.
    pub reservation: usize,
    /// What the request asked of this level: less than at the level below where a reservation
    /// covered part of it.
    pub requested: usize,
}

impl fmt::Display for OutcomeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allocator,
            allocated,
            reservation,
            requested,
            ..
        } = self;
        write!(
            f,
            "allocator `{allocator}`: requested {requested}, allocated {allocated}, limit "
        )?;
        if self.limit > isize::MAX as usize {
            f.write_str("none")?;
        } else {
            write!(f, "{}", self.limit)?;
        }
        write!(f, ", reservation {reservation}")
    }
}

/// Why a request was refused: the levels that it reached, leaf first, the refuser last.
///
/// In deep trees only the first levels and the refuser are kept (at most
/// [`MAX_ENTRIES`](Self::MAX_ENTRIES)).
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{AllocError, RootAllocator};
///
/// let root = RootAllocator::new(1000);
/// let scan = root.new_child_allocator("scan", 200, 5000)?;
/// let Err(AllocError::OutOfMemory { outcome, .. }) = scan.buffer(2048) else {
///     panic!("that does not fit");
/// };
/// let levels: Vec<_> = outcome.entries.iter().map(|it| (&*it.allocator.name, it.requested)).collect();
/// assert_eq!(levels, [("scan", 2048), ("ROOT", 1848)]); // the reservation covers 200
/// assert_eq!((outcome.refuser().limit, outcome.headroom()), (1000, 800));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationOutcome {
    /// The levels, leaf first, the refuser last; never empty.
    pub entries: Vec<OutcomeEntry>,
    /// How many levels between the last two entries were left out.
    pub omitted: usize,
}

impl AllocationOutcome {
    /// The most entries that an outcome keeps.
    pub const MAX_ENTRIES: usize = 16;

    /// The allocator that refused.
    pub fn failed_allocator(&self) -> &AllocatorInfo {
        &self.refuser().allocator
    }

    /// The numbers of the allocator that refused.
    #[expect(
        clippy::missing_panics_doc,
        reason = "an outcome is never made without an entry"
    )]
    pub fn refuser(&self) -> &OutcomeEntry {
        self.entries
            .last()
            .expect("an outcome has at least one entry")
    }

    /// Bytes that were left below the refuser's limit; 0 if it was over it.
    pub fn headroom(&self) -> usize {
        let refuser = self.refuser();
        refuser.limit.saturating_sub(refuser.allocated)
    }
}

impl fmt::Display for AllocationOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.entries.len().saturating_sub(1);
        for (index, entry) in self.entries.iter().enumerate() {
            if index == last && self.omitted > 0 {
                writeln!(f, "  ({} levels left out)", self.omitted)?;
            }
            write!(f, "  {entry}")?;
            f.write_str(if index == last { " (refused)" } else { "\n" })?;
        }
        Ok(())
    }
}

//! Who refused a request, and the state of every level up to there: plain data.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::size::{ALIGNMENT, checked_round_up};
use crate::text::{Bytes, Escaped, Limit, Size};

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
#[doc(alias = "AllocationOutcomeDetails")]
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
            limit,
            allocated,
            reservation,
            requested,
        } = self;
        let (requested, allocated) = (Size(*requested), Size(*allocated));
        let (limit, reservation) = (Limit(*limit), Size(*reservation));
        write!(
            f,
            "allocator `{allocator}`: requested {requested}, allocated {allocated}, limit {limit}, \
             reservation {reservation}"
        )
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
    /// For a transfer: the allocator whose reservation keeps bytes charged although the memory would
    /// leave it, and how many. They are counted at the refuser already, and would be once more.
    pub kept: Option<(AllocatorInfo, usize)>,
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

/// What the bytes of a refused request were for.
///
/// Prints as what a message says of it beyond the number that the caller gave, which may be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A buffer or a block of that size, or external bytes: there is nothing to add.
    Bytes,
    /// A buffer or a block whose capacity is larger than what was asked for.
    Capacity {
        /// The capacity in bytes: what was asked for, rounded up.
        capacity: usize,
    },
    /// Another capacity for a buffer or a vector.
    Growth {
        /// Its capacity in bytes.
        from: usize,
        /// The capacity that it was to have.
        to: usize,
    },
    /// The reservation of a child that was to be made.
    Child {
        /// The child, which does not exist.
        child: AllocatorInfo,
    },
    /// More bytes for an [`AllocationReservation`](crate::AllocationReservation).
    Reservation {
        /// What it has, in bytes.
        from: usize,
        /// What it was to have.
        to: usize,
    },
    /// What an [`AllocationReservation`](crate::AllocationReservation) lacks to become a buffer.
    ReservedBuffer {
        /// What it has, in bytes.
        reserved: usize,
        /// The capacity that the buffer was to have.
        capacity: usize,
    },
    /// The whole allocation behind a slice.
    Slice {
        /// The length of the slice in bytes.
        length: usize,
        /// The size of the allocation that it keeps alive.
        allocation: usize,
    },
}

impl Purpose {
    /// A request for `size` bytes that became one for `capacity` bytes.
    pub(crate) fn rounded(size: usize, capacity: usize) -> Self {
        if size == capacity {
            Self::Bytes
        } else {
            Self::Capacity { capacity }
        }
    }

    /// What a buffer of `length` bytes on an allocation, of which it may be a slice, asks for.
    pub(crate) fn of_buffer(length: usize, allocation: usize) -> (usize, Self) {
        if length == allocation || checked_round_up(length, ALIGNMENT) == Some(allocation) {
            (length, Self::rounded(length, allocation))
        } else {
            (allocation, Self::Slice { length, allocation })
        }
    }

    /// What a closed allocator refused.
    pub(crate) fn write_refused(
        &self,
        f: &mut fmt::Formatter<'_>,
        requested: usize,
    ) -> fmt::Result {
        match self {
            Self::Child { child } if requested == 0 => write!(f, "child `{child}` refused"),
            Self::Child { child } => {
                let requested = Bytes(requested);
                write!(
                    f,
                    "child `{child}` with a reservation of {requested} refused"
                )
            }
            Self::Slice { length, .. } => {
                self.write_slice(f, "a slice", *length)?;
                f.write_str(" refused")
            }
            Self::Bytes | Self::Capacity { .. } => write!(f, "{} refused", Bytes(requested)),
            _ => write!(f, "{} refused{self}", Bytes(requested)),
        }
    }

    /// A buffer of `length` bytes that was to move.
    pub(crate) fn write_buffer(&self, f: &mut fmt::Formatter<'_>, length: usize) -> fmt::Result {
        match self {
            Self::Slice { .. } => self.write_slice(f, "a buffer", length),
            _ => write!(f, "a buffer of {}{self}", Bytes(length)),
        }
    }

    fn write_slice(&self, f: &mut fmt::Formatter<'_>, noun: &str, length: usize) -> fmt::Result {
        write!(f, "{noun} of {}", Bytes(length))?;
        if let Self::Slice { allocation, .. } = self {
            let allocation = Bytes(*allocation);
            write!(f, ", which keeps an allocation of {allocation} alive,")?;
        }
        Ok(())
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bytes => Ok(()),
            Self::Capacity { capacity } => write!(f, " ({} after rounding)", Size(capacity)),
            Self::Growth { from, to } => {
                let (from, to) = (Bytes(from), Size(to));
                write!(f, " (a buffer of {from} was to have {to})")
            }
            Self::Child { ref child } => write!(f, " for the reservation of child `{child}`"),
            Self::Reservation { from, to } => {
                let (from, to) = (Bytes(from), Size(to));
                write!(f, " (a reservation of {from} was to have {to})")
            }
            Self::ReservedBuffer { reserved, capacity } => {
                let (reserved, capacity) = (Bytes(reserved), Size(capacity));
                write!(
                    f,
                    " (a reservation of {reserved} was to become a buffer of {capacity})"
                )
            }
            Self::Slice { length, allocation } => {
                let (length, allocation) = (Bytes(length), Bytes(allocation));
                write!(
                    f,
                    " for a slice of {length}, which keeps an allocation of {allocation} alive"
                )
            }
        }
    }
}

//! The refuser of a request, and the state of every level up to it, as plain data.

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
    /// Returns the identity as a number, for logs and exports.
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for AllocatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name and the identity of an allocator in errors, reports and callbacks. It is plain data and keeps
/// nothing alive.
///
/// It prints as its name, in one line and escaped: control characters, quotes, backslashes and invisible
/// characters as in a Rust string literal, and `/` and the backtick with a backslash. So a name cannot be
/// mistaken for a path, cannot end the quotation around it, and cannot send commands to a terminal. The
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
    /// The allocator's name from its builder; names need not be unique.
    pub name: Arc<str>,
}

impl AllocatorInfo {
    /// Returns the name of an allocator that was not created, and so has no identity.
    pub(crate) fn unnumbered(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            ..Self::nobody()
        }
    }

    /// Returns a placeholder for no allocator, for foreign memory that was never wrapped.
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

/// One level that a request reached, with its numbers in bytes at the instant of the refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "AllocationOutcomeDetails")]
pub struct OutcomeEntry {
    /// The allocator.
    pub allocator: AllocatorInfo,
    /// Its limit; a value above `isize::MAX` means unlimited.
    pub limit: usize,
    /// The bytes allocated from it. Exact for the refuser, and for the levels below it too.
    pub allocated: usize,
    /// Its live reservation.
    pub reservation: usize,
    /// The bytes that the request needed from this level: fewer than at the level below if a reservation
    /// covered some of them.
    pub requested: usize,
    /// The bytes that are free here, but withheld for requests that [wait](crate::BufferAllocator::wait), or set aside for
    /// [spilling](crate::RootAllocatorBuilder::spill_reserve).
    pub withheld: usize,
}

impl fmt::Display for OutcomeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allocator,
            limit,
            allocated,
            reservation,
            requested,
            withheld,
        } = self;
        let (requested, allocated) = (Size(*requested), Size(*allocated));
        let (limit, reservation) = (Limit(*limit), Size(*reservation));
        write!(
            f,
            "allocator `{allocator}`: requested {requested}, allocated {allocated}, limit {limit}, \
             reservation {reservation}"
        )?;
        if *withheld > 0 {
            write!(f, ", withheld for others {}", Size(*withheld))?;
        }
        Ok(())
    }
}

/// The reason of a refusal: the levels that the request reached, the leaf first and the refuser last.
///
/// For deep trees it has only the first levels and the refuser, [`MAX_ENTRIES`](Self::MAX_ENTRIES) at
/// most.
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
    /// The levels, the leaf first and the refuser last; never empty.
    pub entries: Vec<OutcomeEntry>,
    /// The number of levels that were left out between the last two entries.
    pub omitted: usize,
    /// For a transfer: an allocator whose reservation keeps bytes charged although the memory would leave
    /// it, and how many. The refuser counts these bytes already, and would count them a second time.
    pub kept: Option<(AllocatorInfo, usize)>,
    /// Whether the request can never be granted: see [`AllocError::retry`](crate::AllocError::retry).
    pub(crate) never: bool,
}

impl AllocationOutcome {
    /// The maximum number of entries of an outcome.
    pub const MAX_ENTRIES: usize = 16;

    /// Returns the allocator that refused.
    pub fn failed_allocator(&self) -> &AllocatorInfo {
        &self.refuser().allocator
    }

    /// Returns the numbers of the allocator that refused.
    #[expect(clippy::missing_panics_doc, reason = "every outcome has an entry")]
    pub fn refuser(&self) -> &OutcomeEntry {
        self.entries
            .last()
            .expect("an outcome has at least one entry")
    }

    /// Returns the bytes that were left below the refuser's limit for this request; 0 if it was over its limit.
    pub fn headroom(&self) -> usize {
        let refuser = self.refuser();
        let free = refuser.limit.saturating_sub(refuser.allocated);
        free.saturating_sub(refuser.withheld)
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

/// The purpose of the bytes of a refused request.
///
/// It prints as the part of an error message that follows the requested bytes, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A buffer or a block of the requested size, or external bytes: it prints as nothing.
    Bytes,
    /// A buffer or a block whose capacity is larger than the requested size.
    Capacity {
        /// The capacity in bytes: the requested size, rounded up.
        capacity: usize,
    },
    /// A new capacity for a buffer or a vector.
    Growth {
        /// The current capacity in bytes.
        from: usize,
        /// The new capacity in bytes.
        to: usize,
    },
    /// The reservation of a new child.
    Child {
        /// The child, which was not created.
        child: AllocatorInfo,
    },
    /// A higher live reservation for an allocator.
    LiveReservation {
        /// The allocator.
        allocator: AllocatorInfo,
        /// Its reservation in bytes.
        from: usize,
        /// The new reservation in bytes.
        to: usize,
    },
    /// More bytes for an [`AllocationReservation`](crate::AllocationReservation).
    Reservation {
        /// The current size in bytes.
        from: usize,
        /// The new size in bytes.
        to: usize,
    },
    /// The bytes that an [`AllocationReservation`](crate::AllocationReservation) lacks to become a
    /// buffer.
    ReservedBuffer {
        /// The size of the reservation in bytes.
        reserved: usize,
        /// The capacity of the buffer in bytes.
        capacity: usize,
    },
    /// The whole allocation behind a slice.
    Slice {
        /// The length of the slice in bytes.
        length: usize,
        /// The size in bytes of the allocation that it keeps alive.
        allocation: usize,
    },
}

impl Purpose {
    /// Returns the purpose of a request for `size` bytes that was rounded up to `capacity` bytes.
    pub(crate) fn rounded(size: usize, capacity: usize) -> Self {
        if size == capacity {
            Self::Bytes
        } else {
            Self::Capacity { capacity }
        }
    }

    /// Returns the requested bytes and the purpose for a buffer of `length` bytes on an allocation, of
    /// which it may be a slice.
    pub(crate) fn of_buffer(length: usize, allocation: usize) -> (usize, Self) {
        if length == allocation || checked_round_up(length, ALIGNMENT) == Some(allocation) {
            (length, Self::rounded(length, allocation))
        } else {
            (allocation, Self::Slice { length, allocation })
        }
    }

    /// Writes the part of an error message that says what a closed allocator refused.
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

    /// Writes the part of an error message about a buffer of `length` bytes that was to be moved.
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
            Self::LiveReservation {
                ref allocator,
                from,
                to,
            } => {
                let (from, to) = (Size(from), Bytes(to));
                write!(
                    f,
                    " (the reservation of `{allocator}` was to rise from {from} to {to})"
                )
            }
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

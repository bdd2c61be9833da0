//! Every error of this crate. Fields, not strings; sizes in bytes.
//!
//! Each variant says whose fault it is: the *caller's*, a *limit's* (worth trying again once
//! memory has been released) or the *environment's*. An error leaves everything as it was.

use std::io;

use crate::manager::ManagerError;
use crate::outcome::{AllocationOutcome, AllocatorInfo};

mod refused;

pub use refused::Refused;

/// Why an allocation was refused. Nothing is charged when one of these returns.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_core::AllocError;
///
/// let scan = root.new_child_allocator("scan", 0, 1000)?;
/// match scan.buffer(2000).unwrap_err() {
///     AllocError::OutOfMemory { requested, outcome } => {
///         assert_eq!((requested, outcome.headroom()), (2048, 1000));
///         assert_eq!(outcome.failed_allocator(), scan.info());
///     }
///     other => panic!("{other}"),
/// }
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// A *limit* stood in the way. Worth trying again once memory has been released.
    #[error(
        "allocator `{}` is out of room: {requested} bytes requested, {} left of its limit of {}\n{outcome}",
        .outcome.failed_allocator(), .outcome.headroom(), .outcome.refuser().limit
    )]
    OutOfMemory {
        /// Bytes asked for, after rounding.
        requested: usize,
        /// Who refused, and the state of each level up to there.
        outcome: Box<AllocationOutcome>,
    },
    /// The *environment's* fault: the backend had no block to give.
    #[error(
        "backend `{manager}` could not serve {requested} bytes for allocator `{allocator}`: {source}"
    )]
    Manager {
        /// The allocator that asked.
        allocator: AllocatorInfo,
        /// The backend's name.
        manager: String,
        /// Bytes asked for, after rounding.
        requested: usize,
        /// What the backend said.
        source: ManagerError,
    },
    /// The allocator's listener refused the request.
    #[error("the listener of allocator `{allocator}` vetoed {requested} bytes: {veto}")]
    Vetoed {
        /// The allocator whose listener refused.
        allocator: AllocatorInfo,
        /// Bytes asked for, after rounding.
        requested: usize,
        /// The listener's reason.
        veto: crate::listener::Veto,
    },
    /// The *caller's* fault: this allocator, or one whose memory it would need, is closed.
    #[error("allocator `{allocator}` is closed: {requested} bytes refused")]
    Closed {
        /// The closed allocator.
        allocator: AllocatorInfo,
        /// Bytes asked for, after rounding.
        requested: usize,
    },
    /// The *caller's* fault: the size, or a sum with it, is above `isize::MAX`.
    #[error("{requested} bytes requested from allocator `{allocator}` do not fit in a signed size")]
    SizeOverflow {
        /// The allocator whose sum would overflow.
        allocator: AllocatorInfo,
        /// Bytes asked for.
        requested: usize,
    },
    /// The *caller's* fault: alignments are powers of two from 64 bytes to 2 MiB.
    #[error("alignment {alignment} is not a power of two from 64 to 2097152")]
    InvalidAlignment {
        /// The alignment asked for, in bytes.
        alignment: usize,
    },
}

impl AllocError {
    /// The allocator that refused, where one did.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.child("scan").build()?;
    /// let refused = scan.buffer(2 << 20).unwrap_err();
    /// assert_eq!(refused.allocator(), Some(root.info())); // whose limit it is
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn allocator(&self) -> Option<&AllocatorInfo> {
        match self {
            Self::OutOfMemory { outcome, .. } => Some(outcome.failed_allocator()),
            Self::Manager { allocator, .. }
            | Self::Vetoed { allocator, .. }
            | Self::Closed { allocator, .. }
            | Self::SizeOverflow { allocator, .. } => Some(allocator),
            Self::InvalidAlignment { .. } => None,
        }
    }
}

impl From<AllocError> for io::Error {
    fn from(error: AllocError) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// Why a buffer could not be shared with or moved to another allocator. Nothing has changed.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, TransferError};
///
/// let (one, two) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
/// let buffer = one.buffer_from_slice(b"here")?;
/// let refused = buffer.transfer_ownership(&two).unwrap_err();
/// assert!(matches!(refused, TransferError::DifferentRoots { .. }));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The *caller's* fault: the two allocators belong to different trees.
    #[error("allocators `{from}` and `{to}` belong to different roots")]
    DifferentRoots {
        /// The allocator of the buffer.
        from: AllocatorInfo,
        /// The target.
        to: AllocatorInfo,
    },
    /// The *caller's* fault: the target is closed.
    #[error("allocator `{to}` is closed")]
    Closed {
        /// The target.
        to: AllocatorInfo,
    },
    /// A *limit's*: the target has no room (only from `try_transfer_ownership`).
    #[error(
        "a buffer of {bytes} bytes does not fit in allocator `{}`, {} bytes left\n{outcome}",
        .outcome.failed_allocator(), .outcome.headroom()
    )]
    DoesNotFit {
        /// The size of the allocation.
        bytes: usize,
        /// Who refused, and the state of each level up to there.
        outcome: Box<AllocationOutcome>,
    },
    /// The *caller's* fault: a sum would be above `isize::MAX`.
    #[error("the sum of allocator `{to}` and {bytes} bytes does not fit in a signed size")]
    SizeOverflow {
        /// The size of the allocation.
        bytes: usize,
        /// The allocator whose sum would overflow.
        to: AllocatorInfo,
    },
}

impl From<TransferError> for io::Error {
    fn from(error: TransferError) -> Self {
        let kind = match error {
            TransferError::DoesNotFit { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// The *caller's* fault: a range that does not lie inside a buffer.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let buffer = root.buffer_from_slice(&[1; 100])?;
/// let error = buffer.try_slice(99, 2).unwrap_err();
/// assert_eq!((error.offset, error.length, error.available), (99, 2, 100));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at offset {offset} are out of bounds of a buffer of {available} bytes")]
#[non_exhaustive]
pub struct OutOfBounds {
    /// Where the range starts, in bytes.
    pub offset: usize,
    /// How long it is, in bytes.
    pub length: usize,
    /// The length of the buffer, in bytes.
    pub available: usize,
}

impl From<OutOfBounds> for io::Error {
    fn from(error: OutOfBounds) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The *caller's* fault: bytes that cannot be seen as a slice of the type asked for.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_core::CastError;
///
/// let buffer = root.buffer_from_slice(&[1; 9])?;
/// let error = buffer.typed::<u32>().unwrap_err();
/// assert_eq!(error, CastError::PartialItem { length: 9, size: 4 });
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CastError {
    /// The address is not a multiple of the type's alignment.
    #[error("address {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// The address of the first byte.
        address: usize,
        /// The alignment of the type.
        alignment: usize,
    },
    /// The length is not a multiple of the type's size.
    #[error("{length} bytes are not a whole number of items of {size} bytes")]
    PartialItem {
        /// The length of the buffer in bytes.
        length: usize,
        /// The size of the type; 0 for types that have none, which cannot be viewed.
        size: usize,
    },
}

/// The *caller's* fault: a segment that is not a power of two of at least 1024 bytes.
///
/// ```
/// let error = arrow_memory_core::SegmentRoundingPolicy::new(1000).unwrap_err();
/// assert_eq!(error.to_string(), "segment of 1000 bytes is not a power of two from 1024");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment of {segment} bytes is not a power of two from 1024")]
#[non_exhaustive]
pub struct SegmentError {
    /// The segment asked for, in bytes.
    pub segment: usize,
}

/// Why there is no such backend.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{BackendError, RootAllocator};
///
/// let error = RootAllocator::builder().backend("tcmalloc").build().unwrap_err();
/// assert!(matches!(error, BackendError::Unknown { .. }));
/// assert!(error.to_string().contains("linked are: system"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The *caller's* fault: the program links no backend that could be the default.
    #[error(
        "no memory backend is linked: depend on arrow-memory-system, arrow-memory-jemalloc or \
         arrow-memory-mimalloc and add `use arrow_memory_system as _;` (or the like), enable such a \
         feature of arrow-memory, or pass an allocation manager to the root's builder"
    )]
    NoneLinked,
    /// The *caller's* fault: no backend of this name is linked.
    #[error("no memory backend is called `{name}`; linked are: {}", .supported.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// What is linked, preferred first.
        supported: Vec<&'static str>,
    },
    /// The *caller's* fault: the default was set, or used, before.
    #[error("the default memory backend is `{current}` already; set it once, before its first use")]
    AlreadyChosen {
        /// The name of the default in force.
        current: String,
    },
    /// The *environment's*: the backend could not be started.
    #[error("memory backend `{name}` did not start: {source}")]
    Failed {
        /// The backend's name.
        name: &'static str,
        /// What it said.
        source: ManagerError,
    },
}

/// A sum of the tree that does not hold: a bug in this crate, or in the code of a manager.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the books of allocator `{allocator}` are wrong: {problem}")]
#[non_exhaustive]
pub struct VerifyError {
    /// The first allocator, in tree order, whose numbers are wrong.
    pub allocator: AllocatorInfo,
    /// Which rule is broken, with the numbers.
    pub problem: String,
}

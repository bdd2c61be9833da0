//! [`TransferError`]: why a charge was not moved.

use std::error::Error;
use std::fmt;
use std::io;

use crate::outcome::{AllocationOutcome, AllocatorInfo, Purpose};
use crate::text::{Bytes, Size};

/// Why a buffer could not be shared with or moved to another allocator. Nothing has changed.
///
/// `{}` is one line. `{:#}` adds the state of each level that the charge reached. `{:?}` is the text of
/// `{:#}`, and `{:#?}` shows the fields.
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
#[derive(Clone)]
#[non_exhaustive]
pub enum TransferError {
    /// The *caller's* fault: the two allocators belong to different trees.
    DifferentRoots {
        /// The allocator of the buffer.
        from: AllocatorInfo,
        /// The target allocator.
        to: AllocatorInfo,
    },
    /// The *caller's* fault: the target is closed.
    Closed {
        /// The target allocator.
        to: AllocatorInfo,
    },
    /// A *limit's* fault: the target has no room. Only methods whose names begin with `try_` return this.
    ///
    /// A reservation may keep the bytes charged at the source. If a level above both allocators then has
    /// no room for them a second time, the outcome's [`kept`](AllocationOutcome::kept) names the owner of
    /// the reservation.
    #[non_exhaustive]
    DoesNotFit {
        /// The size of the allocation, in bytes.
        bytes: usize,
        /// The length of the buffer that was to move, in bytes: a slice keeps its whole allocation.
        length: usize,
        /// The allocator that the buffer belongs to.
        from: AllocatorInfo,
        /// The target allocator.
        to: AllocatorInfo,
        /// The allocator that refused, and the state of each level up to there.
        outcome: Box<AllocationOutcome>,
    },
    /// The *caller's* fault: a sum would be above `isize::MAX`.
    SizeOverflow {
        /// The size of the allocation, in bytes.
        bytes: usize,
        /// The allocator whose sum would overflow.
        to: AllocatorInfo,
    },
}

impl TransferError {
    /// Returns whether a limit left too little room, so that a retry may succeed once memory was
    /// released.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::DoesNotFit { .. })
    }

    /// Changes the length of the buffer that the error describes.
    pub(crate) fn of_length(mut self, len: usize) -> Self {
        if let Self::DoesNotFit { length, .. } = &mut self {
            *length = len;
        }
        self
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DifferentRoots { from, to } => {
                write!(
                    f,
                    "allocators `{from}` and `{to}` belong to different roots"
                )
            }
            Self::Closed { to } => write!(f, "allocator `{to}` is closed"),
            Self::DoesNotFit {
                bytes,
                length,
                from,
                to,
                outcome,
            } => {
                let at = outcome.failed_allocator();
                let (left, limit) = (Size(outcome.headroom()), Size(outcome.refuser().limit));
                let (_, what) = Purpose::of_buffer(*length, *bytes);
                write!(f, "allocator `{at}` is out of room: ")?;
                what.write_buffer(f, *length)?;
                write!(
                    f,
                    " was to move from `{from}` to `{to}`, {left} left of its limit of {limit}"
                )?;
                if let Some((reserved, bytes)) = &outcome.kept {
                    let bytes = Bytes(*bytes);
                    write!(f, "; the reservation of `{reserved}` keeps {bytes} charged")?;
                }
                if f.alternate() {
                    write!(f, "\n{outcome}")?;
                }
                Ok(())
            }
            Self::SizeOverflow { bytes, to } => {
                let bytes = Bytes(*bytes);
                write!(
                    f,
                    "the sum of allocator `{to}` and {bytes} does not fit in a signed size"
                )
            }
        }
    }
}

impl Error for TransferError {}

crate::__debug_as_display!(enum TransferError {
    DifferentRoots { from, to },
    Closed { to },
    DoesNotFit { bytes, length, from, to, outcome },
    SizeOverflow { bytes, to },
});

impl From<TransferError> for io::Error {
    fn from(error: TransferError) -> Self {
        let kind = match error {
            TransferError::DoesNotFit { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

//! Every error of this crate. They have fields rather than strings. Texts give sizes in bytes, and in MiB
//! from 1 MiB on.
//!
//! Each variant says whose fault it is: the *caller's*, a *limit's* (a retry may succeed once memory has
//! been released) or the *environment's*. An error leaves everything as it was.
//!
//! `Display` is one line. `{:#}` adds the rest: the levels that a request reached, and the sources. The
//! one line of an error with a [`source`](Error::source) leaves the source out, so that a program which
//! prints the chain prints nothing twice. A program that calls `unwrap` or returns the error from `main`
//! prints `Debug`: it is the text of `{:#}`, and `{:#?}` shows the fields.

use std::error::Error;
use std::fmt;
use std::io;

use crate::outcome::AllocatorInfo;
use crate::text::{Bytes, Size};

mod alloc;
mod refused;
mod transfer;
mod veto;

pub use alloc::{AllocError, Retry};
pub use refused::Refused;
pub use transfer::TransferError;
pub use veto::Veto;

pub(crate) use arrow_memory_manager::__private::{OneLine, write_sources};

/// The *caller's* fault: a range that is not within a buffer.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let buffer = root.buffer_from_slice(&[1; 100])?;
/// let error = buffer.try_slice(99, 2).unwrap_err();
/// assert_eq!((error.offset, error.length, error.available), (99, 2, 100));
/// let error = root.buffer(1000)?.get::<u32>(0).unwrap_err(); // a new buffer has a length of 0
/// assert_eq!(
///     error.to_string(),
///     "4 bytes at offset 0 of a buffer lie beyond the 0 bytes of its length; capacity 1024"
/// );
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfBounds {
    /// The start of the range, in bytes.
    pub offset: usize,
    /// The length of the range, in bytes.
    pub length: usize,
    /// The length of the buffer, in bytes.
    pub available: usize,
    /// The capacity of a buffer that can grow, in bytes; `None` for any other buffer. The bytes from its
    /// length to its capacity are allocated, but not written.
    pub capacity: Option<usize>,
}

impl OutOfBounds {
    /// Checks that a range is within `available` bytes.
    #[inline]
    pub(crate) fn check(offset: usize, length: usize, available: usize) -> Result<(), Self> {
        match offset.checked_add(length) {
            Some(end) if end <= available => Ok(()),
            _ => Err(Self {
                offset,
                length,
                available,
                capacity: None,
            }),
        }
    }

    /// Adds the capacity of a buffer that can grow.
    #[cold]
    pub(crate) fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = Some(capacity);
        self
    }
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            length,
            available,
            capacity,
        } = *self;
        let (length, available) = (Bytes(length), Bytes(available));
        match capacity {
            None => write!(
                f,
                "{length} at offset {offset} are out of bounds of a buffer of {available}"
            ),
            Some(capacity) => write!(
                f,
                "{length} at offset {offset} of a buffer lie beyond the {available} of its length; \
                 capacity {}",
                Size(capacity)
            ),
        }
    }
}

impl Error for OutOfBounds {}

crate::__debug_as_display!(struct OutOfBounds { offset, length, available, capacity });

impl From<OutOfBounds> for io::Error {
    fn from(error: OutOfBounds) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The *caller's* fault: bytes that cannot be viewed as a slice of the requested type.
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
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CastError {
    /// The address is not a multiple of the type's alignment.
    #[error("address {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// The address of the first byte.
        address: usize,
        /// The alignment of the type, in bytes.
        alignment: usize,
    },
    /// The length is not a multiple of the type's size.
    #[error("{length} bytes are not a whole number of items of {size} bytes")]
    PartialItem {
        /// The length of the buffer, in bytes.
        length: usize,
        /// The size of the type, in bytes; 0 for zero-sized types, which cannot be viewed.
        size: usize,
    },
}

crate::__debug_as_display!(enum CastError {
    Misaligned { address, alignment },
    PartialItem { length, size },
});

/// The *caller's* fault: a segment that is not a power of two, or is smaller than 1024 bytes.
///
/// ```
/// let error = arrow_memory_core::SegmentRoundingPolicy::new(1000).unwrap_err();
/// assert_eq!(error.to_string(), "segment of 1000 bytes is not a power of two from 1024");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("segment of {segment} bytes is not a power of two from 1024")]
#[non_exhaustive]
pub struct SegmentError {
    /// The requested segment, in bytes.
    pub segment: usize,
}

crate::__debug_as_display!(struct SegmentError { segment });

/// A sum of the tree that is wrong: a bug in this crate, or in the code of a manager.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("the books of allocator `{allocator}` are wrong: {problem}")]
#[non_exhaustive]
pub struct VerifyError {
    /// The first allocator, in tree order, whose numbers are wrong.
    pub allocator: AllocatorInfo,
    /// The rule that is broken, with the numbers.
    pub problem: String,
}

crate::__debug_as_display!(struct VerifyError { allocator, problem });

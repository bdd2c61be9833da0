//! [`Refused`]: what an operation would have consumed, and why it did not.

use std::error::Error;
use std::fmt;
use std::io;

use super::TransferError;

/// The error of an operation that consumes a value: the value, as it was, and the reason.
///
/// Take [`value`](Self::value) to try again, or let `?` turn this into its source, or into a boxed error
/// that holds its source: both drop the value. It prints as its source does, so nothing is asked of `T`.
///
/// It is no [`Error`] itself. An error travels, is logged and is kept, and a value that travels with it
/// would stay charged meanwhile, so that its allocator could not be closed. Where an `Error` is asked
/// for (by `anyhow`, for example), write `.map_err(TransferError::from)?`.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let small = root.new_child_allocator("small", 0, 100)?;
/// let buffer = root.buffer_from_slice(&[7; 100])?;
/// let refused = buffer.try_move_to(&small).unwrap_err();
/// assert!(refused.is_out_of_memory());
///
/// small.set_limit(128); // room was made
/// let moved = refused.value.try_move_to(&small)?;
/// assert_eq!((moved.len(), small.allocated_memory()), (100, 128));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Refused<T, E = TransferError> {
    /// What was to be consumed; nothing about it has changed.
    pub value: T,
    /// Why it was refused.
    pub source: E,
}

impl<T, E> Refused<T, E> {
    pub(crate) fn new(value: T, source: E) -> Self {
        Self { value, source }
    }
}

impl<T> Refused<T> {
    /// Whether a limit stood in the way, so that it is worth trying again once memory was released.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.source, TransferError::DoesNotFit { .. })
    }
}

impl<T, E: fmt::Display> fmt::Display for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<T, E: fmt::Debug> fmt::Debug for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<T, E: Error + 'static> From<Refused<T, E>> for Box<dyn Error> {
    /// Drops the value, and boxes the source.
    fn from(refused: Refused<T, E>) -> Self {
        refused.source.into()
    }
}

impl<T, E: Error + Send + Sync + 'static> From<Refused<T, E>> for Box<dyn Error + Send + Sync> {
    /// Drops the value, and boxes the source.
    fn from(refused: Refused<T, E>) -> Self {
        refused.source.into()
    }
}

impl<T> From<Refused<T>> for TransferError {
    /// Drops the value.
    fn from(refused: Refused<T>) -> Self {
        refused.source
    }
}

impl<T, E: Into<io::Error>> From<Refused<T, E>> for io::Error {
    /// Drops the value.
    fn from(refused: Refused<T, E>) -> Self {
        refused.source.into()
    }
}

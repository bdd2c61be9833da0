//! [`Refused`]: a value that an operation did not consume, and the reason.

use std::error::Error;
use std::fmt;
use std::io;

use super::TransferError;

/// The error of an operation that consumes a value: it returns the value unchanged, and the reason.
///
/// Take [`value`](Self::value) to try again. The operator `?` turns this into its source, or into a boxed
/// error that holds its source: both drop the value. It prints as its source does, so `T` needs no trait.
///
/// It is not an [`Error`] itself. Errors are returned through many callers, logged and stored, and a
/// value inside would stay charged as long, so that its allocator could not be closed. If an `Error` is
/// needed (by `anyhow`, for example), write `.map_err(TransferError::from)?`.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let small = root.new_child_allocator("small", 0, 100)?;
/// let buffer = root.buffer_from_slice(&[7; 100])?;
/// let refused = buffer.try_move_to(&small).unwrap_err();
/// assert!(refused.is_out_of_memory());
///
/// small.set_limit(128); // now there is room
/// let moved = refused.value.try_move_to(&small)?;
/// assert_eq!((moved.len(), small.allocated_memory()), (100, 128));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Refused<T, E = TransferError> {
    /// The value that was not consumed, unchanged.
    pub value: T,
    /// The reason.
    pub source: E,
}

impl<T, E> Refused<T, E> {
    pub(crate) fn new(value: T, source: E) -> Self {
        Self { value, source }
    }
}

impl<T> Refused<T> {
    /// Returns whether a limit left too little room, so that a retry may succeed once memory was
    /// released.
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

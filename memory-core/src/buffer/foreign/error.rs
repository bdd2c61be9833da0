//! [`ForeignError`]: a refusal that returns the foreign memory.

use std::error::Error;
use std::fmt;
use std::io;

use super::ForeignAllocation;
use crate::error::AllocError;
use crate::text::Bytes;

/// The error of wrapping foreign memory. Take the allocation to try again, or drop this error, which
/// releases it.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// # use arrow_memory_core::ForeignAllocation;
/// root.set_limit(10);
/// let foreign = ForeignAllocation::from_owner(vec![1; 60]);
/// let refused = root.wrap_foreign_allocation(foreign).unwrap_err();
/// root.set_limit(100); // now there is room
/// let buffer = root.wrap_foreign_allocation(refused.allocation)?;
/// assert_eq!(buffer.len(), 60);
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
///
/// It prints the refusal (`{:#}` with the levels) after the size of the memory. Its
/// [`source`](Error::source) is the source of that refusal.
#[non_exhaustive]
pub struct ForeignError {
    /// The allocation, unchanged.
    pub allocation: ForeignAllocation,
    /// The reason.
    pub source: AllocError,
}

impl ForeignError {
    /// Returns whether memory was short, as [`AllocError::is_out_of_memory`] says of the reason.
    pub fn is_out_of_memory(&self) -> bool {
        self.source.is_out_of_memory()
    }
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = Bytes(self.allocation.charge);
        write!(f, "foreign memory of {size} was not taken in: ")?;
        self.source.fmt(f)
    }
}

impl Error for ForeignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

crate::__debug_as_display!(struct ForeignError { allocation, source });

impl From<ForeignError> for io::Error {
    /// Boxes this error with its allocation, which is released when the `io::Error` is dropped.
    fn from(error: ForeignError) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

//! A refusal that hands the foreign memory back.

use std::error::Error;
use std::fmt;
use std::io;

use super::ForeignAllocation;
use crate::error::AllocError;
use crate::text::Bytes;

/// Foreign memory that could not be charged. Take the allocation to try again, or drop this, which
/// releases it.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// # use arrow_memory_core::ForeignAllocation;
/// root.set_limit(10);
/// let foreign = ForeignAllocation::from_owner(vec![1; 60]);
/// let refused = root.wrap_foreign_allocation(foreign).unwrap_err();
/// root.set_limit(100); // room was made
/// let buffer = root.wrap_foreign_allocation(refused.allocation)?;
/// assert_eq!(buffer.len(), 60);
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
///
/// It tells the refusal in its own words, `{:#}` with the levels; its source is what caused that.
#[non_exhaustive]
pub struct ForeignError {
    /// The allocation, as it was.
    pub allocation: ForeignAllocation,
    /// Why it was refused.
    pub source: AllocError,
}

impl ForeignError {
    /// Whether memory was short: see [`AllocError::is_out_of_memory`].
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
    /// Keeps the allocation: it is released with this error.
    fn from(error: ForeignError) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

//! The one error of this crate.

use std::io;

use arrow_memory_core::{AllocError, ForeignError, TransferError};

/// Why memory could not be taken in, moved, read or built upon. Nothing has changed then, unless
/// the operation says otherwise.
///
/// Converts into the `ArrowError` of each arrow version that is enabled, with itself as the source.
/// The core's `AllocError` cannot do so directly, since neither type is this crate's; it goes this way:
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::MemoryError;
/// use arrow_memory_arrow::deps::arrow_schema::ArrowError;
/// use arrow_memory_core::RootAllocator;
///
/// fn scratch(root: &RootAllocator) -> Result<(), ArrowError> {
///     root.buffer(1000).map_err(MemoryError::from)?;
///     Ok(())
/// }
///
/// let refused = scratch(&RootAllocator::new(100)).unwrap_err();
/// assert!(MemoryError::from(refused).is_out_of_memory());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// An allocator refused.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// A charge could not be shared or moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The *producer's* fault: what came over the C Data Interface cannot be an array.
    #[error("not a valid Arrow C structure at {path}: {problem}")]
    CData {
        /// Where, from the top: `array.children[1].dictionary`, for instance.
        path: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// The *caller's* fault: values that do not fit the type that is built.
    #[error("{0}")]
    Value(String),
    /// What the arrow crates, or the data, said.
    #[error("{0}")]
    Arrow(Box<dyn std::error::Error + Send + Sync>),
    /// The *environment's* fault.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl MemoryError {
    /// What an allocator said, if this is a refusal.
    pub fn as_alloc_error(&self) -> Option<&AllocError> {
        match self {
            Self::Alloc(error) => Some(error),
            _ => None,
        }
    }

    /// Whether a limit stood in the way, so that it is worth trying again with less, or later.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Alloc(error) => matches!(
                error,
                AllocError::OutOfMemory { .. } | AllocError::Manager { .. }
            ),
            Self::Transfer(error) => matches!(error, TransferError::DoesNotFit { .. }),
            Self::Io(error) => error.kind() == io::ErrorKind::OutOfMemory,
            _ => false,
        }
    }
}

impl From<ForeignError> for MemoryError {
    /// Drops, and so releases, the memory that was refused.
    fn from(error: ForeignError) -> Self {
        Self::Alloc(error.source)
    }
}

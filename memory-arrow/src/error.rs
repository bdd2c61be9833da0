//! The error of all operations of this crate.

use std::error::Error;
use std::fmt;
use std::io;

use arrow_memory_core::{AllocError, CloseError, ForeignError, TransferError};

/// Why an operation of this crate failed. An operation that fails changes nothing, unless its docs say
/// otherwise.
///
/// A `MemoryError` converts into the `ArrowError` of each arrow version that is enabled, and is its source.
/// The core's `AllocError` cannot convert into an `ArrowError` directly, since neither type is this crate's.
/// Convert it into a `MemoryError` first:
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
///
/// The error prints like the one that it holds: in one line, except for a failed close, which prints a report.
/// `{:#}` and `{:?}` print all details, and `{:#?}` prints the fields.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// An allocator refused the memory.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// A charge could not be shared or moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// An allocator was closed while buffers, reservations or children of it were alive.
    #[error(transparent)]
    Close(Box<CloseError>),
    /// The *producer's* fault: what came over the C Data Interface cannot be an array.
    #[error("not a valid Arrow C structure at {path}: {problem}")]
    CData {
        /// The path from the top to the structure: `array.children[1].dictionary`, for instance.
        path: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// The *caller's* fault: values that do not fit the type that is built.
    #[error("{0}")]
    Value(String),
    /// An error of the arrow crates, or input that is not what it should be.
    #[error(transparent)]
    Arrow(Box<dyn std::error::Error + Send + Sync>),
    /// The *environment's* fault: reading or mapping failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

arrow_memory_core::__debug_as_display!(enum MemoryError {
    Alloc(error),
    Transfer(error),
    Close(error),
    CData { path, problem },
    Value(message),
    Arrow(error),
    Io(error),
});

impl MemoryError {
    /// The allocator's error, if an allocator refused the memory.
    pub fn as_alloc_error(&self) -> Option<&AllocError> {
        match self {
            Self::Alloc(error) => Some(error),
            _ => None,
        }
    }

    /// Whether a limit refused the memory, so that the operation may succeed with less, or later.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Alloc(error) => error.is_out_of_memory(),
            Self::Transfer(error) => error.is_out_of_memory(),
            Self::Io(error) => error.kind() == io::ErrorKind::OutOfMemory,
            _ => false,
        }
    }
}

/// The error of an operation that consumes a value: the value, as it was, and the reason.
///
/// Take [`value`](Self::value) to try again, or let `?` convert this into a [`MemoryError`], an `ArrowError`
/// or a boxed error that holds the [`MemoryError`]: each of these conversions drops the value. A `Refused`
/// prints like its source.
///
/// It does not implement [`Error`]. Errors are logged, kept and passed on, and a value inside of one would stay
/// charged meanwhile, so that its allocator could not be closed. Where an `Error` is needed (by `anyhow`, for
/// example), write `.map_err(MemoryError::from)?`.
///
/// The core's [`Refused`](arrow_memory_core::Refused) is another type, because only a type of this crate
/// can be converted into an `ArrowError` here.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::Accounted;
/// use arrow_memory_arrow::deps::arrow_array::Int64Array;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(100);
/// let array = Int64Array::from(vec![7; 100]);
/// let refused = array.adopt(&root).unwrap_err();
/// assert!(refused.is_out_of_memory());
///
/// root.set_limit(1000); // room was made
/// let array = refused.value.adopt(&root)?;
/// assert_eq!(root.allocated_memory(), 800);
/// # drop(array);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Refused<T> {
    /// The value that was to be consumed, unchanged.
    pub value: T,
    /// Why it was refused.
    pub source: MemoryError,
}

impl<T> Refused<T> {
    /// Whether a limit refused the memory, so that the operation may succeed with less, or later.
    pub fn is_out_of_memory(&self) -> bool {
        self.source.is_out_of_memory()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl<T> From<Refused<T>> for Box<dyn Error> {
    /// Drops the value, and boxes the source.
    fn from(refused: Refused<T>) -> Self {
        refused.source.into()
    }
}

impl<T> From<Refused<T>> for Box<dyn Error + Send + Sync> {
    /// Drops the value, and boxes the source.
    fn from(refused: Refused<T>) -> Self {
        refused.source.into()
    }
}

impl<T> From<Refused<T>> for MemoryError {
    /// Drops the value.
    fn from(refused: Refused<T>) -> Self {
        refused.source
    }
}

impl<T> From<arrow_memory_core::Refused<T>> for MemoryError {
    /// Drops the value.
    fn from(refused: arrow_memory_core::Refused<T>) -> Self {
        Self::Transfer(refused.source)
    }
}

impl From<ForeignError> for MemoryError {
    /// Drops, and so releases, the memory that was refused.
    fn from(error: ForeignError) -> Self {
        Self::Alloc(error.source)
    }
}

impl From<CloseError> for MemoryError {
    fn from(error: CloseError) -> Self {
        Self::Close(Box::new(error))
    }
}

#[cfg(all(test, feature = "arrow-60"))]
mod tests {
    use std::error::Error;

    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;

    use super::*;
    use crate::deps::arrow_schema::ArrowError;

    #[test]
    fn every_error_of_a_query_becomes_one_and_prints_as_itself() {
        fn query(root: &RootAllocator) -> Result<(), MemoryError> {
            let scan = root.child("scan").build()?;
            let _buffer = scan.buffer(10)?;
            scan.close()?;
            Ok(())
        }
        let root = RootAllocator::builder()
            .limit(64)
            .debug(false)
            .build()
            .unwrap();

        let open = query(&root).unwrap_err();
        let full = {
            let _rest = root.buffer(64).unwrap();
            query(&root).unwrap_err()
        };

        let report = "allocator `scan` closed with 1 outstanding buffer (64 bytes)\n\
                      Allocator(scan) 0/64/64/none (res/actual/peak/limit)\n  \
                        child allocators: 0\n  \
                        ledgers: 1\n    \
                          ledger allocator: scan, owning: true, size: 64, references: 1, \
                          holds 1 buffer\n  \
                        reservations: 0";
        assert_eq!(open.to_string(), report);
        assert_eq!(format!("{open:?}"), report);
        assert!(matches!(open, MemoryError::Close(_)) && !open.is_out_of_memory());
        let line = "allocator `ROOT` is out of room: 10 bytes requested (64 after rounding), 0 left \
                    of its limit of 64";
        let levels = "\n  allocator `scan`: requested 64, allocated 0, limit none, reservation 0\n  \
                      allocator `ROOT`: requested 64, allocated 64, limit 64, reservation 0 (refused)";
        assert_eq!(full.to_string(), line);
        assert_eq!(format!("{full:?}"), format!("{line}{levels}"));
        assert!(
            format!("{full:#?}").starts_with("Alloc(\n    OutOfMemory {\n        requested: 10,")
        );
    }

    #[test]
    fn no_source_is_told_twice() {
        let broken = io::Error::other("the disk is gone");
        let arrow = ArrowError::ExternalError(Box::new(MemoryError::from(broken)));
        let error = MemoryError::Arrow(Box::new(ArrowError::ParseError("line 7".to_owned())));

        assert_eq!(format!("{error:?}"), "Parser error: line 7");
        assert!(error.source().is_none());
        assert_eq!(MemoryError::from(arrow).to_string(), "the disk is gone");
    }
}

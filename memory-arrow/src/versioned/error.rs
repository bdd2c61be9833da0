//! Conversions between this crate's error and arrow's.

use super::deps::arrow_schema::ArrowError;
use crate::error::{MemoryError, Refused};

impl From<MemoryError> for ArrowError {
    /// An error that came from arrow is itself again. Any other one becomes an `IoError` or an `ExternalError`.
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Arrow(error) => match error.downcast::<ArrowError>() {
                Ok(error) => *error,
                Err(error) => ArrowError::ExternalError(error),
            },
            MemoryError::Io(error) => ArrowError::IoError(error.to_string(), error),
            error => ArrowError::ExternalError(Box::new(error)),
        }
    }
}

impl<T> From<Refused<T>> for ArrowError {
    /// Drops the value.
    fn from(refused: Refused<T>) -> Self {
        refused.source.into()
    }
}

impl From<ArrowError> for MemoryError {
    /// A `MemoryError` that was converted into an `ArrowError` is itself again.
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(error) => match error.downcast::<MemoryError>() {
                Ok(error) => *error,
                Err(error) => MemoryError::Arrow(error),
            },
            ArrowError::IoError(_, error) => MemoryError::Io(error),
            error => MemoryError::Arrow(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;

    use super::*;

    #[test]
    fn a_refusal_goes_through_an_arrow_error_and_comes_back() {
        let root = RootAllocator::new(10);
        let refused = MemoryError::from(root.buffer(100).unwrap_err());

        let through = ArrowError::from(refused);
        assert!(through.to_string().contains("out of room"), "{through}");
        assert!(MemoryError::from(through).is_out_of_memory());
    }
}

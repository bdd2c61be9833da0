//! Turns panics of the arrow crates, on input that they do not expect, into errors.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::MemoryError;

/// Runs code of the arrow crates that reads untrusted input. A panic becomes a [`MemoryError::Arrow`].
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T, MemoryError>) -> Result<T, MemoryError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(MemoryError::Arrow(
            format!("arrow cannot read this: {message}").into(),
        ))
    })
}

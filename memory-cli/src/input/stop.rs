//! The reasons why there is no batch, and their messages.

use std::fmt;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::arrow_60::deps::arrow_schema::ArrowError;
use arrow_memory_core::AllocError;

use crate::failure::Failure;

/// Why there is no batch.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A limit refused an allocation.
    Refused(AllocError),
    Failed(Failure),
}

impl Stop {
    pub(super) fn about(self, f: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(f(failure)),
            refused => refused,
        }
    }

    /// The failure, for allocators without a limit.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Refused(error) => Failure::new(error.to_string()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AllocError> for Stop {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory { .. } => Self::Refused(error),
            error => Self::Failed(Failure::new(error.to_string())),
        }
    }
}

impl From<MemoryError> for Stop {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Alloc(error) => error.into(),
            error => Self::Failed(said(error)),
        }
    }
}

/// The failure for a library's error, with advice on codecs that are not built in.
pub(super) fn said(error: impl fmt::Display) -> Failure {
    let text = error.to_string();
    let disabled = [
        "Disabled feature at compile time",
        "requires the lz4",
        "requires the zstd",
    ];
    if disabled.iter().any(|words| text.contains(words)) {
        return no_codec("one of its columns");
    }
    Failure::new(text)
}

/// The failure for a file in a codec that is not built in.
pub(super) fn no_codec(what: &str) -> Failure {
    Failure::new(format!(
        "{what} is compressed in a way that this build does not read: build this tool with `--features codecs`"
    ))
}

pub(super) fn arrow_said(error: ArrowError) -> Failure {
    said(error)
}

pub(super) fn io_failure(error: std::io::Error) -> Failure {
    Failure::new(error.to_string())
}

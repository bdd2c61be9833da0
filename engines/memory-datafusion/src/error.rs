//! Why a query was not admitted, and what a query still holds that should hold nothing.

use std::time::Duration;

use arrow_memory_core::{AllocError, Retry, WaitError};

use crate::report::QueryReport;
use crate::text::Size;

/// Why a query was not admitted. Nothing is charged for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// The deadline passed before its reservation fitted. Worth retrying later.
    #[error("query `{}` was not admitted within its deadline: {error}", .query.escape_debug())]
    #[non_exhaustive]
    Timeout {
        /// The query's name.
        query: String,
        /// Why it was refused in the end.
        error: WaitError,
    },
    /// The *caller's* fault: its reservation is larger than its own limit, or than one above it.
    #[error("query `{}` cannot be admitted: {error}", .query.escape_debug())]
    #[non_exhaustive]
    TooLarge {
        /// The query's name.
        query: String,
        /// Which limit it passes.
        error: WaitError,
    },
    /// The *caller's* fault: the allocator of the queries, or one above it, is closed.
    #[error("query `{}` cannot be admitted any more: {error}", .query.escape_debug())]
    #[non_exhaustive]
    Closed {
        /// The query's name.
        query: String,
        /// Which allocator is closed.
        error: WaitError,
    },
    /// Its reservation does not fit now, and it was not to wait. Worth retrying later.
    #[error("query `{}` does not fit now: {error}", .query.escape_debug())]
    #[non_exhaustive]
    Refused {
        /// The query's name.
        query: String,
        /// Which allocator has too little room.
        error: WaitError,
    },
}

impl AdmitError {
    pub(crate) fn of(query: &str, error: WaitError) -> Self {
        let query = query.to_owned();
        match &error {
            WaitError::TimedOut(_) => Self::Timeout { query, error },
            WaitError::Refused(AllocError::Closed { .. }) => Self::Closed { query, error },
            WaitError::Refused(refused) if refused.retry() == Retry::Never => {
                Self::TooLarge { query, error }
            }
            _ => Self::Refused { query, error },
        }
    }
}

/// What a query still holds at the deadline of [`QueryMemory::finish`](crate::QueryMemory::finish).
///
/// The query goes on: `finish` can be called again.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "query `{}` still holds {}{} after {waited:.1?}; {ADVICE}\n{report}",
    .report.name.escape_debug(), Size(.report.declared.max(.report.held)), streams(.report.open_streams)
)]
#[non_exhaustive]
pub struct StillHeld {
    /// The state of the query, with the operators that hold something.
    pub report: QueryReport,
    /// How long `finish` waited.
    pub waited: Duration,
}

/// What to do about it.
const ADVICE: &str = "drop its batches, its streams, and what keeps its plans; if it was cancelled, an operator may still \
     compute, and lets go when it is done: call `finish` again later";

fn streams(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " and has 1 stream open".to_owned(),
        _ => format!(" and has {count} streams open"),
    }
}

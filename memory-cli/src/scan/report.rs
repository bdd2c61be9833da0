//! The report of a scan as data.

use arrow_memory_core::AllocError;

use super::need::{Columns, Need};
use crate::failure::Failure;
use crate::input::Format;
use crate::tree::Row;

/// The result of a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    /// Whether the data fits the limit; `None` if there is no limit.
    pub(crate) fits: Option<bool>,
    pub(crate) limit: Option<usize>,
    pub(crate) keep: bool,
    pub(crate) adopt: bool,
    pub(crate) batch_size: usize,
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    pub(crate) seconds: f64,
    pub(crate) accounted: Accounted,
    pub(crate) backend: BackendReport,
    /// What the decoder has allocated besides, in the program's heap; `None` if it is not known on this platform.
    pub(crate) decoder: Option<Accounted>,
    pub(crate) resident: Resident,
    pub(crate) need: NeedReport,
    pub(crate) refusal: Option<Refusal>,
    /// The tree at the end if batches are kept, else at its maximum; after a refusal, at the refusal.
    pub(crate) tree: Vec<Row>,
    pub(crate) files: Vec<FileReport>,
}

/// Bytes that were charged: at the time of the tree that is shown, and the maximum.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Accounted {
    pub(crate) used: usize,
    pub(crate) peak: usize,
}

/// The blocks that the backend lent to the tree, and the backend's own statistics.
#[derive(Debug, serde::Serialize)]
pub(crate) struct BackendReport {
    pub(crate) name: String,
    pub(crate) live: Option<usize>,
    pub(crate) peak: Option<usize>,
    /// The number of blocks lent in total.
    pub(crate) blocks: Option<u64>,
    pub(crate) resident: Option<usize>,
    pub(crate) cached: Option<usize>,
}

/// Physical memory of the whole process, decoders included.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Resident {
    pub(crate) before: Option<usize>,
    /// Resident bytes at the time of the tree that is shown.
    pub(crate) used: Option<usize>,
    pub(crate) peak: Option<usize>,
    pub(crate) after_release: Option<usize>,
}

/// One file.
#[derive(Debug, serde::Serialize)]
pub(crate) struct FileReport {
    pub(crate) path: String,
    pub(crate) format: Format,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) columns: usize,
    /// Hints about options that may be missing or wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
}

/// The minimum limits that would be enough, and their parts.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct NeedReport {
    /// The need of keeping everything; `None` if this scan could not compute it.
    pub(crate) kept: Option<usize>,
    /// The need of holding one batch at a time; `None` if this scan could not compute it.
    pub(crate) batch: Option<usize>,
    /// The part of the columns; `None` if they are in messages.
    pub(crate) columns: Option<Columns>,
    /// The part of the messages of Arrow IPC at a time; `None` if there are none.
    pub(crate) messages: Option<usize>,
    /// The maximum of the process's resident bytes.
    pub(crate) process: Option<usize>,
    /// The names of the numbers that `--limit` bounds; `None` if there is no limit.
    pub(crate) bounded_by_limit: Option<&'static [&'static str]>,
}

/// The request that ended a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Refusal {
    /// The name of the allocator that requested memory.
    pub(crate) asked_by: String,
    pub(crate) requested: usize,
    /// The name of the allocator whose limit refused.
    pub(crate) refused_by: String,
    pub(crate) limit: usize,
    /// The bytes that were left of its limit.
    pub(crate) left: usize,
    /// The number of rows that were read before.
    pub(crate) after_rows: u64,
    /// The number of rows in the file, if the format stores it in front or in a footer.
    pub(crate) of_rows: Option<u64>,
}

impl Refusal {
    pub(super) fn of(error: &AllocError, rows: u64, total: Option<u64>) -> Result<Self, Failure> {
        let AllocError::OutOfMemory {
            requested, outcome, ..
        } = error
        else {
            return Err(Failure::bug(error.to_string()));
        };
        // The names are paths and are not escaped here: the code that prints them escapes them.
        let refused_by = outcome.failed_allocator().name.to_string();
        let asked_by = outcome.entries.first().map_or_else(
            || refused_by.clone(),
            |entry| entry.allocator.name.to_string(),
        );
        Ok(Self {
            asked_by,
            requested: *requested,
            refused_by,
            limit: outcome.refuser().limit,
            left: outcome.headroom(),
            after_rows: rows,
            of_rows: total,
        })
    }
}

impl NeedReport {
    pub(super) fn of(
        need: &Need,
        adopt: bool,
        process: Option<usize>,
        limit: Option<usize>,
    ) -> Self {
        let bounded: &[&str] = match need.messages {
            Some(_) => &["columns", "messages"],
            None => &["columns"],
        };
        Self {
            kept: (!need.kept_is_unknown).then_some(need.kept),
            batch: (!need.batch_is_unknown).then_some(need.batch),
            columns: (!adopt || need.messages.is_none()).then_some(need.columns),
            messages: need.messages,
            process,
            bounded_by_limit: limit.map(|_| bounded),
        }
    }
}

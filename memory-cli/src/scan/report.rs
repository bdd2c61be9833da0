//! What a scan found, as data.

use arrow_memory_core::AllocError;

use super::need::{Columns, Need};
use crate::failure::Failure;
use crate::input::Format;
use crate::tree::Row;

/// The result of a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    /// Whether the limit allowed it; `None` if there is no limit.
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
    pub(crate) resident: Resident,
    pub(crate) need: NeedReport,
    pub(crate) refusal: Option<Refusal>,
    /// The tree at the end if batches are kept, else when it held most; or at the refusal.
    pub(crate) tree: Vec<Row>,
    pub(crate) files: Vec<FileReport>,
}

/// What the tree was charged for.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Accounted {
    pub(crate) used: usize,
    pub(crate) peak: usize,
}

/// What the backend handed out to the tree, and what it says of itself.
#[derive(Debug, serde::Serialize)]
pub(crate) struct BackendReport {
    pub(crate) name: String,
    pub(crate) live: Option<usize>,
    pub(crate) peak: Option<usize>,
    /// Blocks handed out in total.
    pub(crate) blocks: Option<u64>,
    pub(crate) resident: Option<usize>,
    pub(crate) cached: Option<usize>,
}

/// Physical memory of the whole process, decoders included.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Resident {
    pub(crate) before: Option<usize>,
    /// With the tree as it is shown.
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
    /// What a person may want to change about how it is read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
}

/// The least limits that would do, and what they are made of.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct NeedReport {
    /// To hold everything; `None` where this scan could not tell.
    pub(crate) kept: Option<usize>,
    /// To hold one batch at a time; `None` where this scan could not tell.
    pub(crate) batch: Option<usize>,
    /// Of that, the columns; `None` where they lie in messages.
    pub(crate) columns: Option<Columns>,
    /// Of that, the messages of Arrow IPC at a time; `None` if there are none.
    pub(crate) messages: Option<usize>,
    /// The most that was resident in the process.
    pub(crate) process: Option<usize>,
    /// Which of these `--limit` bounds; `None` if there is no limit.
    pub(crate) bounded_by_limit: Option<&'static [&'static str]>,
}

/// Who stopped a scan.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Refusal {
    /// Who asked.
    pub(crate) asked_by: String,
    pub(crate) requested: usize,
    /// Whose limit stood in the way.
    pub(crate) refused_by: String,
    pub(crate) limit: usize,
    /// What was left of it.
    pub(crate) left: usize,
    /// Rows that were in before.
    pub(crate) after_rows: u64,
    /// Rows that there are, where the file says so in front.
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
        // Names as they were given: they are paths, and whoever prints them escapes them.
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

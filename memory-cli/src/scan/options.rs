//! The options of a scan.

use crate::input::{Reading, Source};

/// The options of a scan.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) files: Vec<Source>,
    pub(crate) reading: Reading,
    /// The maximum number of bytes that the tree may hold; no limit if `None`.
    pub(crate) limit: Option<usize>,
    /// The backend's name; the default one if `None`.
    pub(crate) backend: Option<String>,
    /// Whether batches are held until the end.
    pub(crate) keep: bool,
    /// Whether decoded buffers are adopted, instead of copied to the backend.
    pub(crate) adopt: bool,
    /// Whether to show progress.
    pub(crate) progress: bool,
}

//! What a scan is asked to do.

use crate::input::{Reading, Source};

/// What a scan is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) files: Vec<Source>,
    pub(crate) reading: Reading,
    /// Bytes that the tree may hold; no limit if `None`.
    pub(crate) limit: Option<usize>,
    /// The backend's name; the default one if `None`.
    pub(crate) backend: Option<String>,
    /// Whether batches are held until the end.
    pub(crate) keep: bool,
    /// Whether decoded buffers are charged where they are, instead of copied to the backend.
    pub(crate) adopt: bool,
    /// Whether to show progress.
    pub(crate) progress: bool,
}

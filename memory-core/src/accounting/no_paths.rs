//! Without the feature `metrics` nobody asks for sums by path, and none are kept.

use std::sync::Arc;
use std::time::Duration;

/// No table.
#[derive(Clone)]
pub(crate) struct Paths;

/// No path.
pub(crate) struct NodePath;

impl Paths {
    pub(crate) fn new(_: &Arc<str>) -> Self {
        Self
    }

    pub(crate) fn root(&self) -> NodePath {
        NodePath
    }

    pub(crate) fn child(&self, _: &NodePath, _: &Arc<str>) -> NodePath {
        NodePath
    }

    pub(crate) fn count_wait(&self) {}

    pub(crate) fn count_waited(&self, _: Duration, _: bool) {}
}

/// No counts to remember.
#[derive(Default)]
pub(super) struct InPath(());

impl NodePath {
    #[expect(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(super) fn add(&self, _: &mut InPath, _: u64, _: u64) {}
}

//! Without the feature `metrics` nobody asks for sums by path, and none are kept.

use std::sync::Arc;

use super::node::{Locked, NodePtr};

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
}

impl Locked<'_> {
    #[expect(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(super) fn add_to_path(&mut self, _: NodePtr) {}
}

//! How a tree begins, what its nodes share, and how it ends.

use std::sync::Arc;

use arrow_memory_manager::AllocationManager;

use super::super::paths::Paths;
use super::{Node, NodeConfig, NodePtr, Tree, TreeConfig, TreeMutex};
use crate::debug::Recorder;
use crate::events;
use crate::sync::plain;

impl Tree {
    /// The registry of buffers, in debug mode.
    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// The manager that serves every block of the tree.
    pub(crate) fn manager(&self) -> &Arc<dyn AllocationManager> {
        let manager = self.config.manager.as_ref();
        manager.expect("a tree has its manager until it is dropped")
    }

    /// The sums of the counts of each path's allocators.
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// A tree with its root, which has one handle.
    pub(crate) fn with_root(config: TreeConfig, root: NodeConfig) -> NodePtr {
        let paths = Paths::new(&root.name);
        let path = paths.root();
        let tree = Arc::new(Self {
            recorder: config.debug.then(|| Box::new(Recorder::new())),
            config,
            paths,
            reclaimers: plain::AtomicUsize::new(0),
            timed: plain::AtomicBool::new(false),
            mutex: TreeMutex::new(),
        });
        let mut root = Node::boxed(root, tree, 0, path);
        let root_node = Arc::get_mut(&mut root).expect("nobody else has seen the node");
        root_node.state.get_mut().shut = root_node.tree.config.credit == 0;
        let opens = !root_node.state.get_mut().shut;
        root_node.state.get_mut().linked = true;
        if opens {
            root_node.word.open(0, 0);
        }
        NodePtr::leak(root)
    }
}

impl Drop for Tree {
    /// Trees are dropped where buffers are, and what the user's manager does at its end may panic.
    fn drop(&mut self) {
        let manager = self.config.manager.take();
        if events::catch(|| events::inside(|| drop(manager))) {
            events::manager_panicked();
        }
    }
}

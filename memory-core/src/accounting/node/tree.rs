//! [`Tree`]: the data that the nodes of a tree share.

use std::sync::Arc;

use super::super::mutex::TreeMutex;
use super::super::paths::Paths;
use super::{Locked, Node, NodeConfig, NodePtr};
use arrow_memory_manager::AllocationManager;

use crate::debug::Recorder;
use crate::events;

/// The properties of a tree that are given at its creation and never change.
pub(crate) struct TreeConfig {
    /// Serves every block of the tree; there until the tree is dropped.
    pub(crate) manager: Option<Arc<dyn AllocationManager>>,
    /// The maximum of the credit, in bytes, that a node may hold; 0: none, so that every number is exact.
    pub(crate) credit: usize,
    /// Whether debug mode is on.
    pub(crate) debug: bool,
    /// Whether totals and counts are kept.
    pub(crate) statistics: bool,
}

/// One tree of allocators: the data that its nodes share.
pub(crate) struct Tree {
    pub(crate) config: TreeConfig,
    /// The registry of buffers, in debug mode.
    recorder: Option<Box<Recorder>>,
    /// The sums of the counts of each path's allocators.
    paths: Paths,
    mutex: TreeMutex,
}

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

    /// Takes the mutex. The caller has a handle, a pin or bytes, and may give it up under it.
    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        // Stripes ask for the thread's number under the mutex. The first time a thread asks, it registers a
        // destructor, for which the C library may allocate: that is done here, while no lock is held.
        let _ = crate::thread::thread_number();
        Locked::new(self, self.mutex.lock())
    }
}

impl Drop for Tree {
    /// Trees are dropped where buffers are, and what the user's manager does at its end may panic.
    fn drop(&mut self) {
        let manager = self.config.manager.take();
        if events::catch(|| drop(manager)) {
            events::manager_panicked();
        }
    }
}

//! Twins: the node of the same path on a device.

use std::mem;
use std::sync::Arc;

use arrow_memory_core::__private::sync::plain::{Mutex, lock};
use arrow_memory_core::{AllocError, AllocatorId, BufferAllocator, WeakBufferAllocator};

/// The twins that a device's root has made, by the nodes of the host.
///
/// # Invariants
///
/// 1. The list is replaced, and never changed: it is made while the lock is free, and the old one is dropped
///    after the lock was released. So nothing is allocated, and no allocator dropped, under the lock.
#[derive(Default)]
pub(crate) struct Twins(Mutex<Arc<Vec<Twin>>>);

/// A node of the host's tree and its twin.
#[derive(Clone)]
struct Twin {
    id: AllocatorId,
    host: WeakBufferAllocator,
    twin: BufferAllocator,
}

impl Twin {
    /// Whether the host's node has left its tree. (A root has no entry.)
    fn has_ended(&self) -> bool {
        self.host
            .upgrade()
            .is_none_or(|host| host.parent_allocator().is_none())
    }
}

impl Twins {
    /// The twin of `host` below `root`, the root of the device's tree, which is the twin of any root.
    #[track_caller]
    pub(crate) fn twin(
        &self,
        host: &BufferAllocator,
        root: &BufferAllocator,
    ) -> Result<BufferAllocator, AllocError> {
        self.retire_ended();
        // From the node up to its root, then down again.
        let mut path = Vec::new();
        let mut next = Some(host.clone());
        while let Some(node) = next {
            next = node.parent_allocator();
            path.push(node);
        }
        // The walk has ended at the root if the node is still in its tree, since its ancestors are in there as long as it
        // is. Otherwise it may have ended at any node that left meanwhile, whose twin is not the device's root.
        if host.is_closed() && host.parent_allocator().is_none() {
            // It has left its tree, or is a closed root: the core's error says so.
            host.allocate_bytes(0)?;
        }
        path.pop();
        let mut twin = root.clone();
        while let Some(node) = path.pop() {
            twin = self.child(&node, &twin)?;
        }
        Ok(twin)
    }

    /// The twin of `host`, which is made below `parent` unless there is one.
    #[track_caller]
    fn child(
        &self,
        host: &BufferAllocator,
        parent: &BufferAllocator,
    ) -> Result<BufferAllocator, AllocError> {
        let mut made: Option<BufferAllocator> = None;
        loop {
            let before = self.list();
            if let Some(known) = before.iter().find(|twin| twin.id == host.id()) {
                // Another thread was faster: a twin that was made here leaves with its last handle.
                return Ok(known.twin.clone());
            }
            let twin = match made.take() {
                Some(twin) => twin,
                None => parent
                    .child(host.name())
                    .priority(host.priority())
                    .build()?,
            };
            let mut after = Vec::with_capacity(before.len() + 1);
            after.extend(before.iter().cloned());
            after.push(Twin {
                id: host.id(),
                host: host.downgrade(),
                twin: twin.clone(),
            });
            if self.replace(&before, Arc::new(after)) {
                return Ok(twin);
            }
            made = Some(twin);
        }
    }

    /// Retires the twins of nodes that have left their trees, and forgets them.
    pub(crate) fn retire_ended(&self) {
        loop {
            let before = self.list();
            let (ended, left): (Vec<Twin>, Vec<Twin>) =
                before.iter().cloned().partition(Twin::has_ended);
            if ended.is_empty() {
                return;
            }
            if self.replace(&before, Arc::new(left)) {
                ended.iter().for_each(|twin| twin.twin.retire());
                return;
            }
        }
    }

    fn list(&self) -> Arc<Vec<Twin>> {
        Arc::clone(&lock(&self.0))
    }

    /// Replaces the list, unless it is another one than `before` meanwhile.
    fn replace(&self, before: &Arc<Vec<Twin>>, mut after: Arc<Vec<Twin>>) -> bool {
        let mut list = lock(&self.0);
        let same = Arc::ptr_eq(&list, before);
        if same {
            mem::swap(&mut *list, &mut after);
        }
        drop(list);
        // `after` is dropped here, with the lock free: it is the old list, or one that is not used.
        same
    }
}

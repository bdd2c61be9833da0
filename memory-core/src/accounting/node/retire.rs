//! The end of a node: it is freed when nothing leads to it, and its former parent's listener is told.
#![expect(unsafe_code, reason = "frees nodes")]

use std::sync::Arc;

#[cfg(not(loom))]
use super::super::hazard;
use super::watch::hooks;
use super::{Departure, Node, NodePtr, Shared};
use crate::events::quietly;
use crate::sync::Ordering;

impl NodePtr {
    /// Frees a buried node, or has a thread that still tells its listener of something free it.
    ///
    /// # Safety
    ///
    /// The caller took it from the graveyard, where a node is put once: it is unlinked once, and buried
    /// by the thread that dropped its last handle or pin, or that unlinked it when there was none. Or the
    /// caller took it from the record with which this function left it.
    pub(in crate::accounting) unsafe fn retire(self) {
        // SAFETY: it is freed by this call, or by a later one, after this one has left it with a record.
        if unsafe { self.node() }.hooks & hooks::LISTENER == 0 {
            // SAFETY: the caller's promise; records hold nodes with listeners only.
            return unsafe { self.free() };
        }
        #[cfg(not(loom))]
        hazard::retire(self.0, hazard::records, |node| {
            // SAFETY: the caller's promise for this node; the callers of the earlier calls that left
            // other nodes with the records promised it for those. No record holds it now.
            unsafe { Self(node).free() };
        });
        #[cfg(loom)]
        // SAFETY: the caller's promise; in models there are no listeners.
        unsafe {
            self.free()
        };
    }

    /// # Safety
    ///
    /// The conditions of `retire`; and no record holds the node.
    unsafe fn free(self) {
        #[cfg(loom)]
        // SAFETY: the count that is given back below keeps the memory.
        unsafe {
            self.node().memory.left();
        }
        // SAFETY: the pointer is from `Arc::into_raw` in `leak`; by the caller's promise nobody
        // leads to this node any more, and its count is given back once.
        drop(unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) });
    }
}

/// Frees buried nodes, with their names and listeners, with no lock held; and the tree with the last of them.
pub(super) fn free_all(mut grave: Option<NodePtr>) {
    while let Some(node) = grave {
        // SAFETY: a buried node is alive until it is retired below.
        let state = unsafe { node.node() }.state.get();
        // SAFETY: by `may_free` nobody else leads to this node but records, which do not touch
        // its state; the graveyard was the section's, under the mutex.
        grave = unsafe { (*state).next_dead };
        // SAFETY: it comes from the graveyard.
        unsafe { node.retire() };
    }
}

/// Nodes that left the tree, as `(parent, child)`. They are kept alive as memory, no more.
pub(crate) struct Departures(pub(super) Option<NodePtr>);

impl Iterator for Departures {
    type Item = (Arc<Node>, Arc<Node>);

    fn next(&mut self) -> Option<Self::Item> {
        let child = self.0?;
        // SAFETY: `note_departure` added one count for this list, which is taken over here, once.
        let child = unsafe { Arc::from_raw(child.0.as_ptr().cast_const()) };
        // SAFETY: a node departs once, and until this list has been walked nobody else touches
        // this cell: the list was taken under the mutex, by the thread that walks it.
        let Departure { parent, next } = unsafe { *child.departure.get() };
        self.0 = next;
        let parent = parent.expect("a departed node has a former parent");
        // SAFETY: as for the child.
        let parent = unsafe { Arc::from_raw(parent.0.as_ptr().cast_const()) };
        Some((parent, child))
    }
}

impl Departures {
    /// Takes the departures that the mutex protects, in order.
    #[inline]
    pub(super) fn take(shared: &mut Shared) -> Self {
        match shared.departed.take() {
            None => Self(None),
            Some(last) => Self::in_order(last),
        }
    }

    /// The list that ends with the `last` one, which comes first on it.
    #[cold]
    fn in_order(last: NodePtr) -> Self {
        // Children leave before their parents.
        let (mut next, mut told) = (Some(last), None);
        while let Some(node) = next {
            // SAFETY: `note_departure` added a count for the list.
            let departure = unsafe { node.node() }.departure.get();
            // SAFETY: the list was taken from behind the mutex, by this thread, and nobody else touches it.
            next = std::mem::replace(unsafe { &mut (*departure).next }, told);
            told = Some(node);
        }
        Self(told)
    }

    #[inline]
    pub(in crate::accounting) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for Departures {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.for_each(drop);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        #[cfg(loom)]
        self.memory.freed();
        // Acquire: partner of the Release in `install_stripes`.
        let stripes = self.stripes.load(Ordering::Acquire);
        if !stripes.is_null() {
            // SAFETY: by invariant 4 this is the box that `install_stripes` made, owned by us.
            drop(unsafe { Box::from_raw(stripes) });
        }
        // A user's value may panic when it is dropped. Nodes are freed one after another, so a panic
        // would leak the rest of them.
        if let Some(listener) = self.listener.take() {
            quietly(&self.info, || drop(listener));
        }
        if let Some(policy) = self.policy.take() {
            quietly(&self.info, || drop(policy));
        }
    }
}

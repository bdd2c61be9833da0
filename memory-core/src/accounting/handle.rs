//! The three things by which the rest of the crate keeps a node: a handle, a pin, and charged bytes.
#![expect(
    unsafe_code,
    reason = "a charge is a pointer and a promise: the bytes keep the node, no count does"
)]

use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::lifecycle::Outstanding;
use super::node::{
    Departures, Locked, Node, NodeConfig, NodeKind, NodePtr, Reserved, Tree, TreeConfig,
};
use super::refusal::Refusal;
use super::word::Kind;
use crate::events::{self, quietly};
use crate::sampling;
use crate::sync::current::unscoped;

/// Keeps a node usable; what a `BufferAllocator` is made of.
///
/// # Invariants
///
/// 1. The pointer is to a live node, whose count of handles includes this one.
pub(crate) struct Handle(pub(super) NodePtr);

impl Handle {
    /// A tree, by the handle of its root.
    pub(crate) fn new_root(config: TreeConfig, root: NodeConfig) -> Self {
        let root = Self(Tree::with_root(config, root));
        sampling::adopt_root(&root);
        root
    }

    /// The pointer, for a charge or a pin.
    #[inline]
    pub(crate) fn ptr(&self) -> NodePtr {
        self.0
    }

    /// Charges `bytes` (at least 1) to the node.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Box<Refusal>> {
        // SAFETY: by invariant 1 the node is alive.
        unsafe { self.0.charge(bytes) }
    }

    /// Charges `bytes` (at least 1) to the node if its credit suffices.
    #[inline]
    pub(crate) fn take(&self, bytes: usize) -> bool {
        // SAFETY: by invariant 1 the node is alive.
        unsafe { self.0.take(bytes, Kind::Held) }
    }

    /// Charges `bytes` that keep the node alive by themselves, whatever the limits say; `true` if no
    /// level is over its limit afterwards. Refused, as closed, if the node has left its tree.
    pub(crate) fn force_block(&self, bytes: usize) -> Result<bool, Box<Refusal>> {
        let mut locked = self.tree.lock();
        if !locked.look(self.0).linked {
            drop(locked);
            return Err(Box::new(Refusal::Closed(self.info.clone())));
        }
        let forced = locked.force(self.0, bytes);
        drop(locked);
        forced.map_err(Box::new)
    }

    /// Charges `bytes` to a reservation, whatever the limits say; `true` if no level is over its limit
    /// afterwards. The reservation has a handle, so the node may have left its tree: then it counts
    /// them for itself alone.
    pub(crate) fn force_reserved(&self, bytes: usize) -> Result<bool, Box<Refusal>> {
        let forced = self.tree.lock().force(self.0, bytes);
        // Boxed with the mutex released.
        forced.map_err(Box::new)
    }

    /// Gives `bytes` back that are charged to this node.
    ///
    /// # Safety
    ///
    /// They are charged to it, and the caller gives them up.
    #[inline]
    pub(crate) unsafe fn uncharge(&self, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.uncharge(bytes) }
    }

    /// Closes the node.
    pub(crate) fn close(&self) -> Result<(), Outstanding> {
        let mut locked = self.tree.lock();
        let result = locked.close(self.0);
        let departures = locked.take_departures();
        drop(locked);
        departures.tell();
        result
    }

    /// Looks again at a closed node, after something went that is not charged.
    pub(crate) fn reconsider(&self) {
        let mut locked = self.tree.lock();
        locked.reconsider(self.0);
        let departures = locked.take_departures();
        drop(locked);
        departures.tell_quietly();
    }

    /// Lists a reservation.
    pub(crate) fn list_reservation(&self, reserved: &Arc<Reserved>) {
        let mut spare = Vec::new();
        loop {
            let mut locked = self.tree.lock();
            let listed = locked.list_reservation(self.0, reserved, &mut spare);
            drop(locked);
            match listed {
                Ok(()) => return,
                Err(capacity) => spare = unscoped(|| Vec::with_capacity(capacity)),
            }
        }
    }

    /// Takes a reservation off the list.
    pub(crate) fn unlist_reservation(&self, reserved: &Reserved) {
        let unlisted = self.tree.lock().unlist_reservation(self.0, reserved);
        drop(unlisted);
    }

    /// Whether the node refuses new work.
    pub(crate) fn is_closed(&self) -> bool {
        self.tree.lock().is_closed(self.0)
    }

    /// A weak reference, for [`NodePtr::upgrade`].
    pub(crate) fn downgrade(&self) -> Weak<Node> {
        // SAFETY: by invariant 1 the node is alive.
        unsafe { self.0.weak() }
    }

    /// The handle behind a weak reference, unless the node has left its tree.
    pub(crate) fn upgrade(weak: &Weak<Node>) -> Option<Self> {
        NodePtr::upgrade(weak).map(Self)
    }

    /// The parent, unless the node has left its tree or is a root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let locked = self.tree.lock();
        let parent = locked.look(self.0).parent?;
        locked.node(parent).add_handle();
        Some(Self(parent))
    }

    /// The root of the tree; this node itself if it has left its tree.
    pub(crate) fn root(&self) -> Self {
        let locked = self.tree.lock();
        let root = locked.root_of(self.0);
        locked.node(root).add_handle();
        Self(root)
    }

    /// The children that are in the tree, in order of creation.
    pub(crate) fn children(&self) -> Vec<Self> {
        let mut children = Vec::new();
        loop {
            // The memory is found before the mutex is taken.
            let count = self.tree.lock().look(self.0).children;
            children.reserve(count);
            let locked = self.tree.lock();
            if locked.look(self.0).children > children.capacity() {
                continue;
            }
            let mut next = locked.look(self.0).first_child;
            while let Some(child) = next {
                // The program cannot allocate from a node for the heap.
                if locked.node(child).kind == NodeKind::Allocator {
                    locked.node(child).add_handle();
                    children.push(Self(child));
                }
                next = locked.look(child).next_sibling;
            }
            break;
        }
        children
    }
}

impl Clone for Handle {
    #[inline]
    fn clone(&self) -> Self {
        self.add_handle();
        Self(self.0)
    }
}

impl Deref for Handle {
    type Target = Node;

    #[inline]
    fn deref(&self) -> &Node {
        // SAFETY: by invariant 1 the node is alive while this handle is.
        unsafe { self.0.node() }
    }
}

impl Drop for Handle {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the handle is this one, which is given up.
        if !unsafe { self.0.drop_handle_unless_last() } {
            drop_last_handle(self);
        }
    }
}

#[cold]
fn drop_last_handle(handle: &mut Handle) {
    let node = handle.0;
    let mut locked = handle.tree.lock();
    if !locked.drop_handle(node) {
        return;
    }
    let info = locked.node(node).info.clone();
    let debug = locked.tree().config.debug;
    let (external, left) = locked.orphan(node);
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    if external > 0 {
        events::external_bytes_outlived(&info, external);
    }
    if let Some(left) = left {
        events::outlived(&info, left.allocated, debug);
    }
}

impl Locked<'_> {
    /// A handle of a node, while the mutex is held.
    pub(super) fn handle(&self, node: NodePtr) -> Handle {
        self.node(node).add_handle();
        Handle(node)
    }
}

impl NodePtr {
    /// Charges `bytes` (at least 1) to the node.
    ///
    /// # Safety
    ///
    /// The node is alive: the caller has a handle, a pin or bytes of it.
    #[inline]
    pub(crate) unsafe fn charge(self, bytes: usize) -> Result<(), Box<Refusal>> {
        // SAFETY: the caller's promise.
        if unsafe { self.take(bytes, Kind::Held) } {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.charge_slowly(bytes) }
    }

    #[cold]
    unsafe fn charge_slowly(self, bytes: usize) -> Result<(), Box<Refusal>> {
        // SAFETY: the caller's promise.
        let node = unsafe { self.node() };
        let mut stripes = node.stripes_if_contended();
        let mut locked = node.tree.lock();
        locked.install_stripes(self, &mut stripes);
        let result = locked.charge(self, bytes);
        drop(locked);
        // Boxed with the mutex released.
        result.map_err(Box::new)
    }

    /// Gives `bytes` back that are charged to the node, which may be freed as soon as that is done.
    ///
    /// # Safety
    ///
    /// They are charged to it, and the caller gives them up.
    #[inline]
    pub(crate) unsafe fn uncharge(self, bytes: usize) {
        // SAFETY: the caller's promise.
        if !unsafe { self.give(bytes, Kind::Held) } {
            // SAFETY: the caller's promise; nothing was given yet.
            unsafe { self.uncharge_slowly(bytes) };
        }
    }

    #[cold]
    unsafe fn uncharge_slowly(self, bytes: usize) {
        // Asked here, where it costs nothing.
        if bytes == 0 {
            return;
        }
        // SAFETY: the bytes are still charged, so the node is alive.
        let node = unsafe { self.node() };
        let wants_late = events::wants_late_release();
        let mut stripes = node.stripes_if_contended();
        let mut locked = node.tree.lock();
        locked.install_stripes(self, &mut stripes);
        release_under(locked, self, bytes, wants_late);
    }

    /// Gives `bytes` back that are charged to the node, and then calls `tell`, for which the node
    /// stays in memory. `tell` does not panic.
    ///
    /// # Safety
    ///
    /// They are charged to it, and the caller gives them up.
    #[inline(always)] // Every release with a listener takes this path.
    pub(crate) unsafe fn uncharge_and_tell(self, bytes: usize, tell: impl FnOnce(&Node)) {
        #[cfg(not(loom))]
        if let Some(_hold) = super::hazard::Hold::on(self)
            // SAFETY: the caller's promise.
            && unsafe { self.give(bytes, Kind::Held) }
        {
            // SAFETY: the thread's record has held the node since before its bytes were given.
            return tell(unsafe { self.node() });
        }
        // SAFETY: the caller's promise; nothing was given yet.
        unsafe { self.uncharge_pinned_and_tell(bytes, tell) };
    }

    /// The part of `uncharge_and_tell` that may need the mutex: a pin keeps the node, so that the node does
    /// not leave the tree before its listener was told.
    #[cold]
    unsafe fn uncharge_pinned_and_tell(self, bytes: usize, tell: impl FnOnce(&Node)) {
        // SAFETY: the bytes keep the node alive, and then the pin does.
        let node = unsafe { self.node() };
        node.add_pin();
        // SAFETY: the caller's promise.
        unsafe { self.uncharge(bytes) };
        events::inside(|| tell(node));
        // SAFETY: the pin is ours.
        unsafe { self.unpin() };
    }

    /// A handle on the node.
    ///
    /// # Safety
    ///
    /// The node is alive: the caller has a handle, a pin or bytes of it.
    pub(crate) unsafe fn handle(self) -> Handle {
        // SAFETY: the caller's promise.
        let node = unsafe { self.node() };
        if !node.add_handle_unless_first() {
            // Under the mutex: the thread that dropped the last handle releases the external bytes that
            // it left, and must not release those of this new one.
            let _locked = node.tree.lock();
            node.add_handle();
        }
        Handle(self)
    }

    /// Gives up a pin. The node may be freed as soon as that is done.
    ///
    /// # Safety
    ///
    /// The caller has that pin.
    #[inline]
    pub(crate) unsafe fn unpin(self) {
        // SAFETY: the pin is the caller's, which gives it up.
        if !unsafe { self.drop_pin_unless_last() } {
            // SAFETY: it was not given up yet.
            unsafe { drop_last_pin(self) };
        }
    }
}

/// Gives `bytes` back that are charged to the node, and releases the mutex. Whether an event of a
/// release after the close is wanted was asked before: a subscriber is not called under the mutex.
pub(super) fn release_under(mut locked: Locked<'_>, node: NodePtr, bytes: usize, wants_late: bool) {
    let late = wants_late && locked.is_closed(node);
    let late = late.then(|| locked.node(node).info.clone());
    locked.release(node, bytes);
    locked.reconsider(node);
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    if let Some(allocator) = late {
        events::late_release(&allocator, bytes);
    }
}

/// Gives up a pin that may be the last one. It takes a pointer, since the node may be freed before it
/// returns.
///
/// # Safety
///
/// The caller has that pin.
#[cold]
unsafe fn drop_last_pin(ptr: NodePtr) {
    // SAFETY: the pin keeps the node alive.
    let mut locked = unsafe { ptr.node() }.tree.lock();
    locked.drop_pin(ptr);
    if locked.look(ptr).linked {
        locked.reconsider(ptr);
    } else {
        if locked.pins(ptr) == 0 {
            locked.forget_heap(ptr, None);
        }
        locked.bury_if_free(ptr);
    }
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
}

impl Departures {
    /// Tells the listeners of the parents. A listener's panic reaches the caller.
    pub(crate) fn tell(mut self) {
        for (parent, child) in &mut self {
            if let Some(listener) = &parent.listener {
                events::inside(|| listener.on_child_removed(&parent.info, &child.info));
            }
        }
    }

    /// The same for a `Drop`: panics are caught and reported.
    #[inline]
    pub(crate) fn tell_quietly(self) {
        if !self.is_empty() {
            self.tell_some_quietly();
        }
    }

    #[cold]
    fn tell_some_quietly(mut self) {
        for (parent, child) in &mut self {
            if let Some(listener) = &parent.listener {
                quietly(&parent.info, || {
                    listener.on_child_removed(&parent.info, &child.info)
                });
            }
        }
    }
}

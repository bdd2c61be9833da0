//! What happens at a release or a transfer when somebody watches, and for foreign memory.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(unsafe_code, reason = "frees allocations, as the parent module")]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::accounting::{Node, NodePtr, hooks, quietly};
use crate::events;
use crate::outcome::AllocatorInfo;
use crate::probes;
use crate::raw::pool;
use crate::raw::release::ForeignId;
use crate::raw::slot::Slot;
use crate::sampling;
use crate::size::MAX_SIZE;
use crate::sync::Ordering;

/// `super::free` with all the extras.
///
/// # Safety
///
/// As for `super::free`.
#[inline(never)]
pub(super) unsafe fn free(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the allocation is charged to the node, so it is alive.
    let owner = unsafe { node.node() };
    // Special memory, whose size has flags, is foreign or sampled.
    let size = this.flagged_size();
    if owner.hooks != hooks::LISTENER || size > MAX_SIZE || !this.is_home() {
        // SAFETY: the caller's promise.
        return unsafe { free_any(slot) };
    }
    // SAFETY: nobody else can reach the allocation.
    let block = unsafe { this.block() };
    // SAFETY: size and alignment are those of the layout that the block was asked with.
    let layout = unsafe { Layout::from_size_align_unchecked(size, block.align) };
    probes::release(block.ptr, size, owner);
    this.vacate();
    // SAFETY: the block came from this manager with this layout; nobody can reach it any more.
    unsafe { owner.manager().deallocate(block.ptr, layout) };
    // SAFETY: vacated, and nobody else knows the slot.
    unsafe { pool::put(slot) };
    // SAFETY: these bytes were charged for the block, which is gone.
    unsafe { node.uncharge_and_tell(size, |node| tell_release(node, size)) };
}

/// As `free`, whatever the allocation is.
///
/// # Safety
///
/// As for `super::free`.
#[inline(never)]
pub(super) unsafe fn free_any(slot: NonNull<Slot>) {
    // SAFETY: the caller's promise; so nobody else can reach the allocation, which is charged to the
    // node, when its memory is freed.
    unsafe { free_with(slot, |root, node| free_memory(root, node)) }
}

/// As `free_any`, but the bytes stay charged to the ledger's node, for the caller, and no listener is
/// told. Returns how many they are.
///
/// # Safety
///
/// As for `super::free`.
pub(super) unsafe fn free_uncharged(slot: NonNull<Slot>) -> usize {
    let mut size = 0;
    let free = |root: &Slot, node: NodePtr| {
        size = root.size();
        // SAFETY: the charge keeps the node alive; nobody can reach the allocation.
        unsafe { free_bytes(root, node.node()) }
    };
    // SAFETY: the caller's promise.
    unsafe { free_with(slot, free) };
    size
}

/// Gives the slots of an allocation back that has one ledger, and its memory by `free_memory`, which
/// is called with the home slot and the node that is charged.
///
/// # Safety
///
/// As for `super::free`.
#[inline] // Into `free_any`.
unsafe fn free_with(slot: NonNull<Slot>, free_memory: impl FnOnce(&Slot, NodePtr)) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let (node, root) = (this.node(), this.home());
    let home = this.home_ptr();
    this.vacate();
    free_memory(root, node);
    if slot != home {
        // SAFETY: vacated, and nobody else knows it.
        unsafe { pool::put_used(slot) };
    }
    // SAFETY: with its last ledger alone, nobody is on the way to the home slot, and its own
    // ledger was vacated, now or when its holder left.
    unsafe { pool::put_used(home) };
}

/// Gives an allocation's memory back, then its charge, and tells the listener.
///
/// # Safety
///
/// `root` is the home slot of an allocation that nobody can reach, and it is charged to `node`.
#[inline] // Into `free_any`, which every release of foreign memory takes.
pub(super) unsafe fn free_memory(root: &Slot, node: NodePtr) {
    // SAFETY: the charge keeps the node alive.
    let owner = unsafe { node.node() };
    let size = root.size();
    // SAFETY: the caller's promise.
    unsafe { free_bytes(root, owner) };
    if owner.hearing().is_none() {
        // SAFETY: these bytes were charged for the memory that is gone.
        return unsafe { node.uncharge(size) };
    }
    // The listener hears of it when the bytes are free again.
    // SAFETY: as above.
    unsafe { node.uncharge_and_tell(size, |node| tell_release(node, size)) };
}

/// Gives an allocation's memory back, and takes it out of the sampler and the side counters of
/// `owner`, where it is charged. The charge is left to the caller.
///
/// # Safety
///
/// `root` is the home slot of an allocation that nobody can reach.
#[inline] // Into `free_memory`.
unsafe fn free_bytes(root: &Slot, owner: &Node) {
    let size = root.size();
    if root.is_sampled() {
        // Before the slot can be used again.
        sampling::forget(std::ptr::from_ref(root).addr());
    }
    // SAFETY: nobody else can reach the allocation.
    let start = unsafe { root.block() }.ptr;
    probes::release(start, size, owner);
    // SAFETY: as above.
    if let Some(release) = unsafe { root.take_foreign() } {
        let id = ForeignId::of(root.home_ptr());
        quietly(&owner.info, || release.call(start, Some(id)));
        // Relaxed: a number for readers.
        owner.foreign.fetch_sub(size, Ordering::Relaxed);
    } else {
        // SAFETY: as above, and not foreign.
        let (block, layout) = unsafe { (root.block(), root.layout()) };
        // SAFETY: the block came from this manager with this layout.
        unsafe { owner.manager().deallocate(block.ptr, layout) };
    }
    if owner.hooks & hooks::STATISTICS != 0 {
        // Relaxed: a statistic.
        owner.live_allocations.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the listener of a release, in a `Drop`.
#[inline]
pub(crate) fn tell_release(node: &Node, size: usize) {
    quietly(&node.info, || node.hearer().on_release(&node.info, size));
}

/// A charge that moved, to be told once the mutex is released.
pub(super) struct Moved {
    from: Arc<Node>,
    to: Arc<Node>,
    size: usize,
    /// What the sampler knew as the allocator before; dropped with the mutex free.
    _before: Option<AllocatorInfo>,
}

impl Moved {
    /// Moves the charge of the ledger in `slot` in the side counters, too.
    pub(super) fn new(from: Arc<Node>, to: Arc<Node>, size: usize, slot: &Slot) -> Self {
        Self {
            _before: moved_counts(&from, &to, slot),
            from,
            to,
            size,
        }
    }

    /// Tells both listeners, in a `Drop`.
    pub(super) fn tell_quietly(self) {
        quietly(&self.to.info, || tell(&self.from, &self.to, self.size));
    }
}

/// Tells both listeners after a transfer that was asked for, and reports a limit passed.
#[inline]
pub(super) fn after_transfer(from: &Node, to: &Node, size: usize, fit: bool) {
    if !fit {
        events::over_limit_after_transfer(&from.info, &to.info, size);
    }
    tell(from, to, size);
}

/// Tells the listener of each side once.
#[inline]
fn tell(from: &Node, to: &Node, size: usize) {
    if from.listener.is_some() || to.listener.is_some() {
        tell_some(from, to, size);
    }
}

#[inline(never)]
fn tell_some(from: &Node, to: &Node, size: usize) {
    let same = match (&from.listener, &to.listener) {
        (Some(a), Some(b)) => std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)),
        _ => false,
    };
    if let Some(listener) = &from.listener {
        listener.on_transfer(&from.info, &to.info, size);
    }
    if let Some(listener) = to.listener.as_ref().filter(|_| !same) {
        listener.on_transfer(&from.info, &to.info, size);
    }
}

/// Moves an allocation's entries in the nodes' side counters. Under the mutex; what it returns is
/// dropped with the mutex free.
#[must_use = "dropped with the mutex free"]
pub(super) fn moved_counts(from: &Node, to: &Node, slot: &Slot) -> Option<AllocatorInfo> {
    let home = slot.home();
    // SAFETY: under the mutex, and the allocation has several ledgers.
    probes::transfer(unsafe { home.block() }.ptr, slot.size(), from, to);
    let sampled = home.is_sampled();
    let before = sampled.then(|| sampling::moved(std::ptr::from_ref(home).addr(), &to.info));
    if slot.is_foreign() {
        let size = slot.size();
        // Relaxed, both: numbers for readers.
        from.foreign.fetch_sub(size, Ordering::Relaxed);
        to.foreign.fetch_add(size, Ordering::Relaxed);
    }
    if from.hooks & hooks::STATISTICS != 0 {
        // Relaxed, both: statistics.
        from.live_allocations.fetch_sub(1, Ordering::Relaxed);
        to.live_allocations.fetch_add(1, Ordering::Relaxed);
    }
    before.flatten()
}

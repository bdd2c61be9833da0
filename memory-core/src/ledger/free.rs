//! Freeing an allocation: its memory, its slots, and then its charge.
//!
//! [`free`] decides by the node's hooks. [`free_plain`] and [`free_heard`] free a block of a manager's
//! whose only ledger is in the home slot; [`free_any`] frees everything else, and everything where
//! more than a listener is to be told. [`free_uncharged`] leaves the charge to its caller, and the end of the last of
//! several ledgers calls [`free_memory`].
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(unsafe_code, reason = "frees slots and blocks, as the parent module")]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::notify::tell_release;
use crate::accounting::{Node, NodePtr, hooks};
use crate::events::quietly;
use crate::probes;
use crate::raw::pool;
use crate::raw::release::{ForeignId, Payer};
use crate::raw::slot::Slot;
use crate::sampling;
use crate::size::MAX_SIZE;
use crate::sync::Ordering;

/// Frees an allocation, then its charge, by its only ledger.
///
/// # Safety
///
/// The slot's ledger is the only one and owns the allocation; nobody else can reach the allocation.
#[inline]
pub(super) unsafe fn free(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let node = unsafe { slot.as_ref() }.node();
    // SAFETY: the allocation is charged to the node, so the node is alive.
    if unsafe { node.node() }.hooks == 0 {
        // SAFETY: the caller's promise is the same.
        unsafe { free_plain(slot) }
    } else {
        // SAFETY: the caller's promise is the same.
        unsafe { free_heard(slot) }
    }
}

/// Frees an allocation of a node without hooks. A function of its own, so that `free` reaches this one
/// and `free_heard` by a jump, with no register to save before it.
///
/// # Safety
///
/// The conditions of `free`.
#[inline(never)]
unsafe fn free_plain(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the allocation is charged to the node, so the node is alive.
    let owner = unsafe { node.node() };
    // The size, unless the highest bit says that the memory is special: foreign or sampled.
    let size = this.flagged_size();
    if size > MAX_SIZE || !this.is_home() {
        // SAFETY: the caller's promise is the same.
        return unsafe { free_any(slot) };
    }
    // SAFETY: the memory is not special and the slot is the home; the rest is the caller's promise.
    unsafe { free_block(slot, size, owner) };
    // SAFETY: these bytes were charged for the block, which is free.
    unsafe { node.uncharge(size) };
}

/// Frees an allocation of a node with hooks, and tells the node's listener.
///
/// # Safety
///
/// The conditions of `free`.
#[inline(never)]
unsafe fn free_heard(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the allocation is charged to the node, so the node is alive.
    let owner = unsafe { node.node() };
    // The size, unless the highest bit says that the memory is special: foreign or sampled.
    let size = this.flagged_size();
    if owner.hooks != hooks::LISTENER || size > MAX_SIZE || !this.is_home() {
        // SAFETY: the caller's promise is the same.
        return unsafe { free_any(slot) };
    }
    // SAFETY: the memory is not special and the slot is the home; the rest is the caller's promise.
    unsafe { free_block(slot, size, owner) };
    // SAFETY: these bytes were charged for the block, which is free.
    unsafe { node.uncharge_and_tell(size, |node| tell_release(node, size)) };
}

/// Frees the block and the slot of an allocation; its charge is left to the caller.
///
/// # Safety
///
/// The slot is the home slot of an allocation of `size` bytes with one ledger, which is charged to
/// `owner`. The block came from the manager of `owner`'s tree; nobody else can reach it.
#[inline(always)] // Into the two fast paths.
unsafe fn free_block(slot: NonNull<Slot>, size: usize, owner: &Node) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    // SAFETY: nobody else can reach the allocation.
    let block = unsafe { this.block() };
    // SAFETY: size and alignment are those of the layout that the block was asked with.
    let layout = unsafe { Layout::from_size_align_unchecked(size, block.align) };
    probes::release(block.ptr, size, owner.probed());
    this.vacate();
    // SAFETY: the block came from this manager with this layout; nobody can reach it any more.
    unsafe { owner.manager().deallocate(block.ptr, layout) };
    // SAFETY: vacated, and nobody else knows the slot.
    unsafe { pool::put(slot) };
}

/// Frees an allocation, whatever its memory is and whatever hooks its node has.
///
/// # Safety
///
/// The conditions of `free`.
#[inline(never)]
unsafe fn free_any(slot: NonNull<Slot>) {
    // SAFETY: the caller's promise; so nobody else can reach the allocation, which is charged to the
    // node, when its memory is freed.
    unsafe { free_with(slot, |home, node| free_memory(home, node)) }
}

/// Frees an allocation, whose bytes stay charged to the ledger's node, for the caller. No listener is
/// told. Returns its size, and how many bytes are charged: the others went back to the program's heap.
///
/// # Safety
///
/// The conditions of `free`.
pub(super) unsafe fn free_uncharged(slot: NonNull<Slot>) -> (usize, usize) {
    let mut freed = (0, 0);
    let free = |home: &Slot, node: NodePtr| {
        let mut payer = Payer::new(node);
        let size = home.size();
        // SAFETY: the charge keeps the node alive; nobody can reach the allocation.
        unsafe { free_bytes(home, node.node(), &mut payer) }
        freed = (size, size - payer.returned());
    };
    // SAFETY: the caller's promise is the same.
    unsafe { free_with(slot, free) };
    freed
}

/// Returns the slots of an allocation with one ledger to the pool, after `free_memory` has freed its
/// memory: that is called with the home slot and the node that is charged.
///
/// # Safety
///
/// The conditions of `free`.
#[inline] // Into `free_any`.
unsafe fn free_with(slot: NonNull<Slot>, free_memory: impl FnOnce(&Slot, NodePtr)) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let (node, home) = (this.node(), this.home());
    let home_ptr = this.home_ptr();
    this.vacate();
    free_memory(home, node);
    if slot != home_ptr {
        // SAFETY: vacated, and nobody else knows it.
        unsafe { pool::put_used(slot) };
    }
    // SAFETY: the only ledger has ended, and an allocation with one ledger has no buried ones, so
    // nobody needs the home slot. Its own ledger was vacated, now or when that ledger ended.
    unsafe { pool::put_used(home_ptr) };
}

/// Frees an allocation's memory, then its charge, and tells the listener.
///
/// # Safety
///
/// `home` is the home slot of an allocation that nobody can reach, and it is charged to `node`.
#[inline] // Into `free_any`, which every release of foreign memory takes.
pub(super) unsafe fn free_memory(home: &Slot, node: NodePtr) {
    // SAFETY: the charge keeps the node alive.
    let owner = unsafe { node.node() };
    let size = home.size();
    let mut payer = Payer::new(node);
    // SAFETY: the caller's promise is the same.
    unsafe { free_bytes(home, owner, &mut payer) };
    let charged = size - payer.returned();
    if owner.hearing().is_none() {
        // SAFETY: these bytes were charged for the memory, which is free. Without any, the payer keeps the node.
        return unsafe { node.uncharge(charged) };
    }
    // The listener is told once the bytes are free again.
    // SAFETY: as above.
    unsafe { node.uncharge_and_tell(charged, |node| tell_release(node, size)) };
}

/// Frees an allocation's memory, and takes it out of the sampler and the side counters of `owner`,
/// where it is charged. The charge is left to the caller, but for what the payer has returned, if `home` is foreign.
///
/// # Safety
///
/// `home` is the home slot of an allocation that nobody can reach, and is charged to `owner`, the payer's node.
#[inline(always)] // Into `free_memory`, so that the payer needs no memory.
unsafe fn free_bytes(home: &Slot, owner: &Node, payer: &mut Payer) {
    let size = home.size();
    if home.is_sampled() {
        // Before the slot can be used again.
        sampling::forget(std::ptr::from_ref(home).addr());
    }
    // SAFETY: nobody else can reach the allocation.
    let start = unsafe { home.block() }.ptr;
    probes::release(start, size, owner.probed());
    // SAFETY: as above.
    if let Some(release) = unsafe { home.take_foreign() } {
        let id = ForeignId::of(home.home_ptr());
        quietly(&owner.info, || {
            release.call(start, Some(id), Some(payer));
        });
        // Relaxed: a number for readers.
        owner.foreign.fetch_sub(size, Ordering::Relaxed);
    } else {
        // SAFETY: as above, and not foreign.
        let (block, layout) = unsafe { (home.block(), home.layout()) };
        // SAFETY: the block came from this manager with this layout.
        unsafe { owner.manager().deallocate(block.ptr, layout) };
    }
    if owner.hooks & hooks::STATISTICS != 0 {
        // Relaxed: a statistic.
        owner.live_allocations.fetch_sub(1, Ordering::Relaxed);
    }
}

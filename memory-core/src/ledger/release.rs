//! How buffers let go of a ledger: the last one of a ledger, and the last one of an allocation.
#![expect(unsafe_code, reason = "frees slots and blocks, as the parent module")]

use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::list::{self, bury};
use super::reference::{LedgerRef, Target};
use super::{hooked, view};
use crate::probes;
use crate::raw::count::Left;
use crate::raw::pool;
use crate::raw::slot::Slot;
use crate::size::MAX_SIZE;

/// Gives up a reference that was not made by cloning, and so is often the only one.
///
/// # Safety
///
/// As for `let_go`.
#[inline(never)]
pub(super) unsafe fn let_go_of_first(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_sole() {
        // SAFETY: we are the only way to the allocation.
        unsafe { free(slot) }
    } else {
        // SAFETY: our reference is given up.
        unsafe { let_go_of_one(slot) }
    }
}

/// Gives up a reference.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger.
#[inline]
pub(super) unsafe fn let_go(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().release() {
        // SAFETY: it was ours.
        unsafe { leave(slot) }
    }
}

/// Leaves a ledger whose last reference was given up.
///
/// # Safety
///
/// By the caller, just now.
#[inline(never)]
unsafe fn leave(slot: NonNull<Slot>) {
    // SAFETY: the slot is ours to give back.
    match unsafe { slot.as_ref() }.count().last_left() {
        // SAFETY: we were the only way to the allocation.
        Left::Nothing => unsafe { free(slot) },
        // SAFETY: ours was the ledger's last reference.
        Left::Ledgers => unsafe { leave_others(slot, Leaving::Uncounted) },
    }
}

/// Frees an allocation, then its charge, by its only ledger.
///
/// # Safety
///
/// The slot's ledger is the only one and owns; nobody else can reach it.
#[inline]
unsafe fn free(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let node = unsafe { slot.as_ref() }.node();
    // SAFETY: the allocation is charged to the node, so it is alive.
    if unsafe { node.node() }.hooks == 0 {
        // SAFETY: the caller's promise.
        unsafe { free_unwatched(slot) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { hooked::free(slot) }
    }
}

/// As `free`, if nobody listens or counts. A function of its own, so that either way is one jump from
/// where it is decided, with nothing to save before.
///
/// # Safety
///
/// As for `free`.
#[inline(never)]
unsafe fn free_unwatched(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the allocation is charged to the node, so it is alive.
    let owner = unsafe { node.node() };
    // The size, unless the highest bit says that the memory is special.
    let size = this.flagged_size();
    if size > MAX_SIZE || !this.is_home() {
        // SAFETY: the caller's promise.
        return unsafe { hooked::free_any(slot) };
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
    unsafe { node.uncharge(size) };
}

/// Whether the reference that goes is still in the count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is, and it was the last one when that was looked at.
    Counted,
    /// It is not, and it was the last one.
    Uncounted,
}

/// Gives up a reference that was not made by cloning, and is not the only one.
///
/// # Safety
///
/// As for `let_go`.
#[inline(never)]
unsafe fn let_go_of_one(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_last_of_shared() {
        // SAFETY: ours is a reference of a ledger that has others beside it.
        unsafe { leave_others(slot, Leaving::Counted) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { let_go(slot) }
    }
}

/// Takes a ledger without buffers off its allocation's list.
///
/// # Safety
///
/// The caller gives up a reference of the ledger, as `leaving` says, and the allocation had other
/// ledgers.
#[cold]
#[inline(never)]
unsafe fn leave_others(slot: NonNull<Slot>, leaving: Leaving) {
    // SAFETY: our reference keeps the slot; or the slot is ours to give back: its count is zero,
    // and nobody revives it.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the node counts this ledger as its guest, or the allocation is charged there.
    let tree = &unsafe { node.node() }.tree;
    // The home slot stays until we, on the list or counted in `pending`, came by.
    let root = this.home();
    let home = this.home_ptr();
    let mut locked = tree.lock();
    if leaving == Leaving::Counted {
        if !this.count().is_last_of_shared() {
            // Somebody made another buffer of this ledger, or we are the last but the only one:
            // it is as if we had not looked before.
            drop(locked);
            // SAFETY: the caller's promise.
            return unsafe { let_go(slot) };
        }
        this.count().release_last();
    }
    // SAFETY: under the mutex, as all uses of links here; one slot's at a time.
    let buried = unsafe { this.links() }.buried;
    let moved = if buried {
        // SAFETY: as above.
        unsafe { root.links() }.pending -= 1;
        None
    } else {
        bury(&mut locked, this, true)
    };
    if !this.count().is_owning() {
        locked.change_guests(node, -1);
    }
    this.vacate();
    let first = list::first(root);
    // SAFETY: as above.
    let links = unsafe { root.links() };
    if first.is_none() && links.pending > 0 {
        // Whoever comes by last may give the home slot back as soon as we let go of the mutex, so
        // the memory is left to them, with its charge.
        links.stranded().get_or_insert(node);
    }
    let (pending, stranded) = (links.pending, *links.stranded());
    if let Some(only) = list::only(root).filter(|_| pending == 0 && stranded.is_none()) {
        // SAFETY: on the list, so in use.
        unsafe { only.as_ref() }.count().set_alone();
    }
    locked.reconsider(node);
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    if let Some(moved) = moved {
        moved.tell_quietly();
    }
    if first.is_none() && pending == 0 {
        // No ledger is left and nobody else is on the way: the memory goes now, and its charge.
        // SAFETY: nobody can reach the memory or the home slot; it is charged to that node.
        unsafe { hooked::free_memory(root, stranded.unwrap_or(node)) };
    }
    if slot != home {
        // SAFETY: vacated, off the list, and nobody else is on the way to it.
        unsafe { pool::put_used(slot) };
    }
    if first.is_none() && pending == 0 {
        // SAFETY: no ledger is left and nobody is on the way (`pending` is zero), so the home's own
        // holder has been here and vacated it.
        unsafe { pool::put_used(home) };
    }
}

impl LedgerRef {
    /// Gives the reference up, as its drop does. If it was the only way to the allocation, that is freed,
    /// but its bytes stay charged to the ledger's node and are the caller's, and no listener is told.
    /// Returns how many bytes are the caller's then: none, if the allocation lives on.
    pub(crate) fn free_uncharged(self) -> usize {
        let this = match self.target() {
            Target::Slot(_) => self,
            Target::Pin(_) => return 0,
            Target::View(_) => {
                let this = ManuallyDrop::new(self);
                // SAFETY: the view is ours, and our reference to it goes here.
                unsafe { view::dissolve(this.0) }
            }
        };
        let slot = ManuallyDrop::new(this).untagged().cast::<Slot>();
        // SAFETY: our reference, which is not dropped, keeps the slot.
        let count = unsafe { slot.as_ref() }.count();
        if !count.release() {
            return 0;
        }
        match count.last_left() {
            // SAFETY: we were the only way to the allocation.
            Left::Nothing => unsafe { hooked::free_uncharged(slot) },
            Left::Ledgers => {
                // SAFETY: ours was the ledger's last reference.
                unsafe { leave_others(slot, Leaving::Uncounted) };
                0
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{AllocationManager, ArrowBuf, RootAllocator};

    #[test]
    fn a_holder_who_is_still_on_the_way_keeps_the_home_slot_and_the_memory() {
        let manager = Arc::new(TrackingManager::default());
        let root = RootAllocator::builder()
            // Takes a reference apart, which in debug mode leads to a view.
            .debug(false)
            .allocation_manager(manager.clone())
            .build()
            .unwrap();
        let (a, b) = (
            root.child("a").build().unwrap(),
            root.child("b").build().unwrap(),
        );
        let buffer = a.buffer_from_slice(&[7; 64]).unwrap();
        let shared = buffer.retain_in(&b).unwrap();
        // The first half of the drop: the count is zero, the mutex not yet taken.
        let late = buffer.ledger().untagged().cast();
        let count = buffer.ledger().slot().unwrap().count();
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Ledgers);
        std::mem::forget(buffer);

        // Buries the dead ledger, whose home slot the allocation lives in; then all others go.
        let again: ArrowBuf = shared.retain_in(&a).unwrap();
        drop(shared);
        drop(again);

        assert_eq!(
            manager.stats().live_bytes,
            Some(64),
            "freed while the last one to come by may give the slot back"
        );
        assert_eq!(root.allocated_memory(), 64);
        // SAFETY: the second half of the drop above.
        unsafe { leave_others(late, Leaving::Uncounted) };
        assert_eq!(manager.stats().live_bytes, Some(0));
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
        drop((a, b));
        assert!(root.child_allocators().is_empty());
    }
}

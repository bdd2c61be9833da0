//! How ledgers and allocations end: what the drop of each buffer does.
//!
//! # States of a ledger
//!
//! | state | buffers | SHARED | on the list |
//! |---|---|---|---|
//! | *alone* | some | no | yes, by itself |
//! | *moving*: it changes its allocator in place (see `in_place`) | one | yes | yes, by itself |
//! | *among others* | some | yes | yes |
//! | *left*: its last buffer was dropped, and the thread that dropped it waits for the mutex | none | yes | yes |
//! | *buried*: a left ledger that another thread took off the list | none | yes | no |
//! | *gone*: its slot is in the pool. A home slot stays until all ledgers of its allocation are gone | | | |
//!
//! | transition | cause | function | under the mutex |
//! |---|---|---|---|
//! | alone → gone | the last buffer is dropped; the memory is freed | [`drop_first`] or [`last_buffer_dropped`], [`free`] | no |
//! | alone → moving → alone | its holder hands it over | `in_place::move_in_place` | yes |
//! | alone → among others | another allocator needs a ledger | `list::find_or_make`, `list::add_successor` | yes |
//! | among others → alone | the last other ledger is unlinked; none is buried, and the allocation is owned | [`unlink`] of the other one | yes |
//! | among others → left | the last buffer is dropped, by a subtraction | [`drop_clone`] | no |
//! | among others → gone | the last buffer is dropped, by a thread that had taken the mutex before | [`drop_last_of_shared`], [`unlink`] | yes |
//! | left → gone | its thread gets the mutex | [`unlink_left`], [`unlink`] | yes |
//! | left → buried | a thread needs a ledger for the same allocator, and makes a new one | `list::find_or_make` | yes |
//! | left → alone, without buffers | the last other ledger is unlinked, as above. The ledger's own thread frees the memory: by [`last_buffer_dropped`] if that sees that SHARED is cleared, else by [`unlink`] | [`unlink`] of the other one | yes |
//! | buried → gone | its thread gets the mutex | [`unlink_left`], [`unlink`] | yes |
//!
//! [`drop_uncharged`], which leaves the charge to its caller, causes the transitions from *alone* and from *among
//! others* in the same way; it frees the memory by [`free_uncharged`].
//!
//! # States of an allocation
//!
//! | state | which ledger has OWNING | charged to | ends |
//! |---|---|---|---|
//! | *owned by L* | L, the only one | L's node | a transfer, or the end of L while there are other ledgers: *owned by* another one. The end of L, alone: the memory is freed |
//! | *stranded at N* | none on the list | N, which the home slot's `stranded` names | the last ledger is unlinked, the buried ones included: the memory is freed |
//!
//! An allocation is stranded in two cases. The charge of a ledger that ends cannot move to the next
//! one, because the sum there would pass `isize::MAX` (`list::hand_over`). Or the last ledger on the list
//! ends while others are buried: their threads still need the home slot ([`settle`]). No ledger
//! of a stranded allocation is made *alone*, so that each of them ends under the mutex.
#![expect(unsafe_code, reason = "frees slots, as the parent module")]

use std::ptr::NonNull;

use super::free::{free, free_memory, free_uncharged};
use super::list;
use super::notify::Moved;
use crate::accounting::{Locked, NodePtr, Tree};
use crate::raw::count::Left;
use crate::raw::pool;
use crate::raw::slot::Slot;

/// Drops a reference that came from a constructor rather than from a clone. It is usually the only
/// one, so this checks for sole ownership before it subtracts.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger, and gives it up.
#[inline(never)]
pub(super) unsafe fn drop_first(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_sole() {
        // SAFETY: the sole reference is the only way to the allocation.
        unsafe { free(slot) }
    } else {
        // SAFETY: the caller's promise is the same.
        unsafe { drop_first_of_several(slot) }
    }
}

/// Drops a reference by subtracting it from the count.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger, and gives it up.
#[inline]
pub(super) unsafe fn drop_clone(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().release() {
        // SAFETY: this reference was the ledger's last one.
        unsafe { last_buffer_dropped(slot) }
    }
}

/// Drops a reference, as `drop_clone` does. If it was the only way to the allocation, the memory is
/// freed, but its bytes stay charged to the ledger's node, for the caller, and no listener is told.
/// Returns its size, 0 if the allocation lives on, and how many bytes are charged for the caller.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger, and gives it up.
pub(super) unsafe fn drop_uncharged(slot: NonNull<Slot>) -> (usize, usize) {
    // SAFETY: the reference keeps the slot.
    let count = unsafe { slot.as_ref() }.count();
    if !count.release() {
        return (0, 0);
    }
    match count.last_left() {
        // SAFETY: the last reference of the only ledger was the only way to the allocation.
        Left::Nothing => unsafe { free_uncharged(slot) },
        Left::Ledgers => {
            // SAFETY: this reference was the ledger's last one.
            unsafe { unlink_left(slot) };
            (0, 0)
        }
    }
}

/// Ends a ledger that has no buffer any more.
///
/// # Safety
///
/// The caller just subtracted the ledger's last reference.
#[inline(never)]
unsafe fn last_buffer_dropped(slot: NonNull<Slot>) {
    // SAFETY: the slot stays until the thread that subtracted the last reference gives it back.
    match unsafe { slot.as_ref() }.count().last_left() {
        // SAFETY: the last reference of the only ledger was the only way to the allocation.
        Left::Nothing => unsafe { free(slot) },
        // SAFETY: the caller's promise is the same.
        Left::Ledgers => unsafe { unlink_left(slot) },
    }
}

/// Drops a reference that came from a constructor, and is not the only way to the allocation.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger, and gives it up.
#[inline(never)]
unsafe fn drop_first_of_several(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_last_of_shared() {
        // SAFETY: the caller's promise; and the count says that the allocation has other ledgers.
        unsafe { drop_last_of_shared(slot) }
    } else {
        // SAFETY: the caller's promise is the same.
        unsafe { drop_clone(slot) }
    }
}

/// Drops the last reference of a ledger among others under the mutex, which saves the subtraction.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger, and gives it up. It was the ledger's last one, and
/// the allocation had other ledgers, when the caller looked.
#[cold]
#[inline(never)]
unsafe fn drop_last_of_shared(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    let this = unsafe { slot.as_ref() };
    let locked = tree(this).lock();
    if !this.count().is_last_of_shared() {
        // Meanwhile another thread made a second buffer of this ledger, or the other ledgers ended.
        drop(locked);
        // SAFETY: the caller's promise is the same.
        return unsafe { drop_clone(slot) };
    }
    this.count().release_last();
    // SAFETY: the reference was the ledger's last one, and other ledgers are on the list.
    unsafe { unlink(slot, locked) }
}

/// Ends a ledger that has left: it has no buffer, and is on the list or buried.
///
/// # Safety
///
/// The caller just subtracted the ledger's last reference, and the allocation had other ledgers then.
#[cold]
#[inline(never)]
unsafe fn unlink_left(slot: NonNull<Slot>) {
    // SAFETY: the slot stays until the thread that subtracted the last reference gives it back.
    let this = unsafe { slot.as_ref() };
    // SAFETY: the caller's promise is the same.
    unsafe { unlink(slot, tree(this).lock()) }
}

/// The tree of a ledger.
fn tree(ledger: &Slot) -> &Tree {
    // SAFETY: the node is alive: it counts the ledger as its guest, or is charged for the allocation.
    &unsafe { ledger.node().node() }.tree
}

/// Takes a ledger without buffers off the list, unless that was done for this thread, and returns its
/// slot to the pool. If no thread needs the allocation any more, its memory is freed, too.
///
/// # Safety
///
/// The caller gave up the ledger's last reference; nobody else ends this ledger. The mutex is that
/// of the ledger's tree.
unsafe fn unlink(slot: NonNull<Slot>, mut locked: Locked<'_>) {
    // SAFETY: the slot stays until this thread gives it back; its count is zero, which is final.
    let this = unsafe { slot.as_ref() };
    // The home slot stays at least until the mutex is released: this ledger is on the list, or counted
    // in `pending`.
    let (node, home, home_ptr) = (this.node(), this.home(), this.home_ptr());
    let moved = take_off(&mut locked, this);
    if !this.count().is_owning() {
        locked.change_guests(node, -1);
    }
    this.vacate();
    let unreachable = settle(&locked, home, node);
    locked.reconsider(node);
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    if let Some(moved) = moved {
        moved.tell_quietly();
    }
    if let Some(charged) = unreachable {
        // SAFETY: nobody can reach the memory or the home slot; it is charged to that node.
        unsafe { free_memory(home, charged) };
    }
    if slot != home_ptr {
        // SAFETY: vacated and off the list, and only this thread knew it.
        unsafe { pool::put_used(slot) };
    }
    if unreachable.is_some() {
        // SAFETY: no ledger is left, on the list or buried, so that the home's own one ended, which
        // vacated it.
        unsafe { pool::put_used(home_ptr) };
    }
}

/// Takes a ledger without buffers off the list; a buried one is off it already.
fn take_off(locked: &mut Locked<'_>, ledger: &Slot) -> Option<Moved> {
    // SAFETY: under the mutex, as are all uses of links here; one slot's at a time.
    if unsafe { ledger.links() }.buried {
        // SAFETY: as above.
        unsafe { ledger.home().links() }.pending -= 1;
        return None;
    }
    list::take_off(locked, ledger, list::Holder::Here)
}

/// Settles what becomes of an allocation after a ledger, of `node`, was taken off its list. If
/// nobody needs the allocation any more, the answer is the node that is charged for it.
fn settle(_: &Locked<'_>, home: &Slot, node: NodePtr) -> Option<NodePtr> {
    let (first, only) = (list::first(home), list::only(home));
    // SAFETY: under the mutex; the list was read before.
    let links = unsafe { home.links() };
    let stranded = *links.stranded();
    match (first, only) {
        (None, _) if links.pending == 0 => return Some(stranded.unwrap_or(node)),
        // The thread of the last buried ledger returns the home slot to the pool, perhaps as soon as the
        // mutex is released. So the memory is left to that thread, and so is the charge.
        (None, _) => *links.stranded() = stranded.or(Some(node)),
        (_, Some(only)) if links.pending == 0 && stranded.is_none() => {
            // SAFETY: on the list, so in use.
            unsafe { only.as_ref() }.count().set_alone();
        }
        _ => {}
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{AllocationManager, ArrowBuf, RootAllocator};

    /// `other_ends_last`: of the ledgers on the list, that of another allocator is the last one.
    fn bury(other_ends_last: bool) {
        let manager = Arc::new(TrackingManager::default());
        let root = RootAllocator::builder()
            // Takes a reference apart, which in debug mode leads to a view.
            .debug(false)
            .allocation_manager(manager.clone())
            .build()
            .expect("it has a manager");
        let [a, b] = ["a", "b"].map(|name| root.child(name).build().expect("it needs no bytes"));
        let buffer = a.buffer_from_slice(&[7; 64]).expect("there is room");
        let shared = buffer.retain_in(&b).expect("there is room");
        // The first half of the drop: the count is zero, the mutex not yet taken.
        let late = buffer.ledger().untagged().cast();
        let count = buffer.ledger().slot().expect("it is charged").count();
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Ledgers);
        std::mem::forget(buffer);

        // Buries the ledger without buffers, which is in the home slot. Then all others end.
        let again: ArrowBuf = shared.retain_in(&a).expect("there is room");
        let charged = if other_ends_last {
            drop(again);
            drop(shared);
            &b
        } else {
            drop(shared);
            drop(again);
            &a
        };

        assert_eq!(
            manager.stats().live_bytes,
            Some(64),
            "freed before the last thread that needs the home slot has unlinked its ledger"
        );
        assert_eq!(root.allocated_memory(), 64);
        assert_eq!(charged.allocated_memory(), 64);
        // SAFETY: the second half of the drop above.
        unsafe { unlink_left(late) };
        assert_eq!(manager.stats().live_bytes, Some(0));
        assert_eq!((a.allocated_memory(), b.allocated_memory()), (0, 0));
        root.verify().expect("the sums are right");
        drop((a, b));
        assert!(root.child_allocators().is_empty());
    }

    #[test]
    fn a_buried_ledger_keeps_the_home_slot_and_the_memory_until_its_thread_unlinks_it() {
        bury(false);
    }

    #[test]
    fn what_a_buried_ledger_keeps_is_charged_to_the_last_one_that_had_buffers() {
        bury(true);
    }
}

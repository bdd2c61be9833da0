//! The ledgers of an allocation, in order of association: all under the tree's mutex.
#![expect(
    unsafe_code,
    reason = "slots are linked by pointers, as the parent module"
)]

use std::ptr::NonNull;

use super::transfer::Spare;
use super::{LedgerRef, hooked};
use crate::accounting::{Handle, Locked};
use crate::raw::slot::Slot;

/// Takes a ledger without buffers off the list, under the mutex. If it owned and others remain,
/// the one that has been associated longest gets the charge, and the answer says so. A ledger
/// that does not own afterwards counts as a guest. If its holder is not here but on the way, its
/// node must not leave the tree before.
pub(super) fn bury(
    locked: &mut Locked<'_>,
    slot: &Slot,
    holder_is_here: bool,
) -> Option<hooked::Moved> {
    let root = slot.home();
    unlist(root, slot);
    if !slot.count().is_owning() {
        return None;
    }
    // SAFETY: under the mutex.
    let first = unsafe { root.links() }.first?;
    // SAFETY: on the list, so in use.
    let heir = unsafe { first.as_ref() };
    let (from, to, size) = (slot.node(), heir.node(), slot.size());
    let moved = if holder_is_here {
        locked.bequeath(from, to, size)
    } else {
        locked.transfer(from, to, size)
    };
    slot.count().set_owning(false);
    locked.change_guests(from, 1);
    if moved.is_err() {
        // The sum would pass isize::MAX, which takes reservations as large. The charge stays where
        // it is until the memory goes. No ledger owns from here on, and none is told that it is
        // alone, so that whoever is the last comes by here.
        // SAFETY: under the mutex.
        unsafe { root.links() }.stranded = Some(from);
        return None;
    }
    heir.count().set_owning(true);
    locked.change_guests(to, -1);
    let moved = hooked::Moved::new(locked.keep(from), locked.keep(to), size);
    hooked::moved_counts(moved.from(), moved.to(), slot);
    Some(moved)
}

/// Takes `slot` off the list that starts at `root`.
fn unlist(root: &Slot, slot: &Slot) {
    // SAFETY: under the mutex; one reference to one slot's links at a time.
    let next = unsafe { slot.links() }.next.take();
    // SAFETY: as above.
    let mut at = unsafe { root.links() }.first;
    if at == Some(NonNull::from(slot)) {
        // SAFETY: as above.
        unsafe { root.links() }.first = next;
        return;
    }
    while let Some(before) = at {
        // SAFETY: on the list, so in use.
        let before = unsafe { before.as_ref() };
        // SAFETY: under the mutex, as above.
        let links = unsafe { before.links() };
        if links.next == Some(NonNull::from(slot)) {
            links.next = next;
            return;
        }
        at = links.next;
    }
}

/// Another reference to the ledger that the allocation of `slot` has for `target`, or to a new
/// one. Under the mutex; the caller has a buffer of `slot`.
pub(super) fn find_or_make(
    locked: &mut Locked<'_>,
    slot: &Slot,
    target: &Handle,
    spare: &mut Spare,
) -> (LedgerRef, Option<hooked::Moved>) {
    let root = slot.home();
    // SAFETY: under the mutex: there may be other ledgers; and if there is none, other holders
    // of this one look at links under the mutex only.
    let mut at = unsafe { root.links() }.first;
    let (mut last, mut moved) = (None, None);
    while let Some(here) = at {
        // SAFETY: on the list, so in use.
        let ledger = unsafe { here.as_ref() };
        // SAFETY: under the mutex.
        at = unsafe { ledger.links() }.next;
        if ledger.node() != target.ptr() {
            last = Some(here);
        } else if ledger.count().try_retain() {
            return (LedgerRef(here.cast()), moved);
        } else {
            // Dead: its last holder waits for the mutex that we hold.
            moved = bury(locked, ledger, false);
            // SAFETY: under the mutex.
            unsafe { ledger.links() }.buried = true;
            // SAFETY: as above.
            unsafe { root.links() }.pending += 1;
        }
    }
    let made = spare.slot();
    // SAFETY: the slot is fresh; `root` is the home of a live allocation.
    unsafe { Slot::init_guest(made, target.ptr(), root) };
    locked.change_guests(target.ptr(), 1);
    if let Some(last) = last {
        // SAFETY: on the list, so in use.
        let last = unsafe { last.as_ref() };
        // If it was the only one it did not know of others; setting the bit again is no harm.
        last.count().set_shared();
        // SAFETY: under the mutex.
        unsafe { last.links() }.next = Some(made);
    }
    (LedgerRef(made.cast()), moved)
}

/// A reference to a new ledger for `target`, which takes over from `slot`'s, the only one there was.
/// Under the mutex; the charge has moved already, and the caller has a buffer of `slot`.
pub(super) fn succeed(
    locked: &mut Locked<'_>,
    slot: &Slot,
    target: &Handle,
    spare: &mut Spare,
) -> LedgerRef {
    let made = spare.slot();
    // SAFETY: the slot is fresh; its home is that of a live allocation.
    unsafe { Slot::init_heir(made, target.ptr(), slot.home()) };
    // SAFETY: under the mutex; other holders of this ledger look at links there only.
    unsafe { slot.links() }.next = Some(made);
    slot.count().yield_to_another();
    locked.change_guests(slot.node(), 1);
    LedgerRef(made.cast())
}

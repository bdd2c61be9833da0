//! The ledgers of an allocation, in order of association: all under the tree's mutex.
#![expect(
    unsafe_code,
    reason = "slots are linked by pointers, as the parent module"
)]

use std::ptr::NonNull;

use super::index;
use super::notify::Moved;
use super::spare::Spare;
use crate::accounting::{Handle, Locked, NodePtr};
use crate::raw::slot::{Links, Slot};

/// Where the thread is that dropped the last buffer of a ledger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// It has the mutex, and ends the ledger.
    Here,
    /// It waits for the mutex, and needs the ledger's node until then.
    Waiting,
}

/// Takes a ledger without buffers off the list, under the mutex. If it owned the allocation and there are
/// others, the one that has been associated longest gets the charge, which the answer tells. A ledger
/// that does not own the allocation afterwards counts as a guest.
pub(super) fn take_off(locked: &mut Locked<'_>, ledger: &Slot, holder: Holder) -> Option<Moved> {
    let home = ledger.home();
    unlist(home, ledger);
    if !ledger.count().is_owning() {
        return None;
    }
    // SAFETY: on the list, so in use.
    let next_owner = unsafe { first(home)?.as_ref() };
    hand_over(locked, ledger, next_owner, holder)
}

/// Moves the charge from a ledger that ends to another one of its allocation, whatever the limits say.
/// If the sum there would pass `isize::MAX`, the allocation is stranded.
fn hand_over(
    locked: &mut Locked<'_>,
    ledger: &Slot,
    next_owner: &Slot,
    holder: Holder,
) -> Option<Moved> {
    let (from, to, size) = (ledger.node(), next_owner.node(), ledger.size());
    let moved = match holder {
        Holder::Here => locked.bequeath(from, to, size),
        // The node stays in its tree for the thread that waits.
        Holder::Waiting => locked.transfer(from, to, size),
    };
    ledger.count().set_owning(false);
    locked.change_guests(from, 1);
    if moved.is_err() {
        // Only sums with reservations of that size get here.
        // SAFETY: under the mutex.
        *unsafe { ledger.home().links() }.stranded() = Some(from);
        return None;
    }
    next_owner.count().set_owning(true);
    locked.change_guests(to, -1);
    let (from, to) = (locked.keep(from), locked.keep(to));
    Some(Moved::new(from, to, size, ledger))
}

/// The links of a slot that is in the ring of an allocation's ledgers.
///
/// # Safety
///
/// The slot is in the ring; the caller has the tree's mutex, and uses the reference before it asks
/// for this slot's again.
unsafe fn links<'a>(slot: NonNull<Slot>) -> &'a mut Links {
    // SAFETY: in the ring, so in use, or the home of one that is.
    let slot: &'a Slot = unsafe { slot.as_ref() };
    // SAFETY: the caller's promise.
    unsafe { slot.links() }
}

/// The ledger that has been associated longest with the allocation whose home slot this is. Under the
/// mutex.
pub(super) fn first(home: &Slot) -> Option<NonNull<Slot>> {
    // SAFETY: under the mutex.
    if !unsafe { home.links() }.unlisted {
        return Some(home.home_ptr());
    }
    first_guest(home)
}

/// The first one beside the home slot's own. It is the root of the index.
fn first_guest(home: &Slot) -> Option<NonNull<Slot>> {
    next(home, home.home_ptr())
}

/// The ledger on the list after the one in `slot`, which is in the ring. Under the mutex.
pub(super) fn next(home: &Slot, slot: NonNull<Slot>) -> Option<NonNull<Slot>> {
    // SAFETY: under the mutex, and in the ring.
    Some(unsafe { links(slot) }.next).filter(|&next| next != home.home_ptr())
}

/// The ledger on the list, if there is just one. Under the mutex.
pub(super) fn only(home: &Slot) -> Option<NonNull<Slot>> {
    first(home).filter(|&first| next(home, first).is_none())
}

/// Takes `slot` off the list that starts at `home`, and out of the index.
fn unlist(home: &Slot, slot: &Slot) {
    if std::ptr::eq(home, slot) {
        // SAFETY: under the mutex.
        unsafe { home.links() }.unlisted = true;
        return;
    }
    // SAFETY: as above; one reference to one slot's links at a time.
    let Links { next, previous, .. } = *unsafe { slot.links() };
    let root = first_guest(home).expect("it is on the list");
    // The pool's pointer, from the ring.
    // SAFETY: in the ring, under the mutex.
    let this = std::mem::replace(&mut unsafe { links(previous) }.next, next);
    // SAFETY: as above.
    unsafe { links(next) }.previous = previous;
    if this != root {
        // SAFETY: under the mutex; it is in the index, and not the root.
        unsafe { index::remove(this) };
    } else if let Some(heir) = first_guest(home) {
        // The root is the first one, so that the one that comes first now is its heir.
        let only = self::next(home, heir).is_none();
        // SAFETY: as above.
        unsafe { index::remove_root(root, heir, only) };
    }
}

/// Puts the ledger in `new`, a slot that `Slot::init_guest` or `init_heir` has just written, at the
/// end of the list and into the index. The answer is the ledger that was last before, or the home.
fn append(home: &Slot, new: NonNull<Slot>) -> NonNull<Slot> {
    if let Some(root) = first_guest(home) {
        // SAFETY: under the mutex; its node had none, and there is nothing below it.
        unsafe { index::insert(root, new) };
    }
    // SAFETY: under the mutex; one reference to one slot's links at a time.
    let last = std::mem::replace(&mut unsafe { home.links() }.previous, new);
    // SAFETY: in the ring, under the mutex.
    unsafe { links(last) }.next = new;
    // SAFETY: nobody else knows it yet.
    let added = unsafe { links(new) };
    (added.next, added.previous) = (home.home_ptr(), last);
    last
}

/// The ledger that the allocation has for `node`. Under the mutex.
fn find(home: &Slot, node: NodePtr) -> Option<NonNull<Slot>> {
    // SAFETY: under the mutex.
    if !unsafe { home.links() }.unlisted && home.node() == node {
        return Some(home.home_ptr());
    }
    // SAFETY: under the mutex.
    unsafe { index::find(first_guest(home)?, node) }
}

/// The ledger that the allocation of `slot` has for `target`, or a new one, with one reference more
/// for the caller. Under the mutex; the caller has a buffer of `slot`.
pub(super) fn find_or_make(
    locked: &mut Locked<'_>,
    slot: &Slot,
    target: &Handle,
    spare: &mut Spare,
) -> (NonNull<Slot>, Option<Moved>) {
    let home = slot.home();
    let mut moved = None;
    if let Some(found) = find(home, target.ptr()) {
        // SAFETY: on the list, so in use.
        let ledger = unsafe { found.as_ref() };
        if ledger.count().try_retain() {
            return (found, None);
        }
        // It has no buffer: the thread that dropped the last one waits for the mutex.
        moved = bury(locked, ledger);
    }
    let made = spare.slot();
    // SAFETY: the slot is fresh; `home` is the home of a live allocation.
    unsafe { Slot::init_guest(made, target.ptr(), home) };
    locked.change_guests(target.ptr(), 1);
    // SAFETY: in the ring, so in use; and on the list, since the caller's ledger is.
    let last = unsafe { append(home, made).as_ref() };
    if !last.count().is_shared() {
        // It was the only one until now.
        last.count().set_shared();
    }
    (made, moved)
}

/// Takes a ledger that has left off the list, for the thread that waits to do so. The home slot stays
/// until that thread had the mutex.
fn bury(locked: &mut Locked<'_>, ledger: &Slot) -> Option<Moved> {
    let moved = take_off(locked, ledger, Holder::Waiting);
    // SAFETY: under the mutex; one reference to one slot's links at a time.
    unsafe { ledger.links() }.buried = true;
    // SAFETY: as above.
    unsafe { ledger.home().links() }.pending += 1;
    moved
}

/// A new ledger for `target` with one reference, for the caller: it owns the allocation in place of
/// `slot`'s, the only ledger until now. Under the mutex; the charge has moved already, and the caller has
/// a buffer of `slot`.
pub(super) fn add_successor(
    locked: &mut Locked<'_>,
    slot: &Slot,
    target: &Handle,
    spare: &mut Spare,
) -> NonNull<Slot> {
    let made = spare.slot();
    // SAFETY: the slot is fresh; its home is that of a live allocation.
    unsafe { Slot::init_heir(made, target.ptr(), slot.home()) };
    append(slot.home(), made);
    slot.count().yield_to_another();
    locked.change_guests(slot.node(), 1);
    made
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::raw::pool;
    use crate::raw::slot::Block;

    /// An address that no test looks behind.
    fn node(number: usize) -> NodePtr {
        let address = 0x7f00_0000_0000 + 64 * number;
        let address = NonNull::new(std::ptr::without_provenance_mut(address));
        NodePtr::from_ptr(address.expect("it is not null"))
    }

    /// The same numbers in each run.
    fn random(state: &mut u64) -> usize {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 33) as usize
    }

    fn order(home: &Slot) -> Vec<NodePtr> {
        let ledgers = std::iter::successors(first(home), |&at| next(home, at));
        // SAFETY: all on the list are in use.
        ledgers
            .map(|ledger| unsafe { ledger.as_ref() }.node())
            .collect()
    }

    /// Takes a ledger off the list, and returns its slot to the pool unless it is the home.
    fn end(home: &Slot, gone: NonNull<Slot>) {
        // SAFETY: in use.
        let ledger = unsafe { gone.as_ref() };
        unlist(home, ledger);
        if !ledger.is_home() {
            ledger.vacate();
            // SAFETY: vacated, and in no list.
            unsafe { pool::put_used(gone) };
        }
    }

    #[test]
    fn the_index_and_the_list_agree_however_ledgers_come_and_go() {
        for numbers in [3, 20, 400] {
            let mut state = numbers as u64;
            let block = Block {
                ptr: NonNull::dangling(),
                align: 64,
            };
            let place = pool::take();
            // SAFETY: the slot is fresh, and neither the block nor the node is ever looked at.
            unsafe { Slot::init(place, node(0), block, 64, None) };
            // SAFETY: in use until the end.
            let home = unsafe { place.as_ref() };
            let mut expected = vec![(0, place)];

            for step in 0..20_000 {
                let number = random(&mut state) % numbers;
                let known = expected.iter().position(|&(known, _)| known == number);
                let listed = known.map(|at| expected[at].1);
                assert_eq!(find(home, node(number)), listed, "step {step}");
                if let Some(at) = known {
                    let (_, gone) = expected.remove(at);
                    end(home, gone);
                } else {
                    let made = pool::take();
                    // SAFETY: the slot is fresh, and the home is in use.
                    unsafe { Slot::init_guest(made, node(number), home) };
                    append(home, made);
                    expected.push((number, made));
                }
                if let Some(only) = only(home) {
                    // Its buffer is resized, and the memory moves.
                    // SAFETY: on the list, so in use.
                    let only = unsafe { only.as_ref() };
                    let size = 64 * (1 + step % 5);
                    // SAFETY: nobody else knows the allocation.
                    unsafe { only.set_block(NonNull::dangling(), size) };
                    assert_eq!((home.size(), only.size()), (size, size));
                }
                if step % 64 == 0 || numbers < 10 {
                    let expected: Vec<_> = expected.iter().map(|&(known, _)| node(known)).collect();
                    assert_eq!(order(home), expected);
                    assert_eq!(only(home).is_some(), expected.len() == 1);
                }
            }

            for (_, gone) in expected.into_iter().filter(|&(_, gone)| gone != place) {
                end(home, gone);
            }
            home.vacate();
            // SAFETY: vacated, and the last of its allocation.
            unsafe { pool::put_used(place) };
        }
    }
}

//! The index of an allocation's ledgers by their node: a digital search tree.
//!
//! An allocation may have a ledger for each of thousands of allocators. Before one more is added, a
//! search must tell in a short time whether its allocator has one. Nothing is allocated under the tree's
//! mutex, so the index lies in the slots: each has room for two others below it, and for the one above.
//!
//! A ledger's key is its node's address, multiplied by an odd constant: keys are as different as
//! addresses, and their high bits look random. From the root, the bits of a key from the highest
//! down say on which side it lies: every key below a ledger at depth d agrees with it in the first d
//! bits. So a search takes about log n steps, and at the maximum 64. A ledger may take the place of any
//! one that it lies below, so that a removal puts one from below in the place of the removed one.
//!
//! The home slot's own ledger is not in the index (the slot has no room, since it has the block), and
//! is looked at first. The root is the first of the others in order of association, which the ring
//! leads to, so that there need not be a pointer to it.
#![expect(unsafe_code, reason = "a tree of slots, linked by pointers")]

use std::ptr::NonNull;

use crate::accounting::NodePtr;
use crate::raw::slot::Slot;

/// The rest of a key: its highest bit tells the side below the present depth.
#[derive(Clone, Copy)]
struct Way(u64);

impl Way {
    fn to(node: NodePtr) -> Self {
        let address = node.as_ptr().addr().get() as u64;
        Self(address.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The side at this depth; afterwards it is the next depth.
    fn turn(&mut self) -> usize {
        let side = self.0 >> (u64::BITS - 1);
        self.0 <<= 1;
        side as usize
    }
}

/// The slots below one in the index.
///
/// # Safety
///
/// The slot is in the index; the caller has the tree's mutex, and uses the reference before it asks
/// for this slot's again.
unsafe fn below<'a>(slot: NonNull<Slot>) -> &'a mut [Option<NonNull<Slot>>; 2] {
    // SAFETY: in the index, so in use.
    let slot: &'a Slot = unsafe { slot.as_ref() };
    // SAFETY: the caller's promise; the home slot is not in the index.
    unsafe { slot.below() }
}

/// The slot above one in the index; none above the root.
///
/// # Safety
///
/// The slot is in the index; the caller has the tree's mutex, and uses the reference before it asks
/// for this slot's links again.
unsafe fn above<'a>(slot: NonNull<Slot>) -> &'a mut Option<NonNull<Slot>> {
    // SAFETY: in the index, so in use.
    let slot: &'a Slot = unsafe { slot.as_ref() };
    // SAFETY: the caller's promise.
    unsafe { slot.links() }.above()
}

/// The ledger that the index with this root has for `wanted`.
///
/// # Safety
///
/// `root` is the root of an index, and the caller has the tree's mutex.
pub(super) unsafe fn find(root: NonNull<Slot>, wanted: NodePtr) -> Option<NonNull<Slot>> {
    let (mut at, mut way) = (root, Way::to(wanted));
    // SAFETY: all that the index leads to is in it, so in use.
    while unsafe { at.as_ref() }.node() != wanted {
        // SAFETY: as above.
        at = unsafe { below(at) }[way.turn()]?;
    }
    Some(at)
}

/// Adds a ledger whose node has none in the index yet.
///
/// # Safety
///
/// `root` is the root of an index, and the caller has the tree's mutex. `new` is a slot in use that is not in the index, with nothing above or below it.
pub(super) unsafe fn insert(root: NonNull<Slot>, new: NonNull<Slot>) {
    // SAFETY: the caller's promise: it is in use.
    let (mut at, mut way) = (root, Way::to(unsafe { new.as_ref() }.node()));
    loop {
        // SAFETY: all that the index leads to is in it.
        let place = &mut unsafe { below(at) }[way.turn()];
        match *place {
            Some(next) => at = next,
            None => {
                *place = Some(new);
                break;
            }
        }
    }
    // SAFETY: it is in the index now.
    *unsafe { above(new) } = Some(at);
}

/// Removes the root, which `heir` replaces: the `only` other one there is, or one of several.
///
/// # Safety
///
/// `root` is the root of an index, and the caller has the tree's mutex. `heir` is in the index, and not the root.
pub(super) unsafe fn remove_root(root: NonNull<Slot>, heir: NonNull<Slot>, only: bool) {
    if !only {
        // SAFETY: the caller's promise.
        unsafe { remove(heir) };
        // SAFETY: as above.
        unsafe { replace(root, heir) };
    }
    // SAFETY: as above.
    *unsafe { above(heir) } = None;
}

/// Removes a ledger that is not the root: one below it that has none below itself takes its place.
///
/// # Safety
///
/// `slot` is in an index, and not its root; the caller has the tree's mutex.
pub(super) unsafe fn remove(slot: NonNull<Slot>) {
    // SAFETY: the caller's promise.
    let parent = unsafe { *above(slot) }.expect("it is not the root");
    // SAFETY: as above.
    let leaf = unsafe { take_leaf(slot) };
    if let Some(leaf) = leaf {
        // SAFETY: as above.
        unsafe { replace(slot, leaf) };
        // SAFETY: as above.
        *unsafe { above(leaf) } = Some(parent);
    }
    // SAFETY: all that the index leads to is in it.
    let places = unsafe { below(parent) };
    let side = usize::from(places[0] != Some(slot));
    places[side] = leaf;
}

/// Puts what is below `old` below `new`, which is in no place of the index.
///
/// # Safety
///
/// Both are slots with a place for others below them; the caller has the tree's mutex.
unsafe fn replace(old: NonNull<Slot>, new: NonNull<Slot>) {
    // SAFETY: the caller's promise.
    let moved = unsafe { *below(old) };
    // SAFETY: as above.
    *unsafe { below(new) } = moved;
    for slot in moved.into_iter().flatten() {
        // SAFETY: all that the index leads to is in it.
        *unsafe { above(slot) } = Some(new);
    }
}

/// Detaches a ledger below `slot` that has nothing below it, if there is any.
///
/// # Safety
///
/// `slot` is in an index, and the caller has the tree's mutex.
unsafe fn take_leaf(slot: NonNull<Slot>) -> Option<NonNull<Slot>> {
    let mut at = slot;
    loop {
        // SAFETY: all that the index leads to is in it.
        let places = unsafe { below(at) };
        let place = if places[0].is_some() {
            &mut places[0]
        } else {
            &mut places[1]
        };
        let next = (*place)?;
        // SAFETY: as above; another slot.
        if unsafe { below(next) }.iter().all(Option::is_none) {
            return place.take();
        }
        at = next;
    }
}

//! Moving the only ledgers of foreign allocations to another allocator in place: no second ledger is made, and none ends.
//!
//! A transfer makes a ledger for the target beside that of the source, which ends with its last buffer: the tree's mutex
//! is taken twice, and two slots are used. Where a ledger has one buffer, which the caller controls, it can change its
//! allocator instead. All ledgers of a batch do so under the mutex once, as a whole.
//!
//! # Invariants
//!
//! 1. A ledger changes its node only between [`Count::claim`](crate::raw::count::Count::claim), which finds one buffer and
//!    no other ledger and sets SHARED, and `set_alone`: both under the mutex.
//! 2. Meanwhile nobody makes a buffer on it. The holder of its buffer is the caller. A watcher adds one without the mutex
//!    only in the step in which it sees SHARED clear ([`Weak::upgrade`]).
//! 3. So nobody reads the node meanwhile but whoever has the mutex, and walks, which take what they get.
//! 4. Who finds the ledger afterwards sees its new node: by the mutex, or by the Acquire in `retain_alone`, whose partner is
//!    the Release in `set_alone`. Who had a buffer before has dropped it: what it did with the old node comes before the
//!    Acquire in `claim`, so before the caller gives up its handle on that node.
#![expect(unsafe_code, reason = "looks at slots that weak references lead to")]

use super::list;
use super::notify;
use super::reference::LedgerRef;
use super::transfer::refused;
use super::weak::Weak;
use crate::accounting::{Handle, Locked};
use crate::error::TransferError;
use crate::raw::slot::Slot;

impl LedgerRef {
    /// Whether the allocation could move from one allocator to another in place if this buffer and one more, the only
    /// other one, were the caller's, and became one: at this instant.
    pub(crate) fn may_move_in_place(&self, from: &Handle, to: &Handle) -> bool {
        let one_tree = std::ptr::eq(&*from.tree, &*to.tree) && from.ptr() != to.ptr();
        let suits = |slot: &Slot| slot.node() == from.ptr() && slot.count().is_pair();
        one_tree && !to.is_debug() && self.slot().is_some_and(suits)
    }
}

/// Moves the ledgers of these allocations from one allocator to another, with their charges, all of them or none. The
/// answer is whether no level that the charges reached is over its limit; or `None` if they cannot be moved in place, and
/// nothing has changed.
///
/// # Safety
///
/// The caller controls a buffer of each allocation: nobody else uses that buffer, or drops it, before this returns.
pub(crate) unsafe fn move_in_place<'w>(
    allocations: impl Iterator<Item = &'w Weak> + Clone,
    from: &Handle,
    to: &Handle,
    forced: bool,
) -> Result<Option<bool>, TransferError> {
    let of_tree = |weak: &Weak| weak.is_of(&from.tree) && weak.is_of(&to.tree);
    let none = allocations.clone().next().is_none();
    if none || from.ptr() == to.ptr() || to.is_debug() || !allocations.clone().all(of_tree) {
        return Ok(None);
    }
    let mut locked = to.tree.lock();
    // Whoever waits has to be told of what moves; and a closed allocator refuses with an error of its own.
    if locked.somebody_waits() || locked.is_closed(to.ptr()) {
        return Ok(None);
    }
    // SAFETY: the caller's buffer keeps each allocation.
    let Some(bytes) = (unsafe { claim(&locked, allocations.clone(), from) }) else {
        return Ok(None);
    };
    let moved = if forced {
        locked.transfer(from.ptr(), to.ptr(), bytes)
    } else {
        let fits = locked.try_transfer(from.ptr(), to.ptr(), bytes);
        fits.map(|()| true)
    };
    for weak in allocations.clone() {
        // SAFETY: claimed, so that it is still the only one.
        let Some(ledger) = (unsafe { only_ledger(&locked, weak) }) else {
            continue;
        };
        if moved.is_ok() {
            // No allocation was sampled, so that there is nothing to drop.
            let _ = notify::moved_counts(from, to, ledger);
            ledger.set_node(to.ptr());
        }
        ledger.count().set_alone();
    }
    locked.reconsider(from.ptr());
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    let fit = moved.map_err(|refusal| refused(from, to, &refusal, bytes))?;
    if !fit {
        notify::over_limit(from, to, bytes);
    }
    // SAFETY: the caller's buffer keeps each allocation.
    let sizes = allocations.map(|weak| unsafe { weak.home() }.size());
    Tell { sizes, from, to }.all();
    Ok(Some(fit))
}

/// The sizes of allocations that have moved, of which the listeners are to be told: also of the rest if one of them
/// panics.
struct Tell<'a, I: Iterator<Item = usize>> {
    sizes: I,
    from: &'a Handle,
    to: &'a Handle,
}

impl<I: Iterator<Item = usize>> Tell<'_, I> {
    fn all(mut self) {
        for size in self.sizes.by_ref() {
            notify::after_transfer(self.from, self.to, size, true);
        }
    }
}

impl<I: Iterator<Item = usize>> Drop for Tell<'_, I> {
    fn drop(&mut self) {
        for size in self.sizes.by_ref() {
            notify::tell_quietly(self.from, self.to, size);
        }
    }
}

/// Claims the ledgers of the allocations, and returns the sum of their sizes; or claims none.
///
/// # Safety
///
/// As for `move_in_place`.
unsafe fn claim<'w>(
    locked: &Locked<'_>,
    allocations: impl Iterator<Item = &'w Weak> + Clone,
    from: &Handle,
) -> Option<usize> {
    let (mut bytes, mut claimed) = (0_usize, 0);
    for weak in allocations.clone() {
        // SAFETY: the caller's promise.
        let ledger = unsafe { only_ledger(locked, weak) };
        let suits = |ledger: &&Slot| ledger.node() == from.ptr() && !ledger.home().is_sampled();
        let ledger = ledger.filter(suits).filter(|ledger| ledger.count().claim());
        let Some(ledger) = ledger else { break };
        // All of it is charged to one node, so that the sum does not overflow.
        bytes += ledger.size();
        claimed += 1;
    }
    if claimed == allocations.clone().count() {
        return Some(bytes);
    }
    for weak in allocations.take(claimed) {
        // SAFETY: claimed, so that it is still the only one.
        if let Some(ledger) = unsafe { only_ledger(locked, weak) } {
            ledger.count().set_alone();
        }
    }
    None
}

/// The ledger of an allocation that has one only.
///
/// # Safety
///
/// A buffer keeps the allocation.
unsafe fn only_ledger<'l>(_: &'l Locked<'_>, weak: &Weak) -> Option<&'l Slot> {
    // SAFETY: the caller's promise.
    let only = list::only(unsafe { weak.home() })?;
    // SAFETY: on the list, under the mutex, so in use.
    Some(unsafe { only.as_ref() })
}

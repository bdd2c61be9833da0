//! [`Weak`]: a weak reference to a foreign allocation.
#![expect(
    unsafe_code,
    reason = "looks at slots that no reference of its own keeps"
)]

use std::ptr::NonNull;

use super::list;
use super::reference::LedgerRef;
use crate::accounting::Tree;
use crate::raw::count::Left;
use crate::raw::release::ForeignId;
use crate::raw::slot::Slot;

/// A weak reference to a foreign allocation: it finds the allocation's ledgers again, and keeps nothing
/// alive.
#[derive(Clone)]
pub(crate) struct Weak {
    home: NonNull<Slot>,
    tree: NonNull<Tree>,
}

// SAFETY: the slot and the tree are touched as `upgrade` says, by any thread.
unsafe impl Send for Weak {}
// SAFETY: as for Send.
unsafe impl Sync for Weak {}

impl LedgerRef {
    /// A weak reference to the allocation, if it is foreign; `None` for memory of a manager, and for
    /// an empty buffer.
    pub(crate) fn downgrade(&self) -> Option<Weak> {
        let slot = self.slot().filter(|slot| slot.is_foreign())?;
        Some(Weak {
            home: slot.home_ptr(),
            tree: NonNull::from(&*self.node().tree),
        })
    }
}

impl Weak {
    /// Which allocation this is.
    pub(crate) fn id(&self) -> ForeignId {
        ForeignId::of(self.home)
    }

    /// Whether the allocation is charged in that tree.
    pub(crate) fn is_of(&self, tree: &Tree) -> bool {
        std::ptr::eq(self.tree.as_ptr(), tree)
    }

    /// The home slot.
    ///
    /// # Safety
    ///
    /// The release of the allocation has not returned, and does not while the reference is used.
    pub(super) unsafe fn home(&self) -> &Slot {
        // SAFETY: the home slot stays until the release has returned.
        unsafe { self.home.as_ref() }
    }

    /// A reference to one of the allocation's ledgers, unless its last buffer was dropped: to the
    /// owning one, if that has a buffer.
    ///
    /// # Safety
    ///
    /// The release of the allocation has not returned, and does not before this does.
    pub(crate) unsafe fn upgrade(&self) -> Option<LedgerRef> {
        // SAFETY: the home slot stays until the release has returned.
        let home = unsafe { self.home.as_ref() };
        match home.count().retain_alone() {
            // SAFETY: the reference that was just added.
            Ok(()) => return Some(unsafe { LedgerRef::from_slot(self.home) }),
            Err(Left::Nothing) => return None,
            // The ledger may also have been claimed, so that it moves in place; see `in_place`.
            Err(Left::Ledgers) => {}
        }
        // SAFETY: until the release has returned, the allocation is charged to a node of the tree,
        // which keeps it.
        let locked = unsafe { self.tree.as_ref() }.lock();
        for only_owning in [true, false] {
            // Under the mutex, which everyone takes who looks at links while there are several ledgers. A
            // sole holder does not look at them without it either, since the memory is foreign.
            let mut at = list::first(home);
            while let Some(here) = at {
                // SAFETY: on the list, so in use, or its release has not returned.
                let ledger = unsafe { here.as_ref() };
                at = list::next(home, here);
                let wanted = !only_owning || ledger.count().is_owning();
                if wanted && ledger.count().try_retain() {
                    // No reference is dropped here: the last one would call listeners, under the
                    // caller's locks.
                    drop(locked);
                    // SAFETY: the reference that was just added.
                    return Some(unsafe { LedgerRef::from_slot(here) });
                }
            }
        }
        None
    }
}

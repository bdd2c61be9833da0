//! [`Weak`]: a weak reference to a foreign allocation.
#![expect(
    unsafe_code,
    reason = "looks at slots that no reference of its own keeps"
)]

use std::ptr::NonNull;

use super::list;
use super::reference::LedgerRef;
use crate::accounting::Tree;
use crate::raw::release::ForeignId;
use crate::raw::slot::Slot;

/// A weak reference to a foreign allocation: it finds the allocation's ledgers again, and keeps nothing
/// alive.
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

    /// A reference to one of the allocation's ledgers, unless its last buffer was dropped: to the
    /// owning one, if that has a buffer.
    ///
    /// # Safety
    ///
    /// The release of the allocation has not returned, and does not before this does.
    pub(crate) unsafe fn upgrade(&self) -> Option<LedgerRef> {
        // SAFETY: the home slot stays until the release has returned.
        let home = unsafe { self.home.as_ref() };
        if !home.count().is_shared() {
            // A second ledger may be added just now; this one owned at the moment of the look.
            if home.count().try_retain() {
                // SAFETY: the reference that was just added.
                return Some(unsafe { LedgerRef::from_slot(self.home) });
            }
            // There is no buffer, unless a second ledger was added and this one's buffers were dropped
            // since the first look: then the bit is set.
            if !home.count().is_shared() {
                return None;
            }
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

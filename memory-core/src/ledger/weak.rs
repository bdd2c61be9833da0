//! Finding a foreign allocation again, by what keeps nothing of it alive.
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

/// What finds a foreign allocation's ledgers again, and keeps nothing alive.
pub(crate) struct Weak {
    home: NonNull<Slot>,
    tree: NonNull<Tree>,
}

// SAFETY: the slot and the tree are touched as `upgrade` says, by any thread.
unsafe impl Send for Weak {}
// SAFETY: as for Send.
unsafe impl Sync for Weak {}

impl LedgerRef {
    /// What finds foreign memory's ledgers again; `None` for our own, and for an empty buffer.
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

    /// A reference to one of the allocation's ledgers, unless its last buffer has gone: to the
    /// owning one, if that is not about to go.
    ///
    /// # Safety
    ///
    /// The release of the allocation has not returned, and does not before this does.
    pub(crate) unsafe fn upgrade(&self) -> Option<LedgerRef> {
        // SAFETY: the home slot stays until the release has returned.
        let home = unsafe { self.home.as_ref() };
        if !home.count().is_shared() {
            // A second ledger may come just now; then this one owned at the moment we looked.
            if home.count().try_retain() {
                // SAFETY: the reference that was just added.
                return Some(unsafe { LedgerRef::from_slot(self.home) });
            }
            // No buffer, unless a second ledger came and this one's buffers went since: then the
            // bit is set.
            if !home.count().is_shared() {
                return None;
            }
        }
        // SAFETY: until the release has returned, the allocation is charged to a node of the tree,
        // which keeps it.
        let locked = unsafe { self.tree.as_ref() }.lock();
        for only_owning in [true, false] {
            // Under the mutex, which all others take who have several ledgers. If one is left, its
            // holder does not look at links without it either, since the memory is foreign.
            let mut at = list::first(home);
            while let Some(here) = at {
                // SAFETY: on the list, so in use, or its release has not returned.
                let ledger = unsafe { here.as_ref() };
                at = list::next(home, here);
                let wanted = !only_owning || ledger.count().is_owning();
                if wanted && ledger.count().try_retain() {
                    // None is dropped here: a last one would tell listeners, in the caller's locks.
                    drop(locked);
                    // SAFETY: the reference that was just added.
                    return Some(unsafe { LedgerRef::from_slot(here) });
                }
            }
        }
        None
    }
}

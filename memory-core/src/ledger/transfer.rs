//! Sharing an allocation with another allocator, and moving its charge there.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is made under the mutex, where nothing is allocated"
)]
#![expect(unsafe_code, reason = "a slot that was not used goes back to the pool")]

use std::ptr::NonNull;
use std::sync::Arc;

use super::list::{find_or_make, succeed};
use super::{LedgerRef, hooked};
use crate::accounting::{Handle, Locked, NodePtr, Refusal};
use crate::error::TransferError;
use crate::raw::pool;
use crate::raw::slot::Slot;

impl LedgerRef {
    /// A reference to the allocation's ledger for `target`, which is made if there is none.
    pub(crate) fn retain_in(&self, target: &Handle) -> Result<Self, TransferError> {
        self.check_roots(target)?;
        let Some(slot) = self.slot() else {
            return Self::pin_open(target);
        };
        let mut spare = Spare::take();
        let mut locked = target.tree.lock();
        check_open(&locked, target)?;
        let (reference, moved) = find_or_make(&mut locked, slot, target, &mut spare);
        drop(locked);
        if let Some(moved) = moved {
            moved.tell_quietly();
        }
        Ok(reference)
    }

    /// As `retain_in`, and the charge moves to the target's ledger if it is this one's. The
    /// second value is whether no level that the charge reached is over its limit.
    pub(crate) fn transfer(&self, target: &Handle) -> Result<(Self, bool), TransferError> {
        self.transfer_by(target, |locked, from, size| {
            locked.transfer(from, target.ptr(), size)
        })
    }

    /// As `transfer`, if the charge fits at every level.
    pub(crate) fn try_transfer(&self, target: &Handle) -> Result<Self, TransferError> {
        self.transfer_by(target, |locked, from, size| {
            locked.try_transfer(from, target.ptr(), size).map(|()| true)
        })
        .map(|(reference, _)| reference)
    }

    fn transfer_by(
        &self,
        target: &Handle,
        move_charge: impl FnOnce(&mut Locked<'_>, NodePtr, usize) -> Result<bool, Refusal>,
    ) -> Result<(Self, bool), TransferError> {
        self.check_roots(target)?;
        let Some(slot) = self.slot() else {
            return Self::pin_open(target).map(|pin| (pin, true));
        };
        let mut spare = Spare::take();
        let mut locked = target.tree.lock();
        check_open(&locked, target)?;
        let (from, size) = (slot.node(), slot.size());
        let moves = slot.count().is_owning() && from != target.ptr();
        if moves && !slot.count().is_shared() {
            // The usual case: this is the only ledger, and gets a successor.
            let fit = match move_charge(&mut locked, from, size) {
                Ok(fit) => fit,
                Err(refusal) => {
                    drop(locked);
                    return Err(self.refused(target, &refusal, size));
                }
            };
            let reference = succeed(&mut locked, slot, target, &mut spare);
            let before = hooked::moved_counts(self.node(), target, slot);
            drop(locked);
            drop(before);
            hooked::after_transfer(self.node(), target, size, fit);
            return Ok((reference, fit));
        }
        let (mut fit, mut before) = (true, None);
        if moves {
            match move_charge(&mut locked, from, size) {
                Ok(fits) => fit = fits,
                Err(refusal) => {
                    drop(locked);
                    return Err(self.refused(target, &refusal, size));
                }
            }
        }
        let (reference, buried) = find_or_make(&mut locked, slot, target, &mut spare);
        if moves && let Some(owner) = reference.slot() {
            slot.count().set_owning(false);
            owner.count().set_owning(true);
            locked.change_guests(from, 1);
            locked.change_guests(target.ptr(), -1);
            before = hooked::moved_counts(self.node(), target, slot);
        }
        drop(locked);
        drop(before);
        if let Some(buried) = buried {
            buried.tell_quietly();
        }
        if moves {
            hooked::after_transfer(self.node(), target, size, fit);
        }
        Ok((reference, fit))
    }

    fn pin_open(target: &Handle) -> Result<Self, TransferError> {
        check_open(&target.tree.lock(), target)?;
        Ok(Self::pin(target))
    }

    #[cold]
    fn refused(&self, target: &Handle, refusal: &Refusal, bytes: usize) -> TransferError {
        match refusal {
            Refusal::Limit(levels) => TransferError::DoesNotFit {
                bytes,
                length: bytes,
                from: self.node().info.clone(),
                to: target.info.clone(),
                outcome: Box::new(levels.to_outcome()),
            },
            Refusal::Closed(to) => TransferError::Closed { to: to.clone() },
            Refusal::Overflow(to) => TransferError::SizeOverflow {
                bytes,
                to: to.clone(),
            },
        }
    }

    fn check_roots(&self, target: &Handle) -> Result<(), TransferError> {
        let node = self.node();
        if Arc::ptr_eq(&node.tree, &target.tree) {
            return Ok(());
        }
        Err(TransferError::DifferentRoots {
            from: node.info.clone(),
            to: target.info.clone(),
        })
    }
}

/// A slot that goes back to the pool unless it is used: after the mutex, which is taken later and
/// so dropped before it.
pub(super) struct Spare {
    slot: NonNull<Slot>,
    used: bool,
}

impl Spare {
    fn take() -> Self {
        Self {
            slot: pool::take(),
            used: false,
        }
    }

    /// The slot, for the caller to fill; once.
    pub(super) fn slot(&mut self) -> NonNull<Slot> {
        debug_assert!(!self.used);
        self.used = true;
        self.slot
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if !self.used {
            // SAFETY: taken by `take` and not used.
            unsafe { pool::put(self.slot) };
        }
    }
}

fn check_open(locked: &Locked<'_>, target: &Handle) -> Result<(), TransferError> {
    if locked.is_closed(target.ptr()) {
        return Err(TransferError::Closed {
            to: target.info.clone(),
        });
    }
    Ok(())
}

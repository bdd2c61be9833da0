//! Sharing an allocation with another allocator, and moving its charge there.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is made under the mutex, where nothing is allocated"
)]
#![expect(unsafe_code, reason = "makes references of slots that count them")]

use std::ptr::NonNull;
use std::sync::Arc;

use super::list::{add_successor, find_or_make};
use super::notify;
use super::reference::LedgerRef;
use super::spare::Spare;
use crate::accounting::{Handle, Locked, Node, NodePtr, Refusal};
use crate::error::TransferError;
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
        let (ledger, moved) = find_or_make(&mut locked, slot, target, &mut spare);
        // SAFETY: the ledger counts one reference for us.
        let reference = unsafe { Self::from_slot(ledger) };
        drop(locked);
        if let Some(moved) = moved {
            moved.tell_quietly();
        }
        Ok(reference)
    }

    /// A reference to the allocation's ledger for `target`, which is made if there is none. If this
    /// ledger owns the allocation, the charge moves to the target's, whatever the limits say. The
    /// second value is whether no level that the charge reached is over its limit.
    pub(crate) fn transfer(&self, target: &Handle) -> Result<(Self, bool), TransferError> {
        self.transfer_by(target, check_open, |locked, from, size| {
            locked.transfer(from, target.ptr(), size)
        })
    }

    /// Moves the charge to `target` as `transfer` does, though it may be closed: after a transfer that has to be undone. It
    /// is forced, and counts as forced, only if that is necessary.
    pub(crate) fn return_to(&self, target: &Handle) -> Result<(), TransferError> {
        self.transfer_by(target, check_linked, |locked, from, size| {
            let to = target.ptr();
            if !locked.is_closed(to) && locked.try_transfer(from, to, size).is_ok() {
                return Ok(true);
            }
            locked.transfer(from, to, size)
        })
        .map(drop)
    }

    /// A reference to the allocation's ledger for `target`, with the charge if this ledger owns the
    /// allocation; an error if the charge does not fit at some level.
    pub(crate) fn try_transfer(&self, target: &Handle) -> Result<Self, TransferError> {
        self.transfer_by(target, check_open, |locked, from, size| {
            locked.try_transfer(from, target.ptr(), size).map(|()| true)
        })
        .map(|(reference, _)| reference)
    }

    fn transfer_by(
        &self,
        target: &Handle,
        check: impl FnOnce(&Locked<'_>, &Handle) -> Result<(), TransferError>,
        move_charge: impl FnOnce(&mut Locked<'_>, NodePtr, usize) -> Result<bool, Refusal>,
    ) -> Result<(Self, bool), TransferError> {
        self.check_roots(target)?;
        let Some(slot) = self.slot() else {
            return Self::pin_open(target).map(|pin| (pin, true));
        };
        let mut spare = Spare::take();
        let mut locked = target.tree.lock();
        check(&locked, target)?;
        let (from, size) = (slot.node(), slot.size());
        let moves = slot.count().is_owning() && from != target.ptr();
        let mut fit = true;
        if moves {
            match move_charge(&mut locked, from, size) {
                Ok(fits) => fit = fits,
                Err(refusal) => {
                    drop(locked);
                    return Err(refused(self.node(), target, &refusal, size));
                }
            }
        }
        let (ledger, buried) = if moves && !slot.count().is_shared() {
            // The usual case: this is the only ledger, and gets a successor.
            (add_successor(&mut locked, slot, target, &mut spare), None)
        } else {
            let found = find_or_make(&mut locked, slot, target, &mut spare);
            if moves {
                give_ownership(&mut locked, slot, found.0);
            }
            found
        };
        // SAFETY: the ledger counts one reference for us.
        let reference = unsafe { Self::from_slot(ledger) };
        let before = moves.then(|| notify::moved_counts(self.node(), target, slot));
        drop(locked);
        drop(before);
        if let Some(buried) = buried {
            buried.tell_quietly();
        }
        if moves {
            notify::after_transfer(self.node(), target, size, fit);
        }
        Ok((reference, fit))
    }

    fn pin_open(target: &Handle) -> Result<Self, TransferError> {
        check_open(&target.tree.lock(), target)?;
        Ok(Self::pin(target))
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

/// The error of a transfer of so many bytes that was refused.
#[cold]
pub(super) fn refused(from: &Node, to: &Node, refusal: &Refusal, bytes: usize) -> TransferError {
    match refusal {
        Refusal::Limit(levels) => TransferError::DoesNotFit {
            bytes,
            length: bytes,
            from: from.info.clone(),
            to: to.info.clone(),
            outcome: Box::new(levels.to_outcome()),
        },
        Refusal::Closed(to) => TransferError::Closed { to: to.clone() },
        Refusal::Overflow(to) => TransferError::SizeOverflow {
            bytes,
            to: to.clone(),
        },
    }
}

fn check_open(locked: &Locked<'_>, target: &Handle) -> Result<(), TransferError> {
    closed_unless(!locked.is_closed(target.ptr()), target)
}

/// Only checks that the node is in its tree.
fn check_linked(locked: &Locked<'_>, target: &Handle) -> Result<(), TransferError> {
    closed_unless(locked.is_linked(target.ptr()), target)
}

fn closed_unless(usable: bool, target: &Handle) -> Result<(), TransferError> {
    if usable {
        return Ok(());
    }
    let to = target.info.clone();
    Err(TransferError::Closed { to })
}

/// Makes another ledger of the same allocation the owning one, in place of this one. Under the mutex;
/// the charge has moved already.
fn give_ownership(locked: &mut Locked<'_>, from: &Slot, to: NonNull<Slot>) {
    // SAFETY: on the list, under the mutex, so in use.
    let to = unsafe { to.as_ref() };
    from.count().set_owning(false);
    to.count().set_owning(true);
    locked.change_guests(from.node(), 1);
    locked.change_guests(to.node(), -1);
}

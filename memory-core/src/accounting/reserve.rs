//! Changing what is reserved for a node while it lives.
//!
//! A parent is charged O for a child, which is at least R. So raising R asks the parent for R - O, if that is
//! above zero. If that takes a recall at a level above, the recall also folds credit of the node and of those
//! below it, so that O falls and more has to be asked for: the number is computed anew after each recall, before
//! anything is charged.

use super::charge::{Mode, Refused};
use super::handle::Handle;
use super::node::{Locked, NodePtr};
use super::queue::Turn;
use super::refusal::Refusal;
use crate::size::MAX_SIZE;

/// A new value for a reservation, which may depend on the present one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewReservation {
    /// This many bytes.
    Exactly(usize),
    /// This many bytes more than the node has.
    Higher(usize),
}

impl NewReservation {
    /// The new value, for a node that has `present`. A sum that overflows is `usize::MAX`, which is refused.
    pub(crate) fn value(self, present: usize) -> usize {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::Higher(bytes) => present.saturating_add(bytes),
        }
    }
}

impl Handle {
    /// Sets the node's reservation, and returns its value; `None` if it stays 0, as a root's does. A refusal
    /// comes with the present value.
    pub(crate) fn set_reservation(
        &self,
        new: NewReservation,
    ) -> Result<Option<usize>, (Box<Refusal>, usize)> {
        let mut locked = self.tree.lock();
        let before = locked.reservation(self.0);
        let value = new.value(before);
        let set = locked.set_reservation(self.0, value);
        let is_set = locked.reservation(self.0) == value;
        drop(locked);
        // Boxed with the mutex released.
        set.map(|()| is_set.then_some(value))
            .map_err(|refusal| (Box::new(refusal), before))
    }

    /// Sets the node's reservation, whatever the limits say. The answer says whether it fits, and has the
    /// value as `set_reservation` has it; a refusal comes with the present value.
    pub(crate) fn force_reservation(
        &self,
        new: NewReservation,
    ) -> Result<(bool, Option<usize>), (Box<Refusal>, usize)> {
        let mut locked = self.tree.lock();
        let before = locked.reservation(self.0);
        let value = new.value(before);
        let forced = locked.force_reservation(self.0, value);
        let is_set = locked.reservation(self.0) == value;
        drop(locked);
        // Boxed with the mutex released.
        forced
            .map(|fits| (fits, is_set.then_some(value)))
            .map_err(|refusal| (Box::new(refusal), before))
    }

    /// Takes `bytes` off the node's reservation, and returns what is left; `None` if it stays 0, as a root's
    /// does. A reservation of fewer bytes is returned as the error.
    pub(crate) fn lower_reservation(&self, bytes: usize) -> Result<Option<usize>, usize> {
        let mut locked = self.tree.lock();
        let lowered = locked.take_off_reservation(self.0, bytes);
        drop(locked);
        lowered
    }

    /// The node's live reservation.
    pub(crate) fn reservation(&self) -> usize {
        self.tree.lock().reservation(self.0)
    }
}

impl Locked<'_> {
    /// Sets the node's reservation. Raising it may be refused, and then changes nothing. That of a root, which
    /// has no parent to charge, stays 0.
    pub(super) fn set_reservation(&mut self, node: NodePtr, bytes: usize) -> Result<(), Refusal> {
        if self.is_share(node) {
            return Ok(());
        }
        if bytes <= self.look(node).reservation {
            self.lower_reservation(node, bytes);
            return Ok(());
        }
        self.look_closely(node, bytes);
        if let Some(Refused { at, refusal }) = self.refuses_to_reserve(node, bytes) {
            let refused = self.refuse(at, refusal);
            return Err(self.end(node, refused));
        }
        self.raise_reservation(node, bytes, Mode::TRY)?;
        Ok(())
    }

    /// Sets the node's reservation, whatever the limits say. The answer says whether it fits.
    pub(super) fn force_reservation(
        &mut self,
        node: NodePtr,
        bytes: usize,
    ) -> Result<bool, Refusal> {
        if self.is_share(node) {
            return Ok(true);
        }
        let state = self.look(node);
        if bytes <= state.reservation {
            self.lower_reservation(node, bytes);
            return Ok(true);
        }
        let within = state.parent.is_none() || bytes <= state.bound();
        self.look_closely(node, bytes);
        let raised = self.raise_reservation(node, bytes, Mode::Forced)?;
        self.count_forced(node, raised.charged);
        Ok(within && !raised.over)
    }

    /// Takes `bytes` off the node's reservation, and returns what is left; or the reservation, if it is less.
    /// `None`: the node has none, since it is a root or has left its tree; or it is a share.
    fn take_off_reservation(
        &mut self,
        node: NodePtr,
        bytes: usize,
    ) -> Result<Option<usize>, usize> {
        let state = self.look(node);
        let reservation = state.reservation;
        if state.parent.is_none() || self.is_share(node) {
            return Ok(None);
        }
        let left = reservation.checked_sub(bytes).ok_or(reservation)?;
        self.lower_reservation(node, left);
        Ok(Some(left))
    }

    /// Why the node may not reserve as much, whatever its parent says, and who says so.
    fn refuses_to_reserve(&mut self, node: NodePtr, bytes: usize) -> Option<Refused> {
        let refused = |at, refusal| Some(Refused { at, refusal });
        let (info, state) = (&self.node(node).info, self.look(node));
        if state.closed {
            return refused(node, Refusal::Closed(info.clone()));
        }
        if bytes > state.bound() {
            if bytes > MAX_SIZE {
                return refused(node, Refusal::Overflow(info.clone()));
            }
            if !state.tight {
                // So that the numbers in the refusal are exact.
                self.recall(node);
            }
            return refused(
                node,
                Refusal::Limit(self.levels(node, bytes, node, Turn::TRY)),
            );
        }
        // A node that uses more than it has reserved would otherwise make its use its own: while others are
        // refused because of it, or although an ancestor is closed. Below a level that is over its limit, or
        // closed, all nodes are shut, and the numbers are exact, or within the reservation.
        let (mut covered, mut next) = (false, Some(node));
        while let Some(at) = next.filter(|&at| self.look(at).shut) {
            let level = self.look(at);
            if level.closed && !covered {
                return refused(at, Refusal::Closed(self.node(at).info.clone()));
            }
            if level.used() > level.bound() {
                // It refuses whatever the levels below it say, so it is the only one to name.
                return refused(at, Refusal::Limit(self.levels(at, 0, at, Turn::TRY)));
            }
            covered |= at != node && level.reservation >= level.used();
            next = level.parent;
        }
        None
    }

    fn raise_reservation(
        &mut self,
        node: NodePtr,
        bytes: usize,
        mode: Mode,
    ) -> Result<Raised, Refusal> {
        let Some(parent) = self.look(node).parent else {
            return Ok(Raised::default());
        };
        self.freeze(node);
        let missing = |locked: &Self| bytes.saturating_sub(locked.look(node).obtained);
        let mut over = false;
        if missing(self) > 0 {
            let charged = self.charge_exactly_by(parent, missing, mode, &[]);
            match charged.map_err(|refused| self.end(parent, refused)) {
                Ok(passed) => over = passed,
                Err(refusal) => {
                    self.thaw(node, parent);
                    return Err(refusal);
                }
            }
        }
        // The bytes were charged to the parent itself; now it is charged for them on the node's behalf.
        let charged = missing(self);
        self.state(parent).lent += charged;
        let state = self.state(node);
        state.obtained += charged;
        state.parked += charged;
        state.reservation = bytes;
        self.look_again(node);
        self.thaw(node, parent);
        Ok(Raised { charged, over })
    }

    /// Lowers the reservation, and returns to the parent what the node then has no use for.
    fn lower_reservation(&mut self, node: NodePtr, bytes: usize) {
        self.freeze(node);
        self.state(node).reservation = bytes;
        if self.look(node).linked {
            self.settle(node);
            // A waiter below may need more or less from above, or what the levels above never grant.
            self.look_again(node);
            self.refuse_hopeless(node);
        }
    }

    /// The node's live reservation.
    pub(super) fn reservation(&self, node: NodePtr) -> usize {
        self.look(node).reservation
    }
}

/// What raising a reservation took from the parent, and whether that passed a limit.
#[derive(Default)]
struct Raised {
    charged: usize,
    over: bool,
}

//! Changing what is reserved for a node while it lives.
//!
//! A parent is charged O for a child, which is at least R. So raising R asks the parent for R - O, if that is
//! above zero. If that takes a recall at a level above, the recall also folds credit of the node and of those below
//! it, so that O falls, and more has to be asked for. That happens once at most: after a recall the subtree has
//! no credit until the mutex is released. The bytes that were granted so far are the parent's own until the end.
//!
//! A refusal is right although credit hides in O: the parent is charged for that credit, too, so the request fits
//! with it exactly if the whole of R fits without it.

use super::charge::Mode;
use super::node::{Locked, NodePtr};
use super::refusal::Refusal;

impl Locked<'_> {
    /// Sets the node's reservation. Raising it may be refused, and then changes nothing. That of a root, which
    /// has no parent to charge, stays 0.
    pub(super) fn set_reservation(&mut self, node: NodePtr, bytes: usize) -> Result<(), Refusal> {
        if bytes <= self.reservation(node) {
            self.lower_reservation(node, bytes);
            return Ok(());
        }
        if let Some(refusal) = self.refuses_to_reserve(node, bytes) {
            let refused = self.refuse(node, refusal);
            return Err(refused.refusal);
        }
        if let Some(parent) = self.look(node).parent {
            self.raise_reservation(node, parent, bytes, Mode::Refusable)?;
        }
        Ok(())
    }

    /// Sets the node's reservation, whatever the limits say. The answer says whether it fits.
    pub(super) fn force_reservation(
        &mut self,
        node: NodePtr,
        bytes: usize,
    ) -> Result<bool, Refusal> {
        let Some(parent) = self
            .look(node)
            .parent
            .filter(|_| bytes > self.look(node).reservation)
        else {
            self.lower_reservation(node, bytes.min(self.look(node).reservation));
            return Ok(true);
        };
        let within = bytes <= self.look(node).bound();
        let raised = self.raise_reservation(node, parent, bytes, Mode::Forced)?;
        if raised.over {
            self.count_forced(node, raised.charged);
        }
        Ok(within && !raised.over)
    }

    /// Why the node may not reserve as much, whatever its parent says.
    fn refuses_to_reserve(&self, node: NodePtr, bytes: usize) -> Option<Refusal> {
        let (info, state) = (&self.node(node).info, self.look(node));
        if state.closed || !state.linked {
            return Some(Refusal::Closed(info.clone()));
        }
        if let Some(refusal) = Refusal::of_reservation(info, state.limit, bytes) {
            return Some(refusal);
        }
        // A node that uses more than it has reserved would otherwise make its use its own, while others are
        // refused because of it. A level that is over its limit is tight, so its numbers are exact.
        let mut next = Some(node);
        while let Some(at) = next {
            let level = self.look(at);
            if level.used() > level.bound() {
                // It refuses whatever the levels below it say, so it is the only one to name.
                return Some(Refusal::Limit(self.levels(at, 0, at)));
            }
            next = level.parent;
        }
        None
    }

    fn raise_reservation(
        &mut self,
        node: NodePtr,
        parent: NodePtr,
        bytes: usize,
        mode: Mode,
    ) -> Result<Raised, Refusal> {
        self.freeze(node);
        self.freeze_mine(parent);
        let mut raised = Raised::default();
        let refused = loop {
            let missing = bytes.saturating_sub(self.look(node).obtained + raised.charged);
            if missing == 0 {
                break None;
            }
            match self.charge_for_reservation(parent, missing, mode) {
                Ok(over) => {
                    raised.charged += missing;
                    raised.over |= over;
                }
                Err(refusal) => break Some(refusal),
            }
        };
        let charged = raised.charged;
        if let Some(refusal) = refused {
            if charged > 0 {
                self.release(parent, charged);
            }
            self.thaw(node, parent);
            return Err(refusal);
        }
        // The bytes were charged to the parent itself; now it is charged for them on the node's behalf.
        self.state(parent).lent += charged;
        let state = self.state(node);
        state.obtained += charged;
        state.parked += charged;
        state.reservation = bytes;
        self.thaw(node, parent);
        Ok(raised)
    }

    /// `Ok(true)`: forced, and a level is over its limit now.
    fn charge_for_reservation(
        &mut self,
        parent: NodePtr,
        bytes: usize,
        mode: Mode,
    ) -> Result<bool, Refusal> {
        if mode == Mode::Refusable {
            return self.charge(parent, bytes).map(|()| false);
        }
        self.charge_exactly(parent, bytes, mode, None)
            .map_err(|refused| self.end(parent, refused))
    }

    /// Lowers the reservation, and returns to the parent what the node then has no use for.
    fn lower_reservation(&mut self, node: NodePtr, bytes: usize) {
        if !self.look(node).linked {
            // It has given its reservation back.
            return;
        }
        self.freeze(node);
        self.state(node).reservation = bytes;
        self.settle(node);
    }

    /// The node's live reservation; 0 once it has left its tree.
    pub(super) fn reservation(&self, node: NodePtr) -> usize {
        let state = self.look(node);
        if state.linked { state.reservation } else { 0 }
    }
}

/// What raising a reservation took from the parent, and whether that passed a limit.
#[derive(Default)]
struct Raised {
    charged: usize,
    over: bool,
}

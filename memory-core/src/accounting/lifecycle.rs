//! Linking nodes into a tree and unlinking them.

use super::node::{Locked, NodePtr};
use super::queue::NONE;
use super::refusal::Refusal;

/// The findings of a failed close: bytes, and counts where the name says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    pub(crate) allocated: usize,
    pub(crate) peak: usize,
    pub(crate) limit: usize,
}

impl Locked<'_> {
    /// Links `child`, a new node that nobody else knows, below `parent`, and charges its
    /// reservation there, unless it was `admitted`: then that was charged before. After a refusal it is as new.
    pub(super) fn adopt(
        &mut self,
        parent: NodePtr,
        child: NodePtr,
        admitted: bool,
    ) -> Result<(), Refusal> {
        let reservation = self.look(child).reservation;
        if self.look(parent).closed || !self.look(parent).linked {
            return Err(Refusal::Closed(self.node(parent).info.clone()));
        }
        if reservation > 0 && !admitted {
            self.charge(parent, reservation)?;
        }
        self.link(parent, child);
        Ok(())
    }

    /// Links `child`, a new node, below `parent`, which is charged for its reservation already.
    #[inline]
    pub(super) fn link(&mut self, parent: NodePtr, child: NodePtr) {
        let reservation = self.look(child).reservation;
        let above = self.state(parent);
        // The bytes were charged to the parent itself; now it is charged for them on the child's behalf.
        above.lent += reservation;
        above.children += 1;
        let sibling = above.last_child.replace(child);
        if sibling.is_none() {
            above.first_child = Some(child);
        }
        // I2: there may be a tight level at or above a shut parent.
        let shut = above.shut;
        if let Some(sibling) = sibling {
            self.state(sibling).next_sibling = Some(child);
        }
        let state = self.state(child);
        state.obtained = reservation;
        state.parked = reservation;
        state.parent = Some(parent);
        state.previous_sibling = sibling;
        state.linked = true;
        state.shut = shut;
        if !shut {
            self.open(child);
        }
        self.recount(parent);
    }

    /// Closes the node to new work; it leaves the tree if nothing is outstanding.
    pub(super) fn close(&mut self, node: NodePtr) -> Result<(), Outstanding> {
        if !self.look(node).linked {
            self.state(node).closed = true;
            return Ok(());
        }
        self.recall(node);
        self.state(node).closed = true;
        self.refuse_hopeless(node);
        if self.retained().is_some() {
            self.retire_below(node);
        }
        let state = self.look(node);
        let outstanding = Outstanding {
            allocated: state.used(),
            peak: state.peak,
            limit: state.limit,
        };
        self.settle_what_was_obtained(node);
        self.reconsider(node);
        if self.look(node).linked {
            Err(outstanding)
        } else {
            Ok(())
        }
    }

    /// Ends a node's external bytes after its last handle was dropped, and unlinks the node if nothing is
    /// left. The answer says how many external bytes there were, and what is outstanding, the first time
    /// that something is.
    pub(super) fn orphan(&mut self, node: NodePtr) -> (usize, Option<Outstanding>) {
        let state = self.state(node);
        if !state.linked {
            // It is shut. Forced bytes may have come since it left.
            let external = std::mem::take(&mut state.external);
            (state.parked, state.obtained) = (0, 0);
            self.loosen(node);
            self.bury_if_free(node);
            return (external, None);
        }
        self.freeze(node);
        let state = self.state(node);
        let external = std::mem::take(&mut state.external);
        state.shut = true;
        state.parked += external;
        let left = Outstanding {
            allocated: state.used(),
            peak: state.peak,
            limit: state.limit,
        };
        let news = left.allocated > 0 && !state.outlived;
        state.outlived |= news;
        self.settle_what_was_obtained(node);
        self.reconsider(node);
        (external, news.then_some(left))
    }

    /// Settles a node that is closed or has no handles, and so stays shut, unless its parent is
    /// charged nothing for it: then there is nothing to return, and to look for tight levels above,
    /// of which there may be many, would be for nothing.
    fn settle_what_was_obtained(&mut self, node: NodePtr) {
        let state = self.look(node);
        debug_assert!(state.shut);
        if state.obtained > 0 {
            self.settle(node);
        }
    }

    /// Unlinks the node if nothing keeps it in the tree, then its parent likewise, and so on.
    ///
    /// A node stays for the sake of children, charged bytes, non-owning ledgers and reservations;
    /// unless it is closed, also for handles and pins.
    #[inline]
    pub(crate) fn reconsider(&mut self, node: NodePtr) {
        if self.may_leave(node) {
            self.leave(node);
        }
    }

    /// `reconsider`, for a node that may leave.
    #[inline(never)]
    fn leave(&mut self, node: NodePtr) {
        let mut at = node;
        let returned = loop {
            let parent = self.look(at).parent;
            let returned = self.unlink(at);
            self.bury_if_free(at);
            let Some(parent) = parent else { return };
            at = parent;
            if !self.may_leave(at) {
                break returned;
            }
        };
        // Once, at the node that stays, and only if something came back to it: settling looks at all
        // levels above while they are shut, and there may be many.
        if returned > 0 {
            self.settle(at);
        }
    }

    /// Whether nothing keeps the node in the tree.
    #[inline]
    fn may_leave(&self, node: NodePtr) -> bool {
        let kept = self.node(node).handles() > 0 || self.pins(node) > 0;
        let state = self.look(node);
        if !state.linked || (kept && !state.closed) {
            return false;
        }
        // Closed or without handles, the node is shut: its own bytes are known.
        debug_assert!(state.shut);
        let own = state.used() - state.lent;
        let held = own > 0 || state.children > 0 || state.guests > 0;
        !held && state.reservations.is_empty()
    }

    /// Takes an empty node out of its tree, gives back what it obtained, its reservation, and says
    /// how much that was. If it was anything, the parent is frozen afterwards.
    fn unlink(&mut self, node: NodePtr) -> usize {
        self.loosen(node);
        self.add_to_path(node);
        self.set_exact(node);
        let share = self.is_share(node);
        if self.look(node).registrations > 0 {
            self.forget_registrations(node);
        }
        if self.waits && self.look(node).queue != NONE {
            self.drop_level(node);
        }
        let state = self.state(node);
        let returned = std::mem::take(&mut state.obtained);
        (state.parked, state.lent, state.reservation) = (0, 0, 0);
        state.closed = true;
        state.linked = false;
        let (parent, next) = (state.parent.take(), state.next_sibling.take());
        let previous = state.previous_sibling.take();
        if let Some(next) = next {
            self.state(next).previous_sibling = previous;
        }
        if let Some(previous) = previous {
            self.state(previous).next_sibling = next;
        }
        self.forget_heap(node, parent);
        let Some(parent) = parent else { return 0 };
        if returned > 0 {
            self.freeze_mine(parent);
        }
        let above = self.state(parent);
        if previous.is_none() {
            above.first_child = next;
        }
        if next.is_none() {
            above.last_child = previous;
        }
        above.children -= 1;
        above.lent -= returned;
        above.parked += returned;
        if share {
            self.return_share(node, parent);
        }
        self.freed(parent);
        self.note_departure(node, parent);
        returned
    }

    /// Changes the node's limit. Lowering it revokes nothing.
    pub(super) fn set_limit(&mut self, node: NodePtr, limit: usize) {
        let cap = self.look(node).cap;
        self.set_bounds(node, limit, cap);
        self.refuse_hopeless(node);
    }

    /// Changes the node's cap, which is a second limit. Lowering it revokes nothing.
    pub(super) fn set_cap(&mut self, node: NodePtr, cap: usize) {
        let limit = self.look(node).limit;
        self.set_bounds(node, limit, cap);
    }

    fn set_bounds(&mut self, node: NodePtr, limit: usize, cap: usize) {
        self.freeze(node);
        self.state(node).set_bounds(limit, cap);
        let state = self.look(node);
        if state.used() > state.bound() {
            // No word below may go on charging as if there were room.
            match state.tight {
                false => self.recall(node),
                true => drop(self.recall_soft(node)),
            }
        }
        self.freed(node);
        self.thaw(node, node);
    }
}

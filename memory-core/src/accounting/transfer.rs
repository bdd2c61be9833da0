//! Moving a charge from one node of a tree to another in one step.

use super::charge::{Freed, Mode, Refused};
use super::node::{Locked, NodePtr};
use super::queue::Turn;
use super::refusal::Refusal;
use crate::size::checked_sum;

impl Locked<'_> {
    /// Moves `bytes` that are charged to `from` to `to`, whatever the limits say. `Ok(true)` if no
    /// level that the charge reached is over its limit afterwards.
    pub(crate) fn transfer(
        &mut self,
        from: NodePtr,
        to: NodePtr,
        bytes: usize,
    ) -> Result<bool, Refusal> {
        self.force_over(from, to, bytes, false)
    }

    /// Does what `transfer` does, for bytes that are perhaps the last ones of `from`: if `from` is closed or
    /// has no handles, it leaves the tree in the same step.
    pub(crate) fn bequeath(
        &mut self,
        from: NodePtr,
        to: NodePtr,
        bytes: usize,
    ) -> Result<bool, Refusal> {
        self.force_over(from, to, bytes, true)
    }

    fn force_over(
        &mut self,
        from: NodePtr,
        to: NodePtr,
        bytes: usize,
        leaving: bool,
    ) -> Result<bool, Refusal> {
        if self.move_unseen(from, to, bytes) {
            // `to` is open, or had credit, so it is in its tree: see `count_forced`.
            let state = self.state(to);
            state.forced = state.forced.saturating_add(bytes as u64);
            return Ok(true);
        }
        self.look_closely(to, bytes);
        self.move_through_ancestor(from, to, bytes, leaving, |locked, freed| {
            locked.charge_exactly(to, bytes, Mode::Forced, freed)
        })?;
        self.count_forced(to, bytes);
        Ok(!self.reaches_one_over(to, bytes))
    }

    /// Moves `bytes` that are charged to `from` to `to`, if they fit at every level; else a refusal that
    /// changed nothing.
    pub(crate) fn try_transfer(
        &mut self,
        from: NodePtr,
        to: NodePtr,
        bytes: usize,
    ) -> Result<(), Refusal> {
        if self.move_unseen(from, to, bytes) {
            return Ok(());
        }
        self.look_closely(to, bytes);
        self.move_through_ancestor(from, to, bytes, false, |locked, freed| {
            if let Some(at) = locked.over_above(to, bytes, freed) {
                let refusal = Refusal::Limit(locked.levels(to, bytes, at, Turn::TRY));
                return Err(locked.refuse(at, refusal));
            }
            locked.charge_exactly(to, bytes, Mode::TRY, freed)
        })
    }

    /// Moves the bytes where no level changes that both have above them, and no level that the charge
    /// reaches is over its limit. `false`: not so easy, and nothing has changed.
    fn move_unseen(&mut self, from: NodePtr, to: NodePtr, bytes: usize) -> bool {
        // Where requests wait, each level has to be told.
        if self.waits {
            return false;
        }
        self.move_obtained(from, to, bytes) || self.swap_credit(from, to, bytes)
    }

    /// The usual case, for two open nodes: up to their common ancestor, each level on one side
    /// returns what it has obtained for the bytes, and each on the other side obtains as much. What
    /// the common ancestor lends and uses stays as it was, so that nothing changes from there up.
    /// All words stay as they are, but where a low mark must start anew.
    ///
    /// Not where a reservation has a part in it: one that covers the bytes at their source keeps
    /// what was obtained for them, and one at the target may cover them with what it has.
    fn move_obtained(&mut self, from: NodePtr, to: NodePtr, bytes: usize) -> bool {
        let (source, target) = (self.look(from), self.look(to));
        // If both are open, no level at or above them is over its limit (I2), and neither is closed or
        // about to leave.
        if source.shut || target.shut {
            return false;
        }
        // The usual case: the nodes are siblings, and what their parent lends stays the same.
        let siblings = source.parent == target.parent && source.parent.is_some();
        if !siblings {
            return self.move_obtained_far(from, to, bytes);
        }
        if !self.can_return(from, bytes) || !self.can_obtain(to, bytes) {
            return false;
        }
        self.obtain_less(from, bytes);
        self.obtain_more(to, bytes);
        true
    }

    /// The same for nodes that are no siblings.
    #[inline(never)]
    fn move_obtained_far(&mut self, from: NodePtr, to: NodePtr, bytes: usize) -> bool {
        let common = self.common_ancestor(from, to);
        let possible = self.all_below(common, from, |at| self.can_return(at, bytes))
            && self.all_below(common, to, |at| self.can_obtain(at, bytes));
        if !possible {
            return false;
        }
        let mut at = from;
        while let Some(parent) = self.look(at).parent.filter(|_| at != common) {
            self.obtain_less(at, bytes);
            self.state(parent).lent -= bytes;
            at = parent;
        }
        at = to;
        while let Some(parent) = self.look(at).parent.filter(|_| at != common) {
            self.obtain_more(at, bytes);
            self.state(parent).lent += bytes;
            at = parent;
        }
        true
    }

    /// Whether all levels from `node` up to `common`, which is not asked, are as `suits` says.
    fn all_below(&self, common: NodePtr, node: NodePtr, suits: impl Fn(NodePtr) -> bool) -> bool {
        let mut at = node;
        while at != common {
            let parent = self.look(at).parent.filter(|_| suits(at));
            let Some(parent) = parent else { return false };
            at = parent;
        }
        true
    }

    /// Whether its reservation does not keep what the node has obtained for `bytes`.
    fn can_return(&self, node: NodePtr, bytes: usize) -> bool {
        self.look(node).obtained - self.look(node).reservation >= bytes
    }

    /// Whether `bytes` more fit into the node, whatever it has free.
    fn can_obtain(&self, node: NodePtr, bytes: usize) -> bool {
        let state = self.look(node);
        let room = state.bound().saturating_sub(state.used());
        bytes <= room && !state.closed && self.look(node).reservation == 0
    }

    /// Exchanges credit: `to` has credit and `from` may have more of it. What their parents are charged
    /// stays, so no ancestor changes. A reader of both numbers needs the mutex, which is held here, so it
    /// sees one step. Since `to` is open, no level above it is over its limit, or its reservation covers the bytes (I2).
    fn swap_credit(&mut self, from: NodePtr, to: NodePtr, bytes: usize) -> bool {
        // Asked first: for the peak of a common ancestor, what `from` could not keep would count on
        // top of what `to` has.
        if !self.may_give(from, bytes) || !self.take(to, bytes) {
            return false;
        }
        if !self.give(from, bytes) {
            self.release(from, bytes);
        }
        true
    }

    /// Takes `bytes` from `from`, as far up as the common ancestor, has `charge` charge them to
    /// `to`, and puts them back if it refuses. No peak is noted in between. If `from` is `leaving`,
    /// it has left its tree, where nothing else keeps it, before the charge arrives.
    pub(super) fn move_through_ancestor(
        &mut self,
        from: NodePtr,
        to: NodePtr,
        bytes: usize,
        leaving: bool,
        charge: impl FnOnce(&mut Self, Freed<'_>) -> Result<bool, Refused>,
    ) -> Result<(), Refusal> {
        let (common, freed) = self.lift(from, to, bytes);
        if leaving && self.sum_fits(common, bytes) {
            self.hold = true;
            self.reconsider(from);
            self.hold = false;
        }
        let result = charge(self, &[(common, freed)])
            .map(drop)
            .map_err(|mut refused| {
                if let Refusal::Limit(levels) = &mut refused.refusal
                    && self.node(refused.at).depth <= self.node(common).depth
                    && let Some((keeper, bytes)) = self.kept_by_reservation(from, common, bytes)
                {
                    levels.note_kept(&self.node(keeper).info, bytes);
                }
                // Nothing was opened since: the free bytes are all there, up to the common ancestor or
                // to the refuser, and are put to their old use.
                self.freeze(from);
                self.commit(from, bytes, 0);
                self.end(to, refused)
            });
        self.settle_lifted(from, common);
        result
    }

    /// Takes `bytes` from `from`, and returns them to the levels above, up to the common ancestor with `to`. Returns
    /// that, and how many bytes came there. What it reaches is frozen, and stays so until `settle_lifted`.
    pub(super) fn lift(&mut self, from: NodePtr, to: NodePtr, bytes: usize) -> (NodePtr, usize) {
        let common = self.common_ancestor(from, to);
        self.freeze(from);
        self.state(from).parked += bytes;
        let (mut at, mut freed) = (from, bytes);
        while at != common {
            let Some(parent) = self.look(at).parent else {
                break;
            };
            self.freeze(parent);
            freed = self.fold(at);
            self.recount(at);
            self.kept(at);
            at = parent;
        }
        (common, freed)
    }

    /// Ends what `lift` began, after its bytes were charged elsewhere, or put back.
    pub(super) fn settle_lifted(&mut self, from: NodePtr, common: NodePtr) {
        self.freeze(common);
        self.settle(common);
        self.thaw(from, common);
    }

    /// The level below `common` whose reservation keeps the largest part of `bytes` charged, which `from`
    /// does not use any more, and how many those are.
    #[cold]
    fn kept_by_reservation(
        &self,
        from: NodePtr,
        common: NodePtr,
        bytes: usize,
    ) -> Option<(NodePtr, usize)> {
        let (mut at, mut moving, mut kept) = (from, bytes, None);
        while at != common {
            let state = self.look(at);
            let (used, reservation) = (state.used(), self.look(at).reservation);
            // The parent's charge for this level, with those bytes and without them.
            let before = used.saturating_add(moving).max(reservation);
            let released = before - used.max(reservation);
            let stays = moving - released;
            if stays > kept.map_or(0, |(_, largest)| largest) {
                kept = Some((at, stays));
            }
            moving = released;
            at = state.parent?;
        }
        kept
    }

    /// Whether no sum from here up can overflow by `bytes` more.
    fn sum_fits(&self, node: NodePtr, bytes: usize) -> bool {
        checked_sum(self.look(self.root_of(node)).used(), bytes).is_some()
    }

    /// Whether a level that a charge of `bytes` to `node` reached is over its limit.
    ///
    /// A charge reaches a level if, had it been taken off its source first, it would add something
    /// there; so an ancestor whose sum stays as it was is reached too, and what lies above a
    /// reservation that covers the charge is not. Over means tight, and all below a tight level is
    /// exact, or covered by its reservation whatever is free in its words; where nothing is tight, nothing is over.
    pub(super) fn reaches_one_over(&self, node: NodePtr, bytes: usize) -> bool {
        let (mut at, mut reaching) = (node, bytes);
        loop {
            let state = self.look(at);
            if state.used() > state.bound() {
                return true;
            }
            reaching = reaching.min(state.used().saturating_sub(self.look(at).reservation));
            match state.parent {
                Some(parent) if reaching > 0 => at = parent,
                _ => return false,
            }
        }
    }

    /// The first level above the common ancestor that would be over its limit after a charge of
    /// `bytes` to `node` that reaches it. `None` too if it would not even fit up to there.
    fn over_above(&mut self, node: NodePtr, bytes: usize, freed: Freed<'_>) -> Option<NodePtr> {
        let (mut at, mut reaching) = (node, bytes);
        // From the common ancestor upwards: what the level below will be charged less.
        let mut returned = None;
        loop {
            if self.look(at).shut {
                // Below a level that is over its limit its words may be open, if a reservation covers them.
                self.freeze(at);
            }
            let state = self.look(at);
            let after = match returned {
                None => state.used().saturating_add(reaching),
                Some(less) => state.used() - less,
            };
            if after > state.bound() {
                return returned.map(|_| at);
            }
            let reservation = self.look(at).reservation;
            reaching = reaching.min(after.saturating_sub(reservation));
            if returned.is_some() || freed.iter().any(|&(common, _)| common == at) {
                returned = Some(state.obtained.saturating_sub(after.max(reservation)));
            }
            at = state.parent.filter(|_| reaching > 0)?;
        }
    }

    /// The deepest node that is at or above both.
    pub(super) fn common_ancestor(&self, a: NodePtr, b: NodePtr) -> NodePtr {
        let (mut a, mut b) = (a, b);
        while a != b {
            let (deeper, other) = if self.node(a).depth >= self.node(b).depth {
                (&mut a, b)
            } else {
                (&mut b, a)
            };
            match self.look(*deeper).parent {
                Some(parent) => *deeper = parent,
                // Unlinked: `a` and `b` then share no ancestor, and the caller's bytes say
                // otherwise.
                None => return other,
            }
        }
        a
    }
}

//! The slow path: granting, refusing, forcing and giving back under the tree's mutex.

use super::node::{Locked, NodePtr};
use super::refusal::{Levels, Refusal};
use crate::outcome::OutcomeEntry;
use crate::size::MAX_SIZE;

/// How a walk towards the root ended.
enum Plan {
    /// Every level has room. `over`: forced, and a level that it reached will be over its limit.
    Fits { top: NodePtr, over: bool },
    /// This level would pass its limit.
    Short { at: NodePtr },
    /// This level is closed.
    Closed { at: NodePtr },
}

/// A refusal, and the level that made it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) at: NodePtr,
    pub(super) refusal: Refusal,
}

/// Whether a charge may pass limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Refusable,
    Forced,
}

/// For a transfer: the common ancestor, and the bytes that the source set free there. To use them
/// again is no new work, even if that ancestor is closed.
pub(super) type Freed = Option<(NodePtr, usize)>;

impl Locked<'_> {
    /// Charges `bytes` to `node`, or refuses; the caller has a handle or bytes of it.
    pub(super) fn charge(&mut self, node: NodePtr, bytes: usize) -> Result<(), Refusal> {
        if !self.look(node).shut && self.charge_with_quantum(node, bytes) {
            return Ok(());
        }
        self.charge_exactly(node, bytes, Mode::Refusable, None)
            .map_err(|refused| self.end(node, refused))?;
        Ok(())
    }

    /// Charges `bytes` to `node` whatever the limits say; `Ok(true)` if no level that it reached
    /// is over its limit afterwards.
    pub(super) fn force(&mut self, node: NodePtr, bytes: usize) -> Result<bool, Refusal> {
        let forced = self.charge_exactly(node, bytes, Mode::Forced, None);
        let over = forced.map_err(|refused| self.end(node, refused))?;
        self.count_forced(node, bytes);
        Ok(!over)
    }

    /// Counts bytes that were charged by force.
    pub(super) fn count_forced(&mut self, node: NodePtr, bytes: usize) {
        let state = self.state(node);
        state.forced = state.forced.saturating_add(bytes as u64);
        // Nobody measures a node that has left its tree.
        if !state.linked {
            self.add_to_path(node);
        }
    }

    /// The usual case: grants `bytes` and some credit for later requests, if no level that it reaches
    /// comes near its limit. Stops at the first level with enough credit. `false`: not so easy,
    /// and nothing has changed.
    fn charge_with_quantum(&mut self, node: NodePtr, bytes: usize) -> bool {
        self.freeze_mine(node);
        let quantum = self.quantum(node, bytes);
        let Some(wanted) = bytes.checked_add(quantum) else {
            self.thaw(node, node);
            return false;
        };
        let (mut at, mut need) = (node, wanted);
        let granted = loop {
            let state = self.look(at);
            // No quantum where it would use up more than half of what is left.
            let room = state.bound().saturating_sub(state.used()) / 2;
            if state.closed || need > room {
                break false;
            }
            if need <= state.parked {
                break true;
            }
            need -= state.parked;
            let Some(parent) = state.parent else {
                break true;
            };
            at = parent;
            self.freeze_mine(at);
        };
        if granted {
            self.commit(node, bytes, quantum);
        }
        self.thaw(node, at);
        granted
    }

    /// How much credit a node should get beyond a request: a share of what it uses, and room for
    /// a few more of the same.
    fn quantum(&self, node: NodePtr, bytes: usize) -> usize {
        let max = self.tree().config.credit / 2;
        (self.look(node).used() / 4)
            .max(bytes.saturating_mul(2))
            .min(max)
    }

    /// Decides at exact size. `Ok(true)`: forced, and a level is over its limit now. After a refusal
    /// the levels up to the refuser are still frozen: see [`end`](Self::end).
    pub(super) fn charge_exactly(
        &mut self,
        node: NodePtr,
        bytes: usize,
        mode: Mode,
        freed: Freed,
    ) -> Result<bool, Refused> {
        self.charge_exactly_by(node, |_| bytes, mode, freed)
    }

    /// The same for a number of bytes that a recall may change: it is asked for again after each.
    pub(super) fn charge_exactly_by(
        &mut self,
        node: NodePtr,
        bytes: impl Fn(&Self) -> usize,
        mode: Mode,
        freed: Freed,
    ) -> Result<bool, Refused> {
        // Up to here all is exact, by a recall of this very call.
        let mut exact = None;
        loop {
            let bytes = bytes(self);
            match self.plan(node, bytes, mode, freed, exact) {
                Plan::Fits { top, over } => {
                    self.commit(node, bytes, 0);
                    self.thaw(node, top);
                    return Ok(over);
                }
                Plan::Short { at } if !self.look(at).tight => {
                    self.recall(at);
                    exact = Some(at);
                }
                Plan::Short { at } => {
                    // All below `at` is exact and shut since before this look: here is the
                    // instant at which the request does not fit.
                    // A forced charge is refused only where the sum would overflow.
                    let overflows = mode == Mode::Forced || self.look(at).limit > MAX_SIZE;
                    let refusal = if overflows {
                        Refusal::Overflow(self.node(at).info.clone())
                    } else {
                        Refusal::Limit(self.levels(node, bytes, at))
                    };
                    return Err(self.refuse(at, refusal));
                }
                Plan::Closed { at } => {
                    let refusal = Refusal::Closed(self.node(at).info.clone());
                    return Err(self.refuse(at, refusal));
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, at: NodePtr, refusal: Refusal) -> Refused {
        let state = self.state(at);
        state.refusals += 1;
        if !state.linked {
            self.add_to_path(at);
        }
        Refused { at, refusal }
    }

    /// Ends a request of `node` that was refused.
    pub(super) fn end(&mut self, node: NodePtr, refused: Refused) -> Refusal {
        self.thaw(node, refused.at);
        refused.refusal
    }

    /// Walks from `node` to the level that can grant `bytes`, and freezes each node that it passes. Free bytes
    /// of a level cover the request before its parent is asked.
    ///
    /// All is `exact` up to that level, if any. A forced charge that passes limits names the highest
    /// of those levels that are not tight, so that one recall serves them all.
    fn plan(
        &mut self,
        node: NodePtr,
        bytes: usize,
        mode: Mode,
        freed: Freed,
        mut exact: Option<NodePtr>,
    ) -> Plan {
        let (mut at, mut need, mut over, mut highest) = (node, bytes, false, None);
        loop {
            self.freeze(at);
            let state = self.look(at);
            let moves = freed.is_some_and(|(place, freed)| place == at && need <= freed);
            if state.closed && mode == Mode::Refusable && !moves {
                return Plan::Closed { at };
            }
            let fits = state
                .used()
                .checked_add(need)
                .is_some_and(|sum| sum <= state.bound());
            if !fits {
                let overflows = state
                    .used()
                    .checked_add(need)
                    .is_none_or(|sum| sum > MAX_SIZE);
                if mode == Mode::Refusable || overflows {
                    return Plan::Short { at };
                }
                over = true;
                if exact.is_some() {
                    self.tighten(at, 1);
                } else if !state.tight {
                    highest = Some(at);
                }
            }
            if exact == Some(at) {
                exact = None;
            }
            let state = self.look(at);
            let parent = state.parent.filter(|_| need > state.parked);
            need = need.saturating_sub(state.parked);
            match (parent, highest) {
                (Some(parent), _) => at = parent,
                (None, Some(at)) => return Plan::Short { at },
                (None, None) => return Plan::Fits { top: at, over },
            }
        }
    }

    /// Carries out what was planned: uses what is free, obtains the rest from above, and leaves
    /// `extra` bytes free at `node`. The levels that it reaches are frozen.
    pub(super) fn commit(&mut self, node: NodePtr, bytes: usize, extra: usize) {
        let (mut at, mut need, mut keep) = (node, bytes + extra, extra);
        loop {
            let state = self.state(at);
            let deficit = need.saturating_sub(state.parked);
            state.obtained += deficit;
            state.parked = state.parked + deficit - need + keep;
            state.note_peak();
            if deficit == 0 {
                return;
            }
            let Some(parent) = state.parent else { return };
            self.state(parent).lent += deficit;
            (at, need, keep) = (parent, deficit, 0);
        }
    }

    /// Gives back `bytes` that are charged to `node`.
    pub(super) fn release(&mut self, node: NodePtr, bytes: usize) {
        self.freeze_mine(node);
        self.state(node).parked += bytes;
        self.settle(node);
    }

    /// Returns what `node` and its ancestors hold beyond what they may keep, and thaws them.
    /// `node` is frozen, at least for this thread.
    pub(super) fn settle(&mut self, node: NodePtr) {
        let tight = self.topmost_tight(node);
        let mut exact = tight.is_some() && tight != Some(node);
        let mut at = node;
        loop {
            let excess = self.excess(at, exact);
            let state = self.state(at);
            state.parked -= excess;
            state.obtained -= excess;
            let Some(parent) = state.parent.filter(|_| excess > 0) else {
                break;
            };
            self.freeze_mine(parent);
            let state = self.state(parent);
            state.lent -= excess;
            state.parked += excess;
            exact = exact && tight != Some(parent);
            at = parent;
        }
        self.thaw(node, at);
    }

    /// How many bytes a frozen node must return: below a tight level all that its reservation does not
    /// cover; elsewhere, with hysteresis, what is above the credit that it may hold.
    fn excess(&self, node: NodePtr, exact: bool) -> usize {
        let state = self.look(node);
        let unused = state.obtained - state.reservation.max(state.used());
        if exact || state.closed || self.node(node).handles() == 0 {
            return unused;
        }
        let max = self.max_unused(node);
        if unused <= max { 0 } else { unused - max / 2 }
    }

    /// Makes all below `at` exact: stops the whole subtree, then folds each node's free bytes
    /// into what its parent is charged for it, so that `obtained` is the larger of reservation
    /// and use. Everything stays shut, and `at` is tight, until `relax` says otherwise.
    pub(super) fn recall(&mut self, at: NodePtr) {
        let mut visited = 0;
        let mut next = Some(at);
        while let Some(node) = next {
            self.freeze(node);
            self.state(node).shut = true;
            visited += 1;
            next = self.next_preorder(node, at);
        }
        // From here on nothing moves in this subtree without the mutex.
        self.for_each_postorder(at, |locked, node| {
            if node != at {
                locked.fold(node);
            }
        });
        self.tighten(at, visited);
        self.state(at).note_peak();
    }

    /// Returns to the parent what the node's reservation and use do not need, and says how much
    /// that was. Both are frozen.
    pub(super) fn fold(&mut self, node: NodePtr) -> usize {
        let excess = self.excess(node, true);
        let state = self.state(node);
        state.parked -= excess;
        state.obtained -= excess;
        if let Some(parent) = state.parent {
            let state = self.state(parent);
            state.lent -= excess;
            state.parked += excess;
        }
        excess
    }

    /// The tight level nearest to the root at or above `node`. Nothing at or above a node that is
    /// not shut is tight (I2), so that this costs little in deep trees whose leaves are created and
    /// dropped often.
    fn topmost_tight(&mut self, node: NodePtr) -> Option<NodePtr> {
        let (mut topmost, mut next) = (None, Some(node));
        if !self.some_are_tight() {
            return None;
        }
        while let Some(node) = next.filter(|&node| self.look(node).shut) {
            let state = self.look(node);
            if state.tight {
                topmost = Some(node);
            }
            next = state.parent;
        }
        topmost
    }

    /// Ends an operation that froze the levels from `node` up to `top`: lets tight levels relax
    /// where they may, and opens what is not at or below a tight one.
    pub(super) fn thaw(&mut self, node: NodePtr, top: NodePtr) {
        self.relax(node);
        // At and below the topmost tight level everything stays shut.
        let tight = self.topmost_tight(node).or_else(|| self.topmost_tight(top));
        let mut below = tight.is_some();
        let mut at = node;
        loop {
            if !below {
                self.reopen(at);
            }
            if tight == Some(at) {
                below = false;
            }
            if at == top {
                return;
            }
            match self.look(at).parent {
                Some(parent) => at = parent,
                None => return,
            }
        }
    }

    /// Opens a frozen node that no tight level covers, unless it must stay shut for itself.
    fn reopen(&mut self, node: NodePtr) {
        let orphan = self.node(node).handles() == 0;
        let never = self.tree().config.credit == 0;
        let state = self.state(node);
        debug_assert!(!state.tight);
        state.shut = state.closed || orphan || never;
        if !state.shut && !self.hold {
            self.open(node);
        }
    }

    /// Counts an operation at the tight levels above `node`, and loosens those that have had
    /// enough of them, and some slack, since their last recall: so a recall's cost is spread
    /// over as many operations, and a client that keeps asking for too much costs the others
    /// nothing but the mutex.
    fn relax(&mut self, node: NodePtr) {
        let mut next = Some(node).filter(|_| self.some_are_tight());
        while let Some(node) = next.filter(|&node| self.look(node).shut) {
            let state = self.state(node);
            next = state.parent;
            if !state.tight {
                continue;
            }
            state.tight_operations += 1;
            let bound = state.bound();
            let slack = (bound / 8).max(1);
            let has_slack = state.used() <= bound.saturating_sub(slack);
            if has_slack && !state.closed && state.tight_operations >= state.recall_cost {
                self.loosen(node);
            }
        }
    }

    /// The levels of a refused request and their numbers; all up to `refuser` is exact.
    pub(super) fn levels(&self, node: NodePtr, bytes: usize, refuser: NodePtr) -> Levels {
        let mut levels = Levels::default();
        let (mut at, mut need) = (node, bytes);
        loop {
            let (this, state) = (self.node(at), self.look(at));
            levels.push(OutcomeEntry {
                allocator: this.info.clone(),
                limit: state.limit,
                allocated: state.used(),
                reservation: state.reservation,
                requested: need,
            });
            need = need.saturating_sub(state.parked);
            match state.parent {
                Some(parent) if at != refuser => at = parent,
                _ => return levels,
            }
        }
    }
}

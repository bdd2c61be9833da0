//! The slow path: granting, refusing and forcing under the tree's mutex.

use super::node::{Locked, NodePtr};
use super::queue::Turn;
use super::refusal::{Levels, Refusal};
use crate::outcome::OutcomeEntry;
use crate::size::MAX_SIZE;

/// How a walk towards the root ended.
pub(super) enum Plan {
    /// Every level has room. `over`: forced, and a level that it reached will be over its limit.
    Fits { top: NodePtr, over: bool },
    /// This level would pass its limit, or has to leave room to a waiter. `needed` is what must be free there.
    Short { at: NodePtr, needed: usize },
    /// This level is closed.
    Closed { at: NodePtr },
}

/// Why a request is not granted. All below a level that is short is exact and shut.
#[derive(Clone, Copy)]
pub(super) enum Obstacle {
    /// The request does not fit at this level until `needed` bytes are free there.
    Short { at: NodePtr, needed: usize },
    /// This level is closed.
    Closed { at: NodePtr },
    /// The sum of this level would pass what a signed size can express.
    Overflow { at: NodePtr },
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
    /// It may not, and leaves the room that is withheld for older waiters.
    Refusable(Turn),
    Forced,
}

impl Mode {
    /// That of a request that does not wait.
    pub(super) const TRY: Self = Self::Refusable(Turn::TRY);
}

/// For a transfer: the common ancestors with the sources, each once, and the bytes that those set free there. To use
/// them again is no new work, even if that ancestor is closed.
pub(super) type Freed<'a> = &'a [(NodePtr, usize)];

/// The bytes that were set free at a level.
pub(super) fn freed_at(freed: Freed<'_>, at: NodePtr) -> usize {
    let place = freed.iter().find(|&&(place, _)| place == at);
    place.map_or(0, |&(_, bytes)| bytes)
}

impl Locked<'_> {
    /// Charges `bytes` to `node`, or refuses; the caller has a handle or bytes of it.
    pub(super) fn charge(&mut self, node: NodePtr, bytes: usize) -> Result<(), Refusal> {
        // Where room is withheld, nothing is obtained beyond what is asked.
        let withholds = self.waits && self.queue().withholds();
        if !withholds && !self.look(node).shut && self.charge_with_quantum(node, bytes) {
            return Ok(());
        }
        self.charge_exactly(node, bytes, Mode::TRY, &[])
            .map_err(|refused| self.end(node, refused))?;
        Ok(())
    }

    /// Charges `bytes` to `node` whatever the limits say; `Ok(true)` if no level that it reached
    /// is over its limit afterwards.
    pub(super) fn force(&mut self, node: NodePtr, bytes: usize) -> Result<bool, Refusal> {
        self.look_closely(node, bytes);
        let forced = self.charge_exactly(node, bytes, Mode::Forced, &[]);
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
    pub(super) fn charge_with_quantum(&mut self, node: NodePtr, bytes: usize) -> bool {
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
            let room = state.room() / 2;
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
            if self.waits {
                self.note_passing(node, bytes, quantum, &[]);
            }
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
        freed: Freed<'_>,
    ) -> Result<bool, Refused> {
        self.charge_exactly_by(node, |_| bytes, mode, freed)
    }

    /// The same for a number of bytes that a recall may change: it is asked for again after each.
    pub(super) fn charge_exactly_by(
        &mut self,
        node: NodePtr,
        bytes: impl Fn(&Self) -> usize,
        mode: Mode,
        freed: Freed<'_>,
    ) -> Result<bool, Refused> {
        self.decide(node, &bytes, mode, freed)
            .map_err(|obstacle| self.refused(node, bytes(self), obstacle, Turn::TRY))
    }

    /// Charges at exact size, or says what stands in the way: see `charge_exactly`.
    pub(super) fn decide(
        &mut self,
        node: NodePtr,
        bytes: impl Fn(&Self) -> usize,
        mode: Mode,
        freed: Freed<'_>,
    ) -> Result<bool, Obstacle> {
        match self.plan_exactly(node, bytes, mode, freed) {
            (bytes, Plan::Fits { top, over }) => {
                if self.waits {
                    self.note_passing(node, bytes, 0, freed);
                }
                self.commit(node, bytes, 0);
                self.thaw(node, top);
                Ok(over)
            }
            (_, Plan::Short { at, needed }) => {
                // All below `at` is exact and shut since before this look: here is the
                // instant at which the request does not fit.
                // A forced charge is refused only where the sum would overflow.
                let unlimited = self.look(at).limit.min(self.look(at).cap) > MAX_SIZE;
                if mode == Mode::Forced || unlimited {
                    return Err(Obstacle::Overflow { at });
                }
                Err(Obstacle::Short { at, needed })
            }
            (_, Plan::Closed { at }) => Err(Obstacle::Closed { at }),
        }
    }

    /// The level that lacks room for a request, and what must be free there. All below it is exact. `None`: the
    /// request fits, or meets another obstacle. Nothing is charged.
    pub(super) fn short(
        &mut self,
        node: NodePtr,
        bytes: usize,
        mode: Mode,
    ) -> Option<(NodePtr, usize)> {
        let (top, short) = match self.plan_exactly(node, |_| bytes, mode, &[]).1 {
            Plan::Short { at, needed } => (at, Some((at, needed))),
            Plan::Fits { top: at, .. } | Plan::Closed { at } => (at, None),
        };
        self.thaw(node, top);
        short
    }

    /// The refusal of a request of `node` that met an obstacle.
    pub(super) fn refused(
        &mut self,
        node: NodePtr,
        bytes: usize,
        obstacle: Obstacle,
        turn: Turn,
    ) -> Refused {
        let (at, refusal) = match obstacle {
            Obstacle::Short { at, .. } => (at, Refusal::Limit(self.levels(node, bytes, at, turn))),
            Obstacle::Closed { at } => (at, Refusal::Closed(self.node(at).info.clone())),
            Obstacle::Overflow { at } => (at, Refusal::Overflow(self.node(at).info.clone())),
        };
        self.refuse(at, refusal)
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

    /// Recalls each level that is short and not tight, or has open words of soft leaves below it, and plans again.
    /// Returns the bytes that it planned for at last, and a plan in which a level that is short is exact.
    fn plan_exactly(
        &mut self,
        node: NodePtr,
        bytes: impl Fn(&Self) -> usize,
        mode: Mode,
        freed: Freed<'_>,
    ) -> (usize, Plan) {
        // Up to here all is exact, by a recall of this very call.
        let mut exact = None;
        loop {
            let bytes = bytes(self);
            match self.plan(node, bytes, mode, freed, exact) {
                Plan::Short { at, .. } if !self.look(at).tight => {
                    self.recall(at);
                    exact = Some(at);
                }
                Plan::Short { at, .. } if self.recall_soft(at) => exact = Some(at),
                plan => return (bytes, plan),
            }
        }
    }

    /// Walks from `node` to the level that can grant `bytes` (at least 1), and freezes each node that it passes. Free
    /// bytes of a level cover the request before its parent is asked.
    ///
    /// All is `exact` up to that level, if any. A forced charge that passes limits names the highest
    /// of those levels that are not tight, so that one recall serves them all.
    pub(super) fn plan(
        &mut self,
        node: NodePtr,
        bytes: usize,
        mode: Mode,
        freed: Freed<'_>,
        mut exact: Option<NodePtr>,
    ) -> Plan {
        debug_assert!(bytes > 0, "nothing would count as bytes that were freed");
        let (mut at, mut need, mut over, mut highest) = (node, bytes, false, None);
        // What was freed at or below the level, and is not there any more: a recall has returned it to the level above.
        let mut moved = 0;
        loop {
            if at == node && self.lane.is_some() {
                // A charge of the heap is refused nowhere, so the words of other accounts need not be shut for it.
                self.freeze_mine(at);
            } else {
                self.freeze(at);
            }
            let state = self.look(at);
            moved += freed_at(freed, at);
            let moves = need <= moved;
            if state.closed && mode != Mode::Forced && !moves {
                return Plan::Closed { at };
            }
            let withheld = match mode {
                Mode::Refusable(turn) if !moves => self.withheld(at, turn),
                _ => 0,
            };
            let sum = state.used().checked_add(need);
            let needed = need.saturating_add(withheld);
            if needed > state.room() {
                let overflows = sum.is_none_or(|sum| sum > MAX_SIZE);
                if mode != Mode::Forced || overflows {
                    return Plan::Short { at, needed };
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
            moved = moved.saturating_sub(state.parked);
            match (parent, highest) {
                (Some(parent), _) => at = parent,
                (None, Some(at)) => return Plan::Short { at, needed: 0 },
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
            let Some(parent) = self.look(at).parent else {
                return;
            };
            self.state(parent).lent += deficit;
            (at, need, keep) = (parent, deficit, 0);
        }
    }

    /// The levels of a refused request and their numbers; all up to `refuser` is exact.
    pub(super) fn levels(
        &self,
        node: NodePtr,
        bytes: usize,
        refuser: NodePtr,
        turn: Turn,
    ) -> Levels {
        let mut levels = Levels::default();
        levels.never = self.never(node, bytes, 0);
        let (mut at, mut need) = (node, bytes);
        loop {
            let (this, state) = (self.node(at), self.look(at));
            levels.push(OutcomeEntry {
                allocator: this.info.clone(),
                // The cap, if that is what refused.
                limit: state.limit.min(state.cap),
                allocated: state.used(),
                reservation: state.reservation,
                requested: need,
                withheld: self.withheld(at, turn).min(state.room()) + state.set_aside,
            });
            need = need.saturating_sub(state.parked);
            match state.parent {
                Some(parent) if at != refuser => at = parent,
                _ => return levels,
            }
        }
    }
}

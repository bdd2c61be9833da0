//! Room that is withheld for waiters. It is derived from the queue whenever a request is decided: no byte is
//! charged for it.

use super::super::charge::{Freed, freed_at};
use super::super::node::{Locked, NodePtr};
use super::waiter::{Turn, Waiter};

/// A waiter may be passed by this part of the bound of its level, or by as much as it asks for.
const PASSED_PART: usize = 16;

impl Locked<'_> {
    /// The bytes at a level that are not there for a request, which may be more than are free; all of them if
    /// it is `usize::MAX`.
    ///
    /// The oldest barrier of a level has all the room of that level, and at the levels below, on its own path,
    /// as much as it asks for: it had room there when it came to this level, and keeps it.
    #[inline]
    pub(in crate::accounting) fn withheld(&self, at: NodePtr, turn: Turn) -> usize {
        if self.waits && self.queue().withholds() {
            self.sum_withheld(at, turn)
        } else {
            0
        }
    }

    #[cold]
    fn sum_withheld(&self, at: NodePtr, turn: Turn) -> usize {
        if let Some(level) = self.level_of(at)
            && self.queue().barrier(level, turn).is_some()
        {
            return usize::MAX;
        }
        let (mut withheld, mut next) = (0_usize, self.look(at).parent);
        while let Some(above) = next {
            if let Some(level) = self.level_of(above)
                && let Some(id) = self.queue().barrier(level, turn)
            {
                let waiter = self.queue().waiter(id);
                if self.is_below(waiter.node, at) {
                    withheld = withheld.saturating_add(waiter.ask.bytes);
                }
            }
            next = self.look(above).parent;
        }
        withheld
    }

    /// Whether `node` is `top` or below it.
    pub(in crate::accounting) fn is_below(&self, node: NodePtr, top: NodePtr) -> bool {
        let depth = self.node(top).depth;
        let mut at = node;
        while self.node(at).depth > depth {
            let Some(parent) = self.look(at).parent else {
                return false;
            };
            at = parent;
        }
        at == top
    }

    /// Counts what a charge that is about to be committed obtains at each level with waiters, whom it passes. Bytes
    /// that were `freed` before only move within their level, and pass nobody there.
    #[cold]
    pub(in crate::accounting) fn note_passing(
        &mut self,
        node: NodePtr,
        bytes: usize,
        extra: usize,
        freed: Freed<'_>,
    ) {
        let (mut at, mut need, mut kept, mut moved) = (node, bytes + extra, extra, 0);
        loop {
            moved += freed_at(freed, at);
            let grows = (need - kept).saturating_sub(moved);
            if let Some(level) = self.level_of(at)
                && self.queue().serving != level
                && grows > 0
            {
                self.queue_mut().grow(level, grows);
                self.raise_barriers(at, level);
            }
            let state = self.look(at);
            // A recall may have returned what was freed to the level above.
            moved = moved.saturating_sub(state.parked);
            need = need.saturating_sub(state.parked);
            let Some(parent) = state.parent.filter(|_| need > 0) else {
                return;
            };
            (at, kept) = (parent, 0);
        }
    }

    /// Makes barriers of the waiters of a level that were passed by as much as they may be.
    pub(in crate::accounting) fn raise_barriers(&mut self, node: NodePtr, level: u32) {
        if !self.queue().level(level).may_raise() {
            return;
        }
        let bound = self.look(node).bound();
        let queue = self.queue_mut();
        let before = queue.oldest_barriers(level);
        queue.raise_barriers(level, |waiter| may_pass(waiter, bound));
        self.release_held_back(node, level, before);
    }

    /// Looks again at the waiters for whom room was withheld below a level because of the barriers that were its oldest
    /// `before` and are not any more: only the oldest one withholds room on its own path.
    pub(in crate::accounting) fn release_held_back(
        &mut self,
        node: NodePtr,
        level: u32,
        before: [Option<u32>; 2],
    ) {
        let now = self.queue().oldest_barriers(level);
        for (before, now) in before.into_iter().zip(now) {
            if let Some(id) = before.filter(|_| before != now) {
                self.look_again_below(self.queue().waiter(id).node, Some(node));
            }
        }
    }

    /// How many bytes may pass a waiter at a level.
    pub(in crate::accounting) fn may_pass(&self, id: u32, node: NodePtr) -> u64 {
        may_pass(self.queue().waiter(id), self.look(node).bound())
    }
}

fn may_pass(waiter: &Waiter<NodePtr>, bound: usize) -> u64 {
    waiter.ask.bytes.max(bound / PASSED_PART) as u64
}

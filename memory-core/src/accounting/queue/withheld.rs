//! Room that is withheld for waiters. It is derived from the queue whenever a request is decided: no byte is
//! charged for it.

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

    /// Notes that `bytes` were obtained at a level with waiters, which they passed.
    #[cold]
    pub(in crate::accounting) fn pass(&mut self, node: NodePtr, bytes: usize) {
        let level = self.look(node).queue;
        if self.queue().serving != level {
            self.queue_mut().grow(level, bytes);
            self.raise_barriers(node, level);
        }
    }

    /// Makes barriers of the waiters of a level that were passed by as much as they may be.
    pub(in crate::accounting) fn raise_barriers(&mut self, node: NodePtr, level: u32) {
        let bound = self.look(node).bound();
        self.queue_mut()
            .raise_barriers(level, |waiter| may_pass(waiter, bound));
    }

    /// How many bytes may pass a waiter at a level.
    pub(in crate::accounting) fn may_pass(&self, id: u32, node: NodePtr) -> u64 {
        may_pass(self.queue().waiter(id), self.look(node).bound())
    }
}

fn may_pass(waiter: &Waiter<NodePtr>, bound: usize) -> u64 {
    waiter.ask.bytes.max(bound / PASSED_PART) as u64
}

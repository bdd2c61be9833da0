//! Whether a waiter could fit, without stopping the nodes below its level.
//!
//! What a level uses is an upper bound while words below it are open: bytes that their users gave back are
//! credit, and stay with the node. `loose` of a node is the maximum of what its parent could be charged less if
//! the node's users gave back all that its words can take, and the node kept nothing unused. The sum of it over
//! the nodes below a level, and its own, is the level's *slack*. As long as a waiter does not fit although the
//! slack were free, nobody needs to look.

use super::super::node::{Locked, NodePtr};
use super::super::word::MAX_CREDIT;
use super::NONE;

impl Locked<'_> {
    /// Bytes that the users of the node's open words may give back to them.
    fn open_bytes(&self, node: NodePtr) -> usize {
        let words = self.open_words(node);
        let state = self.look(node);
        // The words of accounts hold as much as their caps say.
        let most = words.saturating_mul(MAX_CREDIT) + state.caps;
        (state.used() - state.lent).min(most)
    }

    /// What the parent could be charged less for the node, or a waiter below it need less.
    fn loose(&self, node: NodePtr) -> usize {
        let open = self.open_bytes(node);
        let state = self.look(node);
        let returned = state.obtained - state.reservation.max(state.used() - open);
        // Bytes that a reservation keeps are not returned, but a waiter below can use them.
        if state.waiters_below > 0 {
            returned.max(open)
        } else {
            returned
        }
    }

    /// Tells the levels above that have waiters how loose the node is now.
    #[inline]
    pub(in crate::accounting) fn recount(&mut self, node: NodePtr) {
        if self.waits {
            let loose = self.loose(node);
            self.change_loose(node, loose);
        }
    }

    /// Notes that nothing of a node is loose.
    #[inline]
    pub(in crate::accounting) fn set_exact(&mut self, node: NodePtr) {
        if self.waits {
            self.change_loose(node, 0);
        } else {
            self.state(node).loose = 0;
        }
    }

    /// Does what `recount` does, unless nothing changed: a look at a waiter must not lead to the next one.
    #[inline]
    pub(in crate::accounting) fn recount_if_changed(&mut self, node: NodePtr) {
        if self.waits && self.look(node).loose != self.loose(node) {
            self.recount(node);
        }
    }

    /// Notes how loose a node is, for all levels above.
    #[cold]
    fn change_loose(&mut self, node: NodePtr, loose: usize) {
        let before = std::mem::replace(&mut self.state(node).loose, loose);
        if before != loose {
            let mut next = self.look(node).parent;
            while let Some(at) = next {
                if let Some(level) = self.level_of(at).filter(|&level| self.has_waiters(level)) {
                    let sum = &mut self.queue_mut().level_mut(level).loose;
                    // Levels with waiters have counted what the node said last.
                    *sum = *sum - before + loose;
                    self.freed(at);
                }
                next = self.look(at).parent;
            }
        }
        self.freed(node);
    }

    /// The place of a node with waiters in the queue.
    pub(in crate::accounting) fn level_of(&self, node: NodePtr) -> Option<u32> {
        Some(self.look(node).queue).filter(|&level| level != NONE)
    }

    /// Whether a level has waiters. In a forked child it has none at first.
    fn has_waiters(&self, level: u32) -> bool {
        self.queue().level(level).waiters > 0
    }

    /// What could become free at a level with waiters without the mutex.
    fn slack(&self, node: NodePtr, level: u32) -> usize {
        self.queue().level(level).loose + self.open_bytes(node)
    }

    /// Whether a waiter of a level may fit.
    pub(in crate::accounting) fn may_serve(&self, node: NodePtr, level: u32) -> bool {
        self.missing(node, level).is_none()
    }

    /// Bytes that a waiter lacks at a level even if all that is loose were free; `None` if one may fit.
    fn missing(&self, node: NodePtr, level: u32) -> Option<usize> {
        let state = self.look(node);
        let least = self.queue().level(level).least;
        let exact = state.used().saturating_sub(self.slack(node, level));
        let needed = exact.saturating_add(least);
        needed
            .checked_sub(state.bound())
            .filter(|&missing| missing > 0)
    }

    /// A lower bound of the bytes that must become free at a level before a waiter fits, which needs `needed` there
    /// as things are, with what is withheld. A reservation below the level may come to cover the request, and then
    /// nothing is withheld from it.
    pub(in crate::accounting) fn least_for(&self, id: u32, level: NodePtr, needed: usize) -> usize {
        let waiter = self.queue().waiter(id);
        let (mut need, mut reserved, mut next) = (waiter.ask.bytes, false, Some(waiter.node));
        while let Some(at) = next.filter(|&at| at != level) {
            let state = self.look(at);
            reserved |= state.reservation > 0;
            need = need.saturating_sub(state.parked);
            next = state.parent;
        }
        if reserved { needed.min(need) } else { needed }
    }

    /// Notes that bytes may have become free at a level: it is looked at before the mutex is released, if a
    /// waiter may fit there.
    #[inline]
    pub(in crate::accounting) fn freed(&mut self, node: NodePtr) {
        if self.waits && self.look(node).queue != NONE {
            self.freed_for_waiters(node);
        }
    }

    #[cold]
    fn freed_for_waiters(&mut self, node: NodePtr) {
        let level = self.look(node).queue;
        if self.missing(node, level).is_none() || self.queue().level(level).rescan {
            self.queue_mut().mark(level);
        }
    }

    /// Notes that up to `bytes` more of what a node keeps are free, which no level above has seen: a waiter below
    /// the node needs so much less of them. So what they take for the least need remains a lower bound; and a
    /// level that is to be looked at for this is near, and stays tight until then, so that recalls end.
    pub(in crate::accounting) fn need_less(&mut self, node: NodePtr, bytes: usize) {
        let less = self.look(node).kept_for_waiters().min(bytes);
        let mut next = self.look(node).parent.filter(|_| less > 0);
        while let Some(at) = next {
            if let Some(level) = self.level_of(at) {
                let least = &mut self.queue_mut().level_mut(level).least;
                *least = least.saturating_sub(less);
                self.freed(at);
            }
            next = self.look(at).parent;
        }
    }

    /// Notes that bytes may have become free at a node whose reservation keeps them: what a waiter below it can
    /// use of them, it needs no more from the levels above.
    #[inline]
    pub(in crate::accounting) fn kept(&mut self, node: NodePtr) {
        if self.waits && self.look(node).kept_for_waiters() > 0 {
            self.look_again(node);
        }
    }

    /// Notes that more or less than before may be withheld or needed at the levels from `node` upwards: all
    /// their waiters are looked at.
    pub(in crate::accounting) fn look_again(&mut self, node: NodePtr) {
        self.look_again_below(node, None);
    }

    /// The same for the levels from `node` up to the one below `top`.
    pub(in crate::accounting) fn look_again_below(&mut self, node: NodePtr, top: Option<NodePtr>) {
        let mut next = Some(node).filter(|_| self.waits);
        while let Some(at) = next.filter(|_| next != top) {
            if let Some(level) = self.level_of(at) {
                self.queue_mut().level_mut(level).rescan = true;
                self.queue_mut().mark(level);
            }
            next = self.look(at).parent;
        }
    }

    /// Whether a tight level with waiters stays tight: if less is missing than was loose when it last became
    /// tight. As much would be loose again soon, and it would be recalled again. That number is halved each time,
    /// so that the level is opened once in a while, although what was loose then may be still there.
    pub(in crate::accounting) fn is_near(&mut self, node: NodePtr) -> bool {
        let Some(level) = self.level_of(node) else {
            return false;
        };
        let missing = self.missing(node, level);
        let level = self.queue_mut().level_mut(level);
        let near = missing.is_none_or(|missing| missing <= level.was_loose);
        level.was_loose /= 2;
        near
    }

    /// Makes a level tight at which a waiter may fit.
    pub(in crate::accounting) fn tighten_for_waiters(&mut self, node: NodePtr, level: u32) {
        if !self.look(node).tight {
            let slack = self.slack(node, level);
            self.queue_mut().level_mut(level).was_loose = slack;
            self.recall(node);
        } else {
            self.recall_soft(node);
        }
    }

    /// Bytes that a waiter lacks at a level even if all that is loose were free; 0 if one may fit, `None` if nobody
    /// waits there.
    pub(in crate::accounting) fn lacks(&self, node: NodePtr) -> Option<usize> {
        let level = self
            .level_of(node)
            .filter(|&level| self.has_waiters(level))?;
        Some(self.missing(node, level).unwrap_or(0))
    }

    /// The first rule for waiters that a node's numbers break, with both sides. Before the nodes are stopped for
    /// other checks.
    pub(in crate::accounting) fn wrong_for_waiters(
        &self,
        node: NodePtr,
    ) -> Option<(&'static str, usize, usize)> {
        let state = self.look(node);
        if self.queue().waiting() == 0 {
            return None;
        }
        if self.is_under_waiters(node) && state.loose != self.loose(node) {
            return Some((
                "what is loose was not counted",
                state.loose,
                self.loose(node),
            ));
        }
        let level = self.level_of(node)?;
        let (mut loose, mut next) = (0, self.next_preorder(node, node));
        while let Some(at) = next {
            loose += self.look(at).loose;
            next = self.next_preorder(at, node);
        }
        let counted = self.queue().level(level).loose;
        if counted != loose {
            return Some(("the sum of what is loose is wrong", counted, loose));
        }
        let open = !state.tight || self.is_soft_below(node);
        if open && self.may_serve(node, level) {
            let (used, least) = (state.used(), self.queue().level(level).least);
            return Some(("a waiter may fit at an open level", used, least));
        }
        None
    }

    fn is_under_waiters(&self, node: NodePtr) -> bool {
        let mut next = self.look(node).parent;
        while let Some(at) = next {
            if self.level_of(at).is_some() {
                return true;
            }
            next = self.look(at).parent;
        }
        false
    }
}

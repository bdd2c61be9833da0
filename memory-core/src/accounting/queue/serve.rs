//! Grants to waiters at the end of a section that made room, and the ways in and out of the queue.

use super::super::charge::{Mode, Obstacle};
use super::super::node::{Locked, NodePtr};
use super::NONE;
use super::waiter::{Ask, Verdict, Wake};

impl Locked<'_> {
    /// Looks at the levels at which a waiter may fit, and grants all that fit. The last step before the mutex
    /// is released.
    #[cold]
    pub(in crate::accounting) fn serve(&mut self) {
        // What is loosened while it lasts could be opened, be loose, and have to be recalled again.
        self.queue_mut().serves = true;
        while let Some(level) = self.queue_mut().take_marked() {
            let node = self.queue().level(level).node;
            if self.queue().level(level).rescan || self.may_serve(node, level) {
                self.tighten_for_waiters(node, level);
                self.serve_level(node, level);
            }
        }
        self.queue_mut().serves = false;
    }

    /// Grants what fits at a tight level, in the order of age.
    fn serve_level(&mut self, node: NodePtr, level: u32) {
        let at = self.queue_mut().level_mut(level);
        let rescan = std::mem::take(&mut at.rescan);
        // Unknown while it is counted, so that the level stays tight.
        let before = std::mem::take(&mut at.least);
        let (mut least, mut held_back, mut looks) = (usize::MAX, [false; 2], 0);
        let mut next = self.queue().first(level);
        while let Some(id) = next {
            next = self.queue().next(id);
            looks += 1;
            let turn = self.queue().waiter(id).turn;
            let [waits, admissions] = held_back;
            if !rescan && (waits || admissions && turn.is_admission()) {
                least = least.min(self.least_for(id, node, usize::MAX));
                continue;
            }
            if let Some(needed) = self.serve_waiter(node, level, id) {
                least = least.min(self.least_for(id, node, needed));
                held_back[usize::from(turn.is_admission())] |= self.queue().waiter(id).barrier;
            } else if !rescan && self.look(node).room() < before {
                // It took what there was, and nobody needs less than that lower bound. Without this, each release that
                // lets one of many waiters fit would cost a look at all of them.
                least = least.min(before);
                break;
            }
        }
        self.stay_tight(node, looks);
        if self.level_of(node) == Some(level) {
            self.queue_mut().level_mut(level).least = least;
            self.raise_barriers(node, level);
        }
    }

    /// Looks at one waiter of a level; `Some` if it stays there, with the room that it needs.
    fn serve_waiter(&mut self, node: NodePtr, level: u32, id: u32) -> Option<usize> {
        let waiter = self.queue().waiter(id);
        let (at, bytes, turn) = (waiter.node, waiter.ask.bytes, waiter.turn);
        let before = self.look(node).used();
        self.queue_mut().serving = level;
        let decided = self.decide(at, |_| bytes, Mode::Refusable(turn), &[]);
        self.queue_mut().serving = NONE;
        match decided {
            Ok(_) => {
                let grown = self.look(node).used().saturating_sub(before);
                self.queue_mut().pass_older(id, grown);
                self.end_wait(id, Verdict::Granted);
            }
            Err(Obstacle::Short { at: short, needed }) => {
                let stays = short == node;
                if !stays {
                    // Before the levels are thawed: `short` must not be opened in between.
                    self.leave_level(id);
                    self.enter_level(id, short, needed);
                    if self.queue().waiter(id).barrier {
                        // Less is withheld for it now at some levels of its path.
                        self.look_again(at);
                    }
                }
                self.thaw(at, short);
                return stays.then_some(needed);
            }
            Err(Obstacle::Closed { at: closed } | Obstacle::Overflow { at: closed }) => {
                self.thaw(at, closed);
                self.end_wait(id, Verdict::Refused);
            }
        }
        None
    }

    /// Queues a request that was refused at `level`, which is tight: all below it is exact. There is room for it.
    pub(in crate::accounting) fn enqueue(
        &mut self,
        node: NodePtr,
        ask: Ask,
        wake: Wake,
        level: NodePtr,
        needed: usize,
    ) -> u32 {
        self.waits = true;
        let id = self.queue_mut().add(node, ask, wake);
        self.count_waiter(node, 1);
        self.enter_level(id, level, needed);
        id
    }

    /// Puts a waiter into the queue of a tight level that it lacks room at.
    fn enter_level(&mut self, id: u32, node: NodePtr, needed: usize) {
        debug_assert!(self.look(node).tight);
        let level = self.level_of(node).unwrap_or_else(|| {
            let level = self.queue_mut().add_level(node);
            self.state(node).queue = level;
            level
        });
        let (allowed, missing) = (self.may_pass(id, node), self.missing_for(id, node));
        let waiter = self.queue_mut().waiter_mut(id);
        waiter.missing = waiter.missing.min(missing);
        // Only a barrier can take the place of another one.
        let barrier = self.queue().waiter(id).barrier;
        let before = barrier.then(|| self.queue().oldest_barriers(level));
        self.queue_mut().insert(id, level, allowed);
        if let Some(before) = before {
            self.release_held_back(node, level, before);
        }
        let needed = self.least_for(id, node, needed);
        let at = self.queue_mut().level_mut(level);
        at.least = at.least.min(needed);
        debug_assert!(at.waiters > 1 || at.loose == 0);
    }

    fn leave_level(&mut self, id: u32) {
        let level = self.queue().waiter(id).level;
        let node = self.queue().level(level).node;
        if self.queue_mut().remove(id).is_some() {
            self.state(node).queue = NONE;
            self.queue_mut().free_level(level);
        }
    }

    /// Gives back the place of a level without waiters, which only a forked child has.
    #[cold]
    pub(in crate::accounting) fn drop_level(&mut self, node: NodePtr) {
        let level = std::mem::replace(&mut self.state(node).queue, NONE);
        self.queue_mut().free_level(level);
    }

    /// Ends a wait: the waiter leaves the queue and is woken.
    pub(in crate::accounting) fn end_wait(&mut self, id: u32, verdict: Verdict) {
        self.leave_queue(id);
        self.queue_mut().decide(id, verdict);
    }

    /// Ends a wait that its owner gives up.
    pub(in crate::accounting) fn cancel_wait(&mut self, id: u32) {
        self.leave_queue(id);
        self.queue_mut().give_up(id);
    }

    fn leave_queue(&mut self, id: u32) {
        let waiter = self.queue().waiter(id);
        let (node, barrier) = (waiter.node, waiter.barrier);
        self.leave_level(id);
        self.count_waiter(node, -1);
        if barrier {
            // Others had to leave room to it, here and on its path.
            self.look_again(node);
        }
    }

    /// Counts a waiter of `node` in or out, in all levels from there upwards.
    fn count_waiter(&mut self, node: NodePtr, by: i32) {
        let mut next = Some(node);
        while let Some(at) = next {
            if self.look(at).shut {
                // What is given back here is for those that wait below, so nobody may take it without the mutex.
                self.freeze(at);
            }
            let state = self.state(at);
            state.waiters_below = state
                .waiters_below
                .checked_add_signed(by)
                .expect("waiters are counted in first");
            next = state.parent;
            self.recount(at);
        }
    }

    /// Whether a request can never be granted, whatever others give back: a level that it reaches is closed, or its
    /// limit is smaller. What the reservation of a level could cover does not reach the levels above.
    pub(in crate::accounting) fn never(&self, node: NodePtr, bytes: usize, kept: usize) -> bool {
        let bytes = bytes.saturating_add(kept);
        let mut next = Some(node);
        while let Some(at) = next {
            let state = self.look(at);
            if state.closed || bytes > state.most() {
                return true;
            }
            next = state.parent.filter(|_| bytes > state.reservation);
        }
        false
    }

    /// Ends the waits at and below a node that can never be granted any more, after it was closed or its limit
    /// was lowered.
    pub(in crate::accounting) fn refuse_hopeless(&mut self, node: NodePtr) {
        if self.look(node).waiters_below == 0 {
            return;
        }
        for id in 0..self.queue().slots() {
            let waiter = self.queue().waiter(id);
            let (at, ask) = (waiter.node, waiter.ask);
            if waiter.level != NONE
                && self.is_below(at, node)
                && self.never(at, ask.bytes, ask.kept)
            {
                self.end_wait(id, Verdict::Refused);
            }
        }
    }
}

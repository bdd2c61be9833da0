//! Deadlines, and waiters that come no nearer to being granted.
//!
//! A waiter is stuck, as far as one can tell, if its missing bytes have not fallen below their minimum for the
//! tree's *patience*. Then a waiter of its level is told to ask others for memory once more, if any are registered below
//! the level: each time another one, since it may be that nobody can help the oldest. If a waiter is stuck for that long
//! again, the youngest waiter whose branch holds bytes is told to give way: it releases what it can and comes back with
//! its age. It is told once between two grants. When the waiters that were told hold all that is used, nobody else can
//! release anything: then the youngest of them is refused.
//!
//! An admission asks, too. But nobody gives way for it, and it does not give way: it holds nothing, and what runs already
//! is not stopped for what has not begun.

use std::time::{Duration, Instant};

use super::super::handle::Handle;
use super::super::node::{Locked, NodePtr};
use super::NONE;
use super::waiter::Verdict;

impl Handle {
    /// Ends the waits of the tree whose deadline has passed, and looks for levels that are stuck. The answer
    /// says when to call it again.
    pub(crate) fn tick(&self, now: Instant) -> Option<Instant> {
        // Not in a loop that never ends.
        let patience = self.tree.config.patience.max(Duration::from_millis(1));
        self.tree.lock().tick(now, patience)
    }
}

impl Locked<'_> {
    fn tick(&mut self, now: Instant, patience: Duration) -> Option<Instant> {
        let mut next = None;
        for id in 0..self.queue().slots() {
            let waiter = self.queue().waiter(id);
            if waiter.level == NONE {
                continue;
            }
            match waiter.ask.deadline {
                Some(deadline) if deadline <= now => self.end_wait(id, Verdict::TimedOut),
                deadline => next = earlier(next, deadline),
            }
        }
        let (slots, from) = (self.queue().slots(), self.queue().look_from);
        for offset in 0..slots {
            let id = (from + offset) % slots;
            let told = self.queue().is_to_ask();
            let level = self.queue().waiter(id).level;
            // Once for each level.
            if level != NONE && self.queue().first(level) == Some(id) {
                next = earlier(next, self.check_level(level, now, patience));
                if !told && self.queue().is_to_ask() {
                    self.queue_mut().look_from = id + 1;
                }
            }
        }
        next
    }

    /// Resolves a level that is stuck. The answer says when to look again.
    fn check_level(&mut self, level: u32, now: Instant, patience: Duration) -> Option<Instant> {
        let node = self.queue().level(level).node;
        let stuck = self.stuck(node, level, now, patience);
        if !stuck.waits && !stuck.admissions {
            return stuck.due;
        }
        let gives_way = stuck.waits && self.queue().level(level).asked;
        if self.queue().is_to_ask() && !gives_way {
            // A waiter of another level is woken first.
            return Some(now);
        }
        // Nobody is told while another one fits. Serving makes the level tight, so that what its branches hold is known.
        self.queue_mut().level_mut(level).rescan = true;
        self.queue_mut().mark(level);
        self.serve();
        if self.level_of(node) != Some(level) {
            // Those that still wait are at other levels, which may have been looked at before.
            return (self.queue().waiting() > 0).then_some(now);
        }
        self.resolve(node, level, stuck.waits);
        let mut next = self
            .level_of(node)
            .and_then(|level| self.queue().first(level));
        while let Some(id) = next {
            next = self.queue().next(id);
            let waiter = self.queue_mut().waiter_mut(id);
            if stuck.waits || waiter.turn.is_admission() {
                waiter.missing_since = now;
            }
        }
        let due = stuck.due.filter(|_| !stuck.waits);
        earlier(due, now.checked_add(patience))
    }

    /// Has a waiter of a level that is stuck ask others, and the next time one give way. If only admissions are stuck, or
    /// nobody can give way, one asks each time.
    fn resolve(&mut self, node: NodePtr, level: u32, waits: bool) {
        let helps = self.look(node).registrations > 0;
        if waits {
            let at = self.queue_mut().level_mut(level);
            if !std::mem::take(&mut at.asked) && helps {
                at.asked = true;
                return self.have_one_ask(level, waits);
            }
            if let Some((id, verdict)) = self.choose(node, level) {
                let grants = self.queue().grants();
                self.queue_mut().waiter_mut(id).told = Some(grants);
                return self.end_wait(id, verdict);
            }
        }
        if helps && !self.queue().is_to_ask() {
            self.have_one_ask(level, waits);
        }
    }

    /// Looks which waiters of a level have not come nearer for the patience, and when to look for the others.
    fn stuck(&mut self, node: NodePtr, level: u32, now: Instant, patience: Duration) -> Standstill {
        let helps = self.look(node).registrations > 0;
        let mut stuck = Standstill::default();
        let mut is_oldest = true;
        let mut next = self.queue().first(level);
        while let Some(id) = next {
            next = self.queue().next(id);
            let missing = self.missing_for(id, node);
            let waiter = self.queue_mut().waiter_mut(id);
            let admission = waiter.turn.is_admission();
            let nearer = missing < waiter.missing;
            if nearer {
                (waiter.missing, waiter.missing_since) = (missing, now);
            }
            // Reclaimers that are registered later are asked at the next look.
            let since = if admission && !helps {
                now
            } else {
                waiter.missing_since
            };
            // None: longer than the clock can tell.
            match since.checked_add(patience) {
                Some(at) if at <= now && admission => stuck.admissions = true,
                Some(at) if at <= now => stuck.waits = true,
                at => stuck.due = earlier(stuck.due, at),
            }
            // Of the oldest only, so that those who come do not put off that one gives way.
            if nearer && !admission && is_oldest {
                self.queue_mut().level_mut(level).asked = false;
            }
            is_oldest &= admission;
        }
        stuck
    }

    /// Tells one waiter of a level to ask others: the one that has not been told for longest, the oldest of several; an
    /// admission if nobody else `waits` for too long. So those that come later do not put off the turn of one that
    /// waits, and one whose future nobody polls costs a turn.
    fn have_one_ask(&mut self, level: u32, waits: bool) {
        let (mut chosen, mut next) = (None, self.queue().first(level));
        while let Some(id) = next {
            next = self.queue().next(id);
            let waiter = self.queue().waiter(id);
            let is_before = |&(told, _): &(u64, u32)| told <= waiter.told_to_ask;
            if (waits || waiter.turn.is_admission()) && !chosen.as_ref().is_some_and(is_before) {
                chosen = Some((waiter.told_to_ask, id));
            }
        }
        if let Some((_, id)) = chosen {
            self.queue_mut().have_ask(id);
        }
    }

    /// Bytes that a waiter lacks at its level, as far as the numbers say.
    pub(in crate::accounting) fn missing_for(&self, id: u32, level: NodePtr) -> usize {
        let state = self.look(level);
        let bytes = self.queue().waiter(id).ask.bytes;
        state
            .used()
            .saturating_add(bytes)
            .saturating_sub(state.bound())
    }

    /// The request that is to give way at a level, or is refused since nobody else can release anything.
    fn choose(&mut self, node: NodePtr, level: u32) -> Option<(u32, Verdict)> {
        let grants = self.queue().grants();
        let (mut youngest_told, mut held_by_told) = (None, 0);
        self.for_each_holder(node, level, |locked, branch, _, _| {
            locked.state(branch).exact = 0
        });
        let mut chosen = None;
        self.for_each_holder(node, level, |locked, branch, id, held| {
            if locked.queue().waiter(id).told != Some(grants) {
                chosen = chosen.or(Some(id));
                return;
            }
            youngest_told = youngest_told.or(Some(id));
            // A branch counts once, however many of its waiters were told.
            if std::mem::replace(&mut locked.state(branch).exact, 1) == 0 {
                held_by_told += held;
            }
        });
        if let Some(id) = chosen {
            return Some((id, Verdict::GiveWay));
        }
        let alone = held_by_told >= self.look(node).used();
        youngest_told
            .filter(|_| alone)
            .map(|id| (id, Verdict::Stuck))
    }

    /// Calls `visit` for each waiter of a tight level that holds memory, the youngest first: with its branch, which
    /// is the child of the level that it is in, or the level itself, and with the bytes of that branch.
    fn for_each_holder(
        &mut self,
        node: NodePtr,
        level: u32,
        mut visit: impl FnMut(&mut Self, NodePtr, u32, usize),
    ) {
        let mut next = self.queue().last(level);
        while let Some(id) = next {
            next = self.queue().previous(id);
            let waiter = self.queue().waiter(id);
            if waiter.turn.is_admission() {
                continue;
            }
            let mut branch = waiter.node;
            while let Some(parent) = self.look(branch).parent.filter(|_| branch != node) {
                if parent == node {
                    break;
                }
                branch = parent;
            }
            let state = self.look(branch);
            // What the level is charged for it, with what its reservation keeps.
            let (held, charged) = if branch == node {
                (state.used() - state.lent, state.used() - state.lent)
            } else {
                (state.used(), state.obtained)
            };
            if held > 0 {
                visit(self, branch, id, charged);
            }
        }
    }
}

/// What was found at a level.
#[derive(Default)]
struct Standstill {
    /// Whether a waiter is stuck that is no admission, and whether an admission is that could ask others.
    waits: bool,
    admissions: bool,
    /// When to look for those that are not.
    due: Option<Instant>,
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

//! The requests that wait in a tree, as plain data: who waits at which level, in which order.
//!
//! A waiter is in a slot of a vector and is named by its index, so nothing points into a future or into a
//! stack. The owner of a wait frees the slot; nobody else does. The vectors' memory is that of [`super::memory`].

#[cfg(all(test, not(loom)))]
mod tests;

use std::mem;
use std::time::Instant;

use super::level::{Level, NONE};
use super::spillers::Spillers;
use super::waiter::{Age, Ask, Turn, Verdict, Waiter, Wake};

/// The maximum of the wake-ups that one thread takes out of a queue at a time.
pub(in crate::accounting) const BATCH: usize = 32;

/// All waiters of a tree.
#[derive(Debug)]
pub(in crate::accounting) struct Queue<N> {
    pub(super) waiters: Vec<Waiter<N>>,
    pub(super) levels: Vec<Level<N>>,
    pub(super) free_waiter: u32,
    pub(super) free_level: u32,
    /// Slots of waiters that are not free.
    pub(super) used: usize,
    /// Requests without a verdict, those that are to be woken, and spillers that are.
    pub(super) active: usize,
    /// Requests without a verdict, and their bytes.
    waiting: usize,
    bytes: usize,
    barriers: usize,
    /// The level whose waiters are being served, or `NONE`: what they obtain passes nobody but older ones.
    pub(in crate::accounting) serving: u32,
    /// Whether waiters are being served: no level is loosened meanwhile.
    pub(in crate::accounting) serves: bool,
    first_dirty: u32,
    pub(super) first_wake: u32,
    pub(super) last_wake: u32,
    /// A waiter that is to be woken without a verdict, to ask others for memory; or `NONE`.
    pub(super) to_ask: u32,
    tickets: u64,
    /// The slot from which levels are looked at for waiters that come no nearer: behind the one whose level had somebody
    /// ask last. Each look has one waiter ask, and no level should always be the one that comes too late.
    pub(super) look_from: u32,
    /// How often a waiter was told to ask others.
    pub(super) asked: u64,
    grants: u64,
    /// Those that wait for a share of the spill reserve. They are no requests, and at no level.
    pub(super) spillers: Spillers,
    /// In a forked child, places of levels that had waiters in the parent.
    pub(super) ghosts: usize,
}

impl<N> Default for Queue<N> {
    fn default() -> Self {
        Self {
            waiters: Vec::new(),
            levels: Vec::new(),
            free_waiter: NONE,
            free_level: NONE,
            used: 0,
            active: 0,
            waiting: 0,
            bytes: 0,
            barriers: 0,
            serving: NONE,
            serves: false,
            first_dirty: NONE,
            first_wake: NONE,
            last_wake: NONE,
            to_ask: NONE,
            tickets: 0,
            look_from: 0,
            asked: 0,
            grants: 0,
            spillers: Spillers::default(),
            ghosts: 0,
        }
    }
}

impl<N: Copy + PartialEq> Queue<N> {
    /// Requests without a verdict.
    #[inline]
    pub(in crate::accounting) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The bytes of the requests without a verdict.
    pub(in crate::accounting) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether room is withheld for any waiter.
    #[inline]
    pub(in crate::accounting) fn withholds(&self) -> bool {
        self.barriers > 0
    }

    /// Whether any request waits or is to be woken.
    #[inline]
    pub(in crate::accounting) fn is_active(&self) -> bool {
        self.active > 0
    }

    /// How many grants there were.
    pub(in crate::accounting) fn grants(&self) -> u64 {
        self.grants
    }

    pub(in crate::accounting) fn waiter(&self, id: u32) -> &Waiter<N> {
        &self.waiters[id as usize]
    }

    pub(in crate::accounting) fn waiter_mut(&mut self, id: u32) -> &mut Waiter<N> {
        &mut self.waiters[id as usize]
    }

    pub(in crate::accounting) fn level(&self, level: u32) -> &Level<N> {
        &self.levels[level as usize]
    }

    pub(in crate::accounting) fn level_mut(&mut self, level: u32) -> &mut Level<N> {
        &mut self.levels[level as usize]
    }

    /// The turn of a request: that of its age, or the last one.
    pub(in crate::accounting) fn turn(&self, age: Option<Age>, admission: bool) -> Turn {
        Turn {
            ticket: age.map_or(self.tickets, |age| age.ticket),
            admission,
        }
    }

    /// A new waiter, at no level yet. There is room for it.
    pub(in crate::accounting) fn add(&mut self, node: N, ask: Ask, wake: Wake) -> u32 {
        let now = ask.now.unwrap_or_else(Instant::now);
        let waiter = Waiter {
            turn: self.turn(ask.age, ask.admission),
            since: ask.age.map_or(now, |age| age.since),
            told: ask.age.and_then(|age| age.told),
            level: NONE,
            asks: false,
            told_to_ask: self.asked,
            level_asked: false,
            verdict: None,
            wake: Some(wake),
            barrier: false,
            missing: usize::MAX,
            missing_since: now,
            passed: 0,
            grown: 0,
            next: NONE,
            previous: NONE,
            waking: false,
            node,
            ask,
        };
        self.tickets += 1;
        self.used += 1;
        self.active += 1;
        self.waiting += 1;
        self.bytes = self.bytes.saturating_add(ask.bytes);
        match self.free_waiter {
            NONE => {
                self.waiters.push(waiter);
                self.waiters.len() as u32 - 1
            }
            id => {
                self.free_waiter = self.waiter(id).next;
                *self.waiter_mut(id) = waiter;
                id
            }
        }
    }

    /// A place for a level that has no waiters yet. There is one for every waiter.
    pub(in crate::accounting) fn add_level(&mut self, node: N) -> u32 {
        let level = Level::new(node);
        match self.free_level {
            NONE => {
                debug_assert!(self.levels.len() < self.levels.capacity());
                self.levels.push(level);
                self.levels.len() as u32 - 1
            }
            at => {
                self.free_level = self.level(at).next;
                *self.level_mut(at) = level;
                at
            }
        }
    }

    /// Puts a waiter into the queue of a level, behind those that are older. `allowed` bytes may pass it.
    pub(in crate::accounting) fn insert(&mut self, id: u32, level: u32, allowed: u64) {
        let ticket = self.waiter(id).turn.ticket;
        let mut after = self.level(level).last;
        while after != NONE && self.waiter(after).turn.ticket > ticket {
            after = self.waiter(after).previous;
        }
        let before = match after {
            NONE => mem::replace(&mut self.level_mut(level).first, id),
            _ => mem::replace(&mut self.waiter_mut(after).next, id),
        };
        match before {
            NONE => self.level_mut(level).last = id,
            _ => self.waiter_mut(before).previous = id,
        }
        let grown = self.level(level).grown;
        let waiter = self.waiter_mut(id);
        (waiter.level, waiter.next, waiter.previous) = (level, before, after);
        waiter.grown = grown;
        let left = allowed.saturating_sub(waiter.passed);
        let (barrier, place) = (waiter.barrier, usize::from(waiter.turn.admission));
        let level_asked = waiter.level_asked;
        let at = self.level_mut(level);
        at.waiters += 1;
        // The only waiter takes along whose turn it is.
        at.asked |= level_asked && at.waiters == 1;
        if barrier {
            at.barriers[place] += 1;
        } else {
            at.next_barrier = at.next_barrier.min(grown + left);
        }
    }

    /// Takes a waiter out of the queue of its level. The answer says which level is now without waiters.
    pub(in crate::accounting) fn remove(&mut self, id: u32) -> Option<u32> {
        let waiter = self.waiter_mut(id);
        let level = mem::replace(&mut waiter.level, NONE);
        let (next, previous) = (waiter.next, waiter.previous);
        let (barrier, place) = (waiter.barrier, usize::from(waiter.turn.admission));
        let (grown, asked) = (self.level(level).grown, self.level(level).asked);
        let waiter = self.waiter_mut(id);
        waiter.passed += grown - waiter.grown;
        waiter.level_asked = asked;
        match previous {
            NONE => self.level_mut(level).first = next,
            _ => self.waiter_mut(previous).next = next,
        }
        match next {
            NONE => self.level_mut(level).last = previous,
            _ => self.waiter_mut(next).previous = previous,
        }
        let at = self.level_mut(level);
        at.waiters -= 1;
        at.barriers[place] -= u32::from(barrier);
        (at.waiters == 0).then_some(level)
    }

    /// Gives back the place of a level without waiters.
    pub(in crate::accounting) fn free_level(&mut self, level: u32) {
        debug_assert_eq!(self.level(level).waiters, 0);
        if self.level(level).dirty {
            self.unmark(level);
        }
        self.level_mut(level).next = self.free_level;
        self.free_level = level;
    }

    /// Takes a level off the list of those that are to be looked at.
    fn unmark(&mut self, level: u32) {
        let next = self.level(level).next;
        if self.first_dirty == level {
            self.first_dirty = next;
            return;
        }
        let mut at = self.first_dirty;
        while self.level(at).next != level {
            at = self.level(at).next;
        }
        self.level_mut(at).next = next;
    }

    /// Gives a waiter that is at no level its verdict, and lists it to be woken.
    pub(in crate::accounting) fn decide(&mut self, id: u32, verdict: Verdict) {
        self.grants += u64::from(verdict == Verdict::Granted);
        let last = mem::replace(&mut self.last_wake, id);
        let waiter = self.waiter_mut(id);
        debug_assert!(waiter.level == NONE && waiter.verdict.is_none());
        self.count_out(id);
        let waiter = self.waiter_mut(id);
        waiter.verdict = Some(verdict);
        (waiter.waking, waiter.previous, waiter.next) = (true, last, NONE);
        match last {
            NONE => self.first_wake = id,
            _ => self.waiter_mut(last).next = id,
        }
    }

    /// Ends a wait that its owner gives up: it is at no level any more.
    pub(in crate::accounting) fn give_up(&mut self, id: u32) {
        self.active -= 1;
        self.count_out(id);
    }

    fn count_out(&mut self, id: u32) {
        self.waiting -= 1;
        // The sum of bytes may have been too large to express.
        self.bytes = self.bytes.saturating_sub(self.waiter(id).ask.bytes);
        let barrier = mem::take(&mut self.waiter_mut(id).barrier);
        self.barriers -= usize::from(barrier);
        if self.to_ask == id {
            self.to_ask = NONE;
        }
    }

    /// Frees the slot of a waiter whose wait is over. What it returns is dropped with the mutex free.
    pub(in crate::accounting) fn free(&mut self, id: u32) -> Option<Wake> {
        if self.waiter(id).waking {
            self.unlist_wake(id);
        }
        self.used -= 1;
        let free = mem::replace(&mut self.free_waiter, id);
        let waiter = self.waiter_mut(id);
        waiter.next = free;
        waiter.wake.take()
    }

    /// Notes that a level is to be looked at before the mutex is released.
    pub(in crate::accounting) fn mark(&mut self, level: u32) {
        let next = self.first_dirty;
        let at = self.level_mut(level);
        if !mem::replace(&mut at.dirty, true) {
            at.next = next;
            self.first_dirty = level;
        }
    }

    /// Takes a level that is to be looked at, if any.
    pub(in crate::accounting) fn take_marked(&mut self) -> Option<u32> {
        let level = Some(self.first_dirty).filter(|&level| level != NONE)?;
        let at = self.level_mut(level);
        at.dirty = false;
        self.first_dirty = at.next;
        Some(level)
    }

    /// The oldest waiter of a level.
    pub(in crate::accounting) fn first(&self, level: u32) -> Option<u32> {
        Some(self.level(level).first).filter(|&id| id != NONE)
    }

    /// The youngest waiter of a level.
    pub(in crate::accounting) fn last(&self, level: u32) -> Option<u32> {
        Some(self.level(level).last).filter(|&id| id != NONE)
    }

    /// The next younger waiter of the same level.
    pub(in crate::accounting) fn next(&self, id: u32) -> Option<u32> {
        Some(self.waiter(id).next).filter(|&id| id != NONE)
    }

    /// The next older waiter of the same level.
    pub(in crate::accounting) fn previous(&self, id: u32) -> Option<u32> {
        Some(self.waiter(id).previous).filter(|&id| id != NONE)
    }

    /// How many slots there are, used or free. A waiter whose level is not [`NONE`] is in a queue.
    pub(in crate::accounting) fn slots(&self) -> u32 {
        self.waiters.len() as u32
    }

    /// Notes that requests which do not wait, or are younger, obtained `bytes` at a level.
    pub(in crate::accounting) fn grow(&mut self, level: u32, bytes: usize) {
        let at = self.level_mut(level);
        at.grown = at.grown.saturating_add(bytes as u64);
    }

    /// Notes that a waiter obtained `bytes` at its level, and so passed those that are older.
    pub(in crate::accounting) fn pass_older(&mut self, id: u32, bytes: usize) {
        let level = self.waiter(id).level;
        let mut older = self.previous(id);
        while let Some(id) = older {
            self.waiter_mut(id).passed += bytes as u64;
            // At the next look, whatever the level has grown by.
            self.level_mut(level).next_barrier = 0;
            older = self.previous(id);
        }
    }

    /// Makes barriers of the waiters that were passed by as much as they may be.
    pub(in crate::accounting) fn raise_barriers(
        &mut self,
        level: u32,
        allowed: impl Fn(&Waiter<N>) -> u64,
    ) {
        let grown = self.level(level).grown;
        let (mut next, mut least) = (self.first(level), u64::MAX);
        while let Some(id) = next {
            let waiter = self.waiter_mut(id);
            if !waiter.barrier {
                let passed = waiter.passed + (grown - waiter.grown);
                let allowed = allowed(waiter);
                if passed >= allowed {
                    waiter.barrier = true;
                    let place = usize::from(waiter.turn.admission);
                    self.level_mut(level).barriers[place] += 1;
                    self.barriers += 1;
                } else {
                    least = least.min(grown + (allowed - passed));
                }
            }
            next = self.next(id);
        }
        self.level_mut(level).next_barrier = least;
    }

    /// The waiters of a level for which room is withheld from the youngest requests: from one that is not an admission,
    /// and from one that is.
    pub(in crate::accounting) fn oldest_barriers(&self, level: u32) -> [Option<u32>; 2] {
        [false, true].map(|admission| {
            let ticket = u64::MAX;
            self.barrier(level, Turn { ticket, admission })
        })
    }

    /// The oldest waiter of a level for which room is withheld from a request.
    pub(in crate::accounting) fn barrier(&self, level: u32, turn: Turn) -> Option<u32> {
        let [waits, admissions] = self.level(level).barriers;
        if waits == 0 && (admissions == 0 || !turn.admission) {
            return None;
        }
        let mut next = self.first(level);
        while let Some(id) = next {
            let waiter = self.waiter(id);
            if waiter.turn.ticket >= turn.ticket {
                return None;
            }
            if waiter.barrier && turn.is_held_back_by(waiter.turn) {
                return Some(id);
            }
            next = self.next(id);
        }
        None
    }

    /// Ends all waits in a forked child, whose other threads do not exist. Neither frees nor wakes. The levels
    /// keep their places, without waiters.
    pub(in crate::accounting) fn fork(&mut self) {
        for waiter in &mut self.waiters {
            // Another thread's waker: to drop it may free memory, or take a lock.
            mem::forget(waiter.wake.take());
            (waiter.level, waiter.waking) = (NONE, false);
            waiter.verdict.get_or_insert(Verdict::Forked);
        }
        for level in &mut self.levels {
            if level.waiters > 0 {
                self.ghosts += 1;
                *level = Level::new(level.node);
            }
        }
        self.spillers.fork();
        (self.active, self.waiting, self.bytes, self.barriers) = (0, 0, 0, 0);
        (self.first_dirty, self.first_wake, self.last_wake) = (NONE, NONE, NONE);
        self.to_ask = NONE;
    }
}

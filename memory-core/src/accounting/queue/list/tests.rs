//! The queue beside a naive one, which counts everything anew after each step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use super::super::memory::Spare;
use super::super::spillers::Spiller;
use super::*;
use crate::sync::plain::AtomicBool;

/// Levels are named by the number of their node.
const NODES: u32 = 5;

/// A request as the naive queue sees it, with the bytes that passed it wherever it was.
#[derive(Clone, Debug)]
struct One {
    id: u32,
    node: Option<u32>,
    bytes: usize,
    turn: Turn,
    barrier: bool,
    passed: u64,
    verdict: Option<Verdict>,
}

impl One {
    fn allowed(&self) -> u64 {
        2 * self.bytes as u64
    }
}

struct Pair {
    queue: Queue<u32>,
    /// The place of each node's level, if it has one.
    places: [Option<u32>; NODES as usize],
    naive: Vec<One>,
    to_wake: VecDeque<u32>,
    ages: Vec<Age>,
    random: fastrand::Rng,
}

impl Pair {
    fn new(seed: u64) -> Self {
        Self {
            queue: Queue::default(),
            places: [None; NODES as usize],
            naive: Vec::new(),
            to_wake: VecDeque::new(),
            ages: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The index of a request for which `suits` holds.
    fn any(&mut self, suits: impl Fn(&One) -> bool) -> Option<usize> {
        let found: Vec<_> = (0..self.naive.len())
            .filter(|&at| suits(&self.naive[at]))
            .collect();
        (!found.is_empty()).then(|| found[self.random.usize(..found.len())])
    }

    fn step(&mut self) {
        match self.random.u32(..12) {
            0..=2 => self.add(),
            3 => self.change_level(),
            4 => self.grow(),
            5 => self.pass_older(),
            6 | 7 => self.decide(),
            8 => self.give_up(),
            9 => self.wake(),
            10 => self.free(),
            _ => self.look(),
        }
        self.check();
    }

    fn add(&mut self) {
        make_room(&mut self.queue);
        let mut ask = Ask::new(self.random.bool());
        ask.bytes = self.random.usize(1..100);
        if !self.ages.is_empty() && self.random.bool() {
            let at = self.random.usize(..self.ages.len());
            ask.age = Some(self.ages.swap_remove(at));
        }
        let tickets = self.queue.turn(None, false).ticket;
        let turn = self.queue.turn(ask.age, ask.admission);
        assert_eq!(turn.ticket, ask.age.map_or(tickets, |age| age.ticket));
        let id = self.queue.add(0, ask, Wake::Thread(thread::current()));
        assert!(self.naive.iter().all(|one| one.id != id));
        assert_eq!(self.queue.turn(None, false).ticket, tickets + 1);
        self.naive.push(One {
            id,
            node: None,
            bytes: ask.bytes,
            turn,
            barrier: false,
            passed: 0,
            verdict: None,
        });
        self.enter(self.naive.len() - 1);
    }

    fn enter(&mut self, at: usize) {
        let node = self.random.u32(..NODES);
        let place = &mut self.places[node as usize];
        let level = *place.get_or_insert_with(|| self.queue.add_level(node));
        assert_eq!(self.queue.level(level).node, node);
        let one = &mut self.naive[at];
        one.node = Some(node);
        self.queue.insert(one.id, level, one.allowed());
    }

    fn leave(&mut self, at: usize) {
        let one = &mut self.naive[at];
        let node = one.node.take().expect("it is at a level");
        let level = self.places[node as usize].expect("which has a place");
        let emptied = self.queue.remove(one.id);
        let is_last = self.naive.iter().all(|one| one.node != Some(node));
        assert_eq!(emptied, is_last.then_some(level));
        if is_last {
            self.queue.free_level(level);
            self.places[node as usize] = None;
        }
    }

    fn change_level(&mut self) {
        if let Some(at) = self.any(|one| one.node.is_some()) {
            self.leave(at);
            self.enter(at);
        }
    }

    fn raise(&mut self, node: u32) {
        if let Some(level) = self.places[node as usize] {
            let allowed = |waiter: &Waiter<u32>| 2 * waiter.ask.bytes as u64;
            self.queue.raise_barriers(level, allowed);
        }
        for one in &mut self.naive {
            one.barrier |= one.node == Some(node) && one.passed >= one.allowed();
        }
    }

    fn grow(&mut self) {
        let (node, bytes) = (self.random.u32(..NODES), self.random.usize(..60));
        if let Some(level) = self.places[node as usize] {
            self.queue.grow(level, bytes);
        }
        for one in self.naive.iter_mut().filter(|one| one.node == Some(node)) {
            one.passed += bytes as u64;
        }
        self.raise(node);
    }

    fn pass_older(&mut self) {
        let Some(at) = self.any(|one| one.node.is_some()) else {
            return;
        };
        let (one, bytes) = (self.naive[at].clone(), self.random.usize(..60));
        self.queue.pass_older(one.id, bytes);
        for older in &mut self.naive {
            if older.node == one.node && older.turn.ticket < one.turn.ticket {
                older.passed += bytes as u64;
            }
        }
        self.raise(one.node.expect("it is at a level"));
    }

    fn decide(&mut self) {
        let Some(at) = self.any(|one| one.node.is_some()) else {
            return;
        };
        let verdict = [Verdict::Granted, Verdict::TimedOut][self.random.usize(..2)];
        let grants = self.queue.grants();
        self.leave(at);
        self.queue.decide(self.naive[at].id, verdict);
        let granted = u64::from(verdict == Verdict::Granted);
        assert_eq!(self.queue.grants(), grants + granted);
        let one = &mut self.naive[at];
        (one.verdict, one.barrier) = (Some(verdict), false);
        self.to_wake.push_back(one.id);
    }

    fn give_up(&mut self) {
        if let Some(at) = self.any(|one| one.node.is_some()) {
            self.leave(at);
            let one = self.naive.swap_remove(at);
            self.queue.give_up(one.id);
            self.ages.push(self.queue.waiter(one.id).age());
            assert!(self.queue.free(one.id).is_some());
        }
    }

    /// The owner of a request that has ended looks, perhaps before it was woken.
    fn free(&mut self) {
        if let Some(at) = self.any(|one| one.verdict.is_some()) {
            let one = self.naive.swap_remove(at);
            let waits_for_it = self.to_wake.contains(&one.id);
            self.to_wake.retain(|&id| id != one.id);
            self.ages.push(self.queue.waiter(one.id).age());
            assert_eq!(self.queue.free(one.id).is_some(), waits_for_it);
        }
    }

    fn wake(&mut self) {
        assert_eq!(self.queue.first_wake == NONE, self.to_wake.is_empty());
        let expected = self.to_wake.pop_front();
        if let Some(id) = expected {
            assert_eq!(self.queue.first_wake, id);
        }
        assert_eq!(self.queue.take_wake().is_some(), expected.is_some());
    }

    /// Marks levels, and takes some of them. One that is freed with its mark is taken no more.
    fn look(&mut self) {
        let marked: Vec<_> = self.places.iter().flatten().copied().collect();
        for &level in &marked {
            self.queue.mark(level);
            self.queue.mark(level);
        }
        while let Some(at) = self.any(|one| one.node.is_some()) {
            if self.random.bool() {
                break;
            }
            self.leave(at);
            self.queue.decide(self.naive[at].id, Verdict::Refused);
            let one = &mut self.naive[at];
            (one.verdict, one.barrier) = (Some(Verdict::Refused), false);
            self.to_wake.push_back(one.id);
        }
        let mut taken: Vec<_> = std::iter::from_fn(|| self.queue.take_marked()).collect();
        taken.sort_unstable();
        let mut left: Vec<_> = self.places.iter().flatten().copied().collect();
        left.sort_unstable();
        assert_eq!(taken, left);
    }

    fn check(&self) {
        let queue = &self.queue;
        let waiting = self.naive.iter().filter(|one| one.verdict.is_none());
        assert_eq!(queue.waiting(), waiting.clone().count());
        assert_eq!(
            queue.bytes(),
            waiting.clone().map(|one| one.bytes).sum::<usize>()
        );
        let barriers = waiting.filter(|one| one.barrier).count();
        assert_eq!(
            (queue.barriers, queue.withholds()),
            (barriers, barriers > 0)
        );
        let active = queue.waiting() + self.to_wake.len();
        assert_eq!((queue.active, queue.is_active()), (active, active > 0));
        assert_eq!(queue.has_wakes(), !self.to_wake.is_empty());
        assert!(queue.levels.capacity() >= queue.waiters.capacity());
        for node in 0..NODES {
            self.check_level(node);
        }
    }

    fn check_level(&self, node: u32) {
        let mut here: Vec<_> = self
            .naive
            .iter()
            .filter(|one| one.node == Some(node))
            .collect();
        here.sort_by_key(|one| one.turn.ticket);
        let Some(level) = self.places[node as usize] else {
            assert!(here.is_empty());
            return;
        };
        let ids: Vec<_> = here.iter().map(|one| one.id).collect();
        let queue = &self.queue;
        let next = |id: &u32| queue.next(*id);
        let older = |id: &u32| queue.previous(*id);
        let forth: Vec<_> = std::iter::successors(queue.first(level), next).collect();
        let mut back: Vec<_> = std::iter::successors(queue.last(level), older).collect();
        back.reverse();
        assert_eq!((&forth, &back), (&ids, &ids));
        assert_eq!(queue.level(level).waiters as usize, ids.len());
        let count = |admission| {
            let of_kind = here.iter().filter(|one| one.turn.admission == admission);
            of_kind.filter(|one| one.barrier).count() as u32
        };
        assert_eq!(queue.level(level).barriers, [count(false), count(true)]);
        for one in &here {
            assert_eq!(queue.waiter(one.id).level, level);
            assert_eq!(queue.waiter(one.id).barrier, one.barrier);
        }
        let mut turns = vec![Turn::TRY];
        turns.extend(here.iter().map(|one| one.turn));
        for turn in turns {
            let held_back = |one: &&&One| one.barrier && turn.is_held_back_by(one.turn);
            let expected = here.iter().find(held_back).map(|one| one.id);
            assert_eq!(queue.barrier(level, turn), expected);
        }
    }
}

/// As the owner of a request does: for the waiters, and then for their levels.
fn make_room(queue: &mut Queue<u32>) {
    let (mut spare, mut rounds) = (Spare::new(0), 0);
    while let Err(capacity) = queue.make_room(&mut spare) {
        spare = Spare::new(capacity);
        rounds += 1;
        assert!(rounds <= 2, "as much as was asked for suffices");
    }
}

#[test]
fn the_queue_is_what_a_naive_one_is_after_each_of_many_random_steps() {
    for seed in 0..30 {
        let mut pair = Pair::new(seed);
        for _ in 0..400 {
            pair.step();
        }
    }
}

#[test]
fn a_forked_child_has_no_waiters_and_keeps_their_places() {
    let mut pair = Pair::new(7);
    for _ in 0..100 {
        pair.step();
    }
    let ghosts = pair.places.iter().flatten().count();
    assert!(ghosts > 0);

    pair.queue.fork();

    let queue = &mut pair.queue;
    assert_eq!(
        (queue.waiting(), queue.bytes(), queue.grants > 0),
        (0, 0, true)
    );
    assert!(!queue.is_active() && !queue.withholds() && !queue.has_wakes());
    assert!(queue.take_marked().is_none());
    for one in &pair.naive {
        let waiter = queue.waiter(one.id);
        let expected = one.verdict.unwrap_or(Verdict::Forked);
        assert_eq!((waiter.level, waiter.verdict), (NONE, Some(expected)));
    }
    for level in pair.places.iter().flatten() {
        assert!(queue.first(*level).is_none() && queue.last(*level).is_none());
        assert_eq!(
            (queue.level(*level).waiters, queue.level(*level).barriers),
            (0, [0, 0])
        );
    }
    // There are places for as many levels as waiters, beside those.
    for _ in 0..100 {
        make_room(queue);
        assert!(queue.levels.capacity() >= queue.waiters.capacity() + ghosts);
        queue.add(0, Ask::new(false), Wake::Thread(thread::current()));
    }
}

#[test]
fn one_that_is_to_ask_is_woken_unless_its_own_wait_ends() {
    let mut queue: Queue<u32> = Queue::default();
    let [one, other] = [(); 2].map(|()| {
        make_room(&mut queue);
        queue.add(0, Ask::new(false), Wake::Thread(thread::current()))
    });
    queue.have_ask(one);

    queue.give_up(other);
    assert!(queue.is_to_ask() && queue.has_wakes());
    queue.give_up(one);

    // Its slot may be another request's by the time of the wake-up.
    assert!(!queue.is_to_ask() && !queue.has_wakes());
    assert!(queue.take_wake().is_none());
}

#[test]
fn the_memory_of_many_waiters_is_returned_once_the_last_one_has_left() {
    for (count, ghosts, returned) in [(64, 0, false), (65, 0, true), (65, 1, false)] {
        let mut queue: Queue<u32> = Queue::default();
        let all: Vec<_> = (0..count)
            .map(|_| {
                make_room(&mut queue);
                queue.add(0, Ask::new(false), Wake::Thread(thread::current()))
            })
            .collect();
        // As in a forked child.
        queue.ghosts = ghosts;

        for id in all {
            assert!(queue.take_unused().is_none());
            queue.give_up(id);
            assert!(queue.free(id).is_some());
        }

        assert_eq!(queue.take_unused().is_some(), returned, "{count} {ghosts}");
        let capacities = [queue.waiters.capacity(), queue.levels.capacity()];
        assert_eq!(capacities == [0, 0], returned, "{count} {ghosts}");
        make_room(&mut queue);
        queue.add(0, Ask::new(false), Wake::Thread(thread::current()));
    }
}

#[derive(Debug, Default)]
struct Waits(AtomicBool);

impl Spiller for Waits {
    fn listed(&self) -> &AtomicBool {
        &self.0
    }

    fn share_is_free(&self) {}
}

#[test]
fn those_that_wait_for_a_share_keep_the_queue_active_until_they_were_told_or_left() {
    let mut queue: Queue<u32> = Queue::default();
    let all: [Arc<dyn Spiller>; 2] = [Arc::new(Waits::default()), Arc::new(Waits::default())];
    for one in &all {
        let mut spare = Vec::with_capacity(8);
        assert_eq!(queue.add_spiller(one, &mut spare), Ok(true));
        assert_eq!(queue.add_spiller(one, &mut spare), Ok(false));
    }
    assert!(!queue.is_active() && !queue.has_wakes());

    assert!(queue.share_is_free());

    assert_eq!((queue.active, queue.has_wakes()), (2, true));
    assert!(queue.remove_spiller(&all[0]).is_some());
    assert!(queue.remove_spiller(&all[0]).is_none());
    assert_eq!((queue.active, queue.has_wakes()), (1, true));
    assert!(matches!(queue.take_wake(), Some(Wake::Spiller(_))));
    assert_eq!((queue.active, queue.has_wakes()), (0, false));
    assert!(queue.take_wake().is_none());
}

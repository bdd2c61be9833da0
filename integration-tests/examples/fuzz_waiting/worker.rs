//! What a thread does.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocError, AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator, GiveWay, Wait,
    WaitError,
};
use arrow_memory_integration_tests::load::{Count, large, millis, size};

use crate::{LIMIT, World, wakers};

/// Something that is charged.
enum Held {
    Buffer(ArrowBufMut),
    Frozen(#[expect(dead_code, reason = "is dropped")] ArrowBuf),
    Reservation(#[expect(dead_code, reason = "is dropped")] AllocationReservation),
    Query(#[expect(dead_code, reason = "is dropped")] BufferAllocator),
}

/// A request of a future, with its deadline.
struct Waiting {
    future: Pin<Box<dyn Future<Output = Result<Held, WaitError>> + Send>>,
    deadline: Option<Instant>,
    queued: bool,
}

pub(crate) struct Worker {
    world: Arc<World>,
    held: Vec<Held>,
    waiting: Vec<Waiting>,
    give_way: Option<GiveWay>,
    seed: u64,
}

impl Worker {
    pub(crate) fn new(world: Arc<World>, seed: u64) -> Self {
        Self {
            world,
            held: Vec::new(),
            waiting: Vec::new(),
            give_way: None,
            seed,
        }
    }

    pub(crate) fn run(&mut self) {
        fastrand::seed(self.seed);
        while !self.world.stop.load(Ordering::Acquire) {
            self.world.totals().add(Count::Steps);
            self.step();
        }
        self.waiting.clear();
        self.held.clear();
    }

    fn step(&mut self) {
        match fastrand::u32(..106) {
            0..25 => self.hold(),
            25..45 => self.release(),
            45..50 => self.grow(),
            50..58 => self.wait(),
            58..60 => self.wait_without_end(),
            60..62 => self.admit(),
            62..74 => self.start_future(),
            74..88 => self.poll_future(),
            88..92 => self.cancel_future(),
            92..96 => self.hand_on(),
            96..98 => self.change_bounds(),
            98 => self.change_reservation(),
            100..105 => self.world.change_cache(),
            105 => self.ask_for_nothing(),
            _ => self.replace_query(),
        }
        // So that the tree is nearly full and things move.
        while self.held.len() > 24 {
            self.release();
        }
    }

    fn query(&self) -> BufferAllocator {
        let query = self.world.any_query();
        match fastrand::u32(..4) {
            0 => query.child("operator").build().unwrap_or(query),
            _ => query,
        }
    }

    /// Has others give back memory that nobody needs.
    fn ask_for_nothing(&self) {
        if fastrand::u32(..8) == 0 {
            self.world.root.reclaim(size());
        } else {
            self.query().reclaim(size());
        }
    }

    fn hold(&mut self) {
        match self.query().buffer(size()) {
            Ok(buffer) => self.held.push(Held::Buffer(buffer)),
            Err(error) => self.refused(&error),
        }
    }

    fn release(&mut self) {
        if !self.held.is_empty() {
            let held = self.held.swap_remove(fastrand::usize(..self.held.len()));
            if let Held::Buffer(buffer) = held
                && fastrand::u32(..16) == 0
            {
                self.world
                    .pool
                    .lock()
                    .expect("no thread panics under it")
                    .push(buffer);
            }
        }
    }

    fn grow(&mut self) {
        let wait = fastrand::bool().then(millis);
        let ended = self.held.iter_mut().rev().find_map(|held| match held {
            Held::Buffer(buffer) => {
                let allocator = buffer.allocator();
                Some(match wait {
                    None => buffer.try_reserve(size()).map_err(WaitError::from),
                    Some(most) => allocator.wait().at_most(most).grow(buffer, size()),
                })
            }
            _ => None,
        });
        if let Some(Err(error)) = ended {
            self.ended(error, wait.is_some());
        }
    }

    fn wait(&mut self) {
        let (query, most) = (self.query(), millis());
        let began = Instant::now();
        let wait = self.with_age(query.wait()).at_most(most);
        let ended = if fastrand::bool() {
            wait.buffer(size()).map(Held::Buffer)
        } else {
            wait.reserve(large(LIMIT)).map(Held::Reservation)
        };
        if matches!(ended, Err(WaitError::TimedOut(_))) && began.elapsed() < most {
            self.world.totals().fail("timed out too early".to_owned());
        }
        self.keep(ended, true);
    }

    /// Without a deadline, and without anything that others may wait for.
    fn wait_without_end(&mut self) {
        self.waiting.clear();
        self.held.clear();
        let query = self.query();
        let mut wait = query.wait();
        loop {
            match wait.reserve(large(LIMIT)) {
                Err(WaitError::GiveWay(give_way)) => {
                    // The branch holds memory of other threads.
                    self.world.totals().add(Count::GaveWay);
                    wait = query.wait().after(give_way);
                }
                ended => return self.keep(ended.map(Held::Reservation), false),
            }
        }
    }

    fn admit(&mut self) {
        let admission = self.query().admit("admitted").reservation(large(LIMIT));
        let ended = if fastrand::bool() {
            admission.blocking(millis())
        } else {
            admission.limit(LIMIT).blocking(Duration::ZERO)
        };
        self.keep(ended.map(Held::Query), true);
    }

    fn start_future(&mut self) {
        if self.waiting.len() >= 8 {
            return self.poll_future();
        }
        let query = self.query();
        let most = fastrand::bool().then(millis);
        let deadline = most.map(|most| Instant::now() + most);
        let wait = self.with_age(query.wait());
        let wait = match deadline {
            Some(deadline) => wait.until(deadline),
            None => wait,
        };
        let future: Pin<Box<dyn Future<Output = _> + Send>> = match fastrand::u32(..3) {
            0 => {
                let buffer = wait.buffer_async(size());
                Box::pin(async { buffer.await.map(Held::Buffer) })
            }
            1 => {
                let reservation = wait.reserve_async(large(LIMIT));
                Box::pin(async { reservation.await.map(Held::Reservation) })
            }
            _ => {
                let admission = query.admit("admitted").reservation(large(LIMIT));
                let admission = match deadline {
                    Some(deadline) => admission.until(deadline),
                    None => admission,
                };
                let admission = admission.into_future();
                Box::pin(async { admission.await.map(Held::Query) })
            }
        };
        self.waiting.push(Waiting {
            future,
            deadline,
            queued: false,
        });
        self.poll(self.waiting.len() - 1);
    }

    fn poll_future(&mut self) {
        if !self.waiting.is_empty() {
            self.poll(fastrand::usize(..self.waiting.len()));
        }
    }

    fn poll(&mut self, index: usize) {
        let waker = wakers::any(&self.world);
        let waiting = &mut self.waiting[index];
        let ended = waiting
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&waker));
        let Poll::Ready(ended) = ended else {
            waiting.queued = true;
            return;
        };
        let waiting = self.waiting.swap_remove(index);
        if ended.is_ok() && waiting.queued {
            self.world.totals().add(Count::GrantedLate);
        }
        let early = waiting
            .deadline
            .is_none_or(|deadline| Instant::now() < deadline);
        if early && matches!(ended, Err(WaitError::TimedOut(_))) {
            self.world
                .totals()
                .fail("a future timed out too early".to_owned());
        }
        self.keep(ended, waiting.deadline.is_some());
    }

    fn cancel_future(&mut self) {
        if !self.waiting.is_empty() {
            self.world.totals().add(Count::Cancelled);
            drop(
                self.waiting
                    .swap_remove(fastrand::usize(..self.waiting.len())),
            );
        }
    }

    /// Moves a buffer to another query.
    fn hand_on(&mut self) {
        let Some(at) = self
            .held
            .iter()
            .position(|held| matches!(held, Held::Buffer(_)))
        else {
            return;
        };
        let Held::Buffer(buffer) = self.held.swap_remove(at) else {
            return;
        };
        let (buffer, to) = (buffer.freeze(), self.query());
        match fastrand::u32(..3) {
            0 => {
                if let Ok(moved) = buffer.transfer_ownership(&to) {
                    self.held.push(Held::Frozen(moved.buffer));
                }
            }
            1 => self
                .held
                .extend(buffer.try_transfer_ownership(&to).map(Held::Frozen)),
            _ => self.held.extend(buffer.retain_in(&to).map(Held::Frozen)),
        }
    }

    fn change_bounds(&self) {
        let query = self.query();
        let bound = LIMIT / 8 + fastrand::usize(..LIMIT);
        match fastrand::u32(..8) {
            0 => self
                .world
                .root
                .set_limit(LIMIT / 2 + fastrand::usize(..LIMIT / 2)),
            1 => self.world.root.set_limit(LIMIT),
            2 => self
                .world
                .root
                .set_cap(Some(LIMIT / 2 + fastrand::usize(..LIMIT))),
            3 => self.world.root.set_cap(None),
            4 => query.set_cap(Some(bound)),
            5 => query.set_cap(None),
            6 => query.set_limit(bound),
            _ => query.set_limit(usize::MAX),
        }
    }

    fn change_reservation(&self) {
        let query = self.query();
        if fastrand::bool() {
            if let Err(error) = query.set_reservation(fastrand::usize(..LIMIT / 64)) {
                self.refused(&error);
            }
        } else {
            query.force_reservation(fastrand::usize(..LIMIT / 64));
        }
    }

    /// Closes a query, and puts a new one into its place.
    fn replace_query(&self) {
        let index = fastrand::usize(..self.world.queries.len());
        let Ok(new) = self.world.root.child(&format!("query-{index}")).build() else {
            return;
        };
        let mut place = self.world.queries[index]
            .write()
            .expect("no thread panics under it");
        let old = std::mem::replace(&mut *place, new);
        drop(place);
        if fastrand::bool() {
            old.retire();
        } else {
            let _ = old.close(); // it may have memory
        }
    }

    /// Uses the age that a request kept when it had to give way, now and then.
    fn with_age<'a>(&mut self, wait: Wait<'a>) -> Wait<'a> {
        match self.give_way.take() {
            Some(give_way) if fastrand::bool() => wait.after(give_way),
            _ => wait,
        }
    }

    fn keep(&mut self, ended: Result<Held, WaitError>, has_deadline: bool) {
        match ended {
            Ok(held) => {
                self.world.totals().add(Count::Granted);
                self.held.push(held);
            }
            Err(error) => self.ended(error, has_deadline),
        }
    }

    fn ended(&mut self, error: WaitError, has_deadline: bool) {
        if let Some(give_way) = self.world.ground.ended(error, has_deadline) {
            let half = self.held.len() / 2;
            self.held.truncate(half);
            self.give_way = Some(give_way);
        }
    }

    fn refused(&self, error: &AllocError) {
        self.world.ground.refused(error);
    }
}

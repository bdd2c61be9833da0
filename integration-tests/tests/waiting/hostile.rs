//! Reclaimers that lie, panic, block, re-enter, drop their own guard, allocate, free nothing, and free all.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocError, ArrowBufMut, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard, RootAllocator,
    WaitError,
};
use arrow_memory_integration_tests::books::within_a_minute;

use crate::support::{LONG, assert_empty, builder};

const KIB: usize = 1 << 10;
const LIMIT: usize = 4096 * KIB;
const PAGE: usize = 16 * KIB;
const THREADS: u64 = 6;

/// What a reclaimer does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// It says that all can come back, and frees nothing.
    Lies,
    /// It panics in `reclaimable`, and in `reclaim` after it has freed a little.
    Panics,
    /// It frees a little, after a millisecond.
    Blocks,
    /// It asks others, and asks to wait.
    Reenters,
    /// It frees a little, and ends its registration.
    DropsItsGuard,
    /// It needs memory to free what it has.
    Allocates,
    FreesNothing,
    FreesAll,
}

const MANNERS: [Manner; 8] = [
    Manner::Lies,
    Manner::Panics,
    Manner::Blocks,
    Manner::Reenters,
    Manner::DropsItsGuard,
    Manner::Allocates,
    Manner::FreesNothing,
    Manner::FreesAll,
];

/// Holds memory at an allocator, and changes its manner with each call.
struct Hostile {
    allocator: BufferAllocator,
    held: Mutex<Vec<ArrowBufMut>>,
    guard: Mutex<Option<ReclaimGuard>>,
    /// The manner in use, or `None` for a new one each time.
    manner: Option<Manner>,
    random: Mutex<fastrand::Rng>,
    calls: AtomicUsize,
}

impl Hostile {
    fn new(allocator: BufferAllocator, manner: Option<Manner>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            allocator,
            held: Mutex::default(),
            guard: Mutex::default(),
            manner,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            calls: AtomicUsize::new(0),
        })
    }

    /// Registers it, unless it is, and has it take some memory if that is there.
    fn refresh(self: &Arc<Self>) {
        if let Ok(buffer) = self.allocator.buffer(PAGE) {
            lock(&self.held).push(buffer);
        }
        let cost = [Cost::Drop, Cost::Spill][usize::from(self.random().bool())];
        let mut guard = lock(&self.guard);
        if guard.is_none() {
            *guard = Some(
                self.allocator
                    .on_shortage(cost, Registered(Arc::downgrade(self))),
            );
        }
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        lock(&self.random)
    }

    fn manner(&self) -> Manner {
        self.manner
            .unwrap_or_else(|| MANNERS[self.random().usize(..MANNERS.len())])
    }

    /// Frees up to so many pages. Like a well-behaved cache it does not wait for its lock.
    fn free(&self, pages: usize) {
        let freed = self.held.try_lock().map(|mut held| {
            let rest = held.len().saturating_sub(pages);
            held.split_off(rest)
        });
        drop(freed);
    }

    fn asked(&self, ask: &Ask) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.manner() {
            Manner::Lies | Manner::FreesNothing => {}
            Manner::Panics => {
                self.free(1);
                resume_unwind(Box::new("on purpose"));
            }
            Manner::Blocks => {
                thread::park_timeout(Duration::from_millis(1));
                self.free(1);
            }
            Manner::Reenters => self.reenter(),
            Manner::DropsItsGuard => {
                self.free(1);
                let guard = self.guard.try_lock().ok().and_then(|mut it| it.take());
                drop(guard);
            }
            Manner::Allocates => {
                let scratch = ask.memory().map(|memory| memory.buffer(64));
                let more = self.allocator.buffer(LIMIT);
                assert!(more.is_err(), "it holds some itself");
                self.free(2);
                drop(scratch);
            }
            Manner::FreesAll => self.free(usize::MAX),
        }
    }

    /// Nothing that it does may ask others, or wait.
    fn reenter(&self) {
        let began = Instant::now();
        assert_eq!(self.allocator.reclaim(usize::MAX), 0);
        drop(self.allocator.buffer(PAGE));
        let waited = self.allocator.wait().buffer(LIMIT);
        assert!(matches!(waited, Err(WaitError::Refused(_))));
        drop(self.allocator.child("below").reservation(64).build());
        self.allocator.verify().unwrap();
        drop(
            self.allocator
                .on_shortage(Cost::Drop, Registered(Weak::new())),
        );
        assert!(began.elapsed() < LONG, "it waited for others");
        self.free(1);
    }
}

/// The registration of a [`Hostile`], which may be gone.
struct Registered(Weak<Hostile>);

impl Reclaim for Registered {
    fn reclaimable(&self) -> usize {
        match self.0.upgrade().map(|hostile| hostile.manner()) {
            Some(Manner::Lies) => usize::MAX,
            Some(Manner::Panics) => resume_unwind(Box::new("on purpose")),
            Some(_) => PAGE,
            None => 0,
        }
    }

    fn reclaim(&self, ask: Ask) {
        if let Some(hostile) = self.0.upgrade() {
            hostile.asked(&ask);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        resume_unwind(Box::new("on purpose"));
    }
}

/// A lock that a panic on purpose may have poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root(spill_reserve: usize) -> RootAllocator {
    builder(LIMIT)
        .spill_reserve(spill_reserve)
        .patience(Duration::from_millis(10))
        .build()
        .unwrap()
}

/// Sixteen reclaimers in four branches, one below another.
fn sixteen(root: &RootAllocator, manner: Option<Manner>, seed: u64) -> Vec<Arc<Hostile>> {
    let mut hostile = Vec::new();
    for branch in 0..4 {
        let mut at: BufferAllocator = root.child(&format!("branch-{branch}")).build().unwrap();
        for level in 0..4 {
            let child = at.child(&format!("level-{level}"));
            let child = child.priority(level - 2).build().unwrap();
            let seed = seed * 100 + branch * 4 + level as u64;
            hostile.push(Hostile::new(child.clone(), manner, seed));
            at = child;
        }
    }
    hostile
}

/// All that they hold is given back, and the root is empty.
fn end(root: &RootAllocator, spill_reserve: usize, hostile: Vec<Arc<Hostile>>) {
    for hostile in &hostile {
        drop(lock(&hostile.guard).take());
    }
    drop(hostile);
    assert_empty(root);
    drop(root.buffer(LIMIT - spill_reserve).unwrap());
    root.close().unwrap();
}

/// One thread: after a refusal the request does not fit, whatever those did who were asked.
fn requests_of_one_thread(manner: Option<Manner>) {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let root = root(0);
        let hostile = sixteen(&root, manner, seed);
        let query = root.child("query").build().unwrap();
        let (mut held, mut refused) = (Vec::new(), 0);
        for _ in 0..400 {
            hostile[random.usize(..hostile.len())].refresh();
            let bytes = random.usize(1..64) * PAGE;
            match query.buffer(bytes) {
                Ok(buffer) => held.push(buffer),
                Err(error) => {
                    assert!(matches!(error, AllocError::OutOfMemory { .. }), "{error:#}");
                    assert!(
                        query.headroom() < bytes as isize,
                        "it fits after it was refused"
                    );
                    refused += 1;
                    held.truncate(held.len() / 2);
                }
            }
            root.verify().unwrap();
        }
        assert!(refused > 0, "the tree was full");
        assert!(
            hostile
                .iter()
                .any(|it| it.calls.load(Ordering::Relaxed) > 0)
        );
        drop((held, query));
        end(&root, 0, hostile);
    }
}

#[test]
fn after_a_refusal_the_request_does_not_fit_whatever_those_did_who_were_asked() {
    for manner in MANNERS.map(Some).into_iter().chain([None]) {
        within_a_minute(move || requests_of_one_thread(manner));
    }
}

/// Random requests of six threads beside sixteen reclaimers that change their manner with each call.
#[test]
fn the_books_are_right_after_requests_of_several_threads_and_a_mix_of_hostile_reclaimers() {
    for seed in 0..3 {
        within_a_minute(move || {
            let root = root(64 * KIB);
            let hostile = sixteen(&root, None, seed);
            let (stop, granted) = (AtomicBool::new(false), AtomicU64::new(0));
            thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|index| {
                        let (root, hostile, stop, granted) = (&root, &hostile, &stop, &granted);
                        scope.spawn(move || {
                            fastrand::seed(seed * 10 + index);
                            while !stop.load(Ordering::Relaxed) {
                                hostile[fastrand::usize(..hostile.len())].refresh();
                                granted.fetch_add(query(root), Ordering::Relaxed);
                            }
                        })
                    })
                    .collect();
                // Also if an assertion fails here.
                let _ends = Ends(&stop);
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(2) {
                    root.verify().unwrap();
                    thread::park_timeout(Duration::from_millis(5));
                    assert!(threads.iter().all(|it| !it.is_finished()), "one panicked");
                }
            });
            assert!(granted.load(Ordering::Relaxed) > 0);
            let calls = hostile.iter().map(|it| it.calls.load(Ordering::Relaxed));
            assert!(calls.sum::<usize>() > 100, "they were asked");
            end(&root, 64 * KIB, hostile);
        });
    }
}

/// Ends the threads when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A query with a few requests of all kinds; the answer says how many were granted.
fn query(root: &RootAllocator) -> u64 {
    let Ok(query) = root
        .admit("query")
        .reservation(fastrand::usize(..8) * PAGE)
        .blocking(Duration::from_millis(20))
    else {
        return 0;
    };
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    for _ in 0..fastrand::usize(1..8) {
        let bytes = fastrand::usize(1..64) * PAGE;
        let wait = query
            .wait()
            .at_most(Duration::from_millis(fastrand::u64(..20)));
        let granted: Result<Box<dyn std::any::Any>, WaitError> = match fastrand::u32(..4) {
            0 => query
                .buffer(bytes)
                .map(|it| Box::new(it) as Box<dyn std::any::Any>)
                .map_err(WaitError::from),
            1 => wait.buffer(bytes).map(|it| Box::new(it) as _),
            2 => wait.reserve(bytes).map(|it| Box::new(it) as _),
            _ => {
                let mut reservation = query.new_reservation();
                let added = reservation.add(bytes).map_err(WaitError::from);
                added.map(|()| Box::new(reservation) as _)
            }
        };
        match granted {
            Ok(granted) => held.push(granted),
            Err(
                WaitError::Refused(AllocError::OutOfMemory { .. })
                | WaitError::TimedOut(_)
                | WaitError::GiveWay(_),
            ) => held.truncate(held.len() / 2),
            Err(other) => panic!("not documented: {other:#}"),
        }
    }
    held.len() as u64
}

/// 10,000 registrations of all manners, and one that frees what it has, in the end.
#[test]
fn ten_thousand_hostile_registrations_do_not_hide_the_one_that_helps() {
    within_a_minute(|| {
        let root = root(0);
        let all = root.child("all").build().unwrap();
        let hostile: Vec<_> = (0..10_000)
            .map(|number| {
                let manner = MANNERS[number % MANNERS.len()];
                // To block for 1,250 milliseconds is not what is tested here.
                let manner = Some(manner).filter(|it| *it != Manner::Blocks);
                let manner = manner.unwrap_or(Manner::Lies);
                let child = all.child(&format!("{number}")).build().unwrap();
                let hostile = Hostile::new(child, Some(manner), number as u64);
                let buffer = hostile.allocator.buffer(64).unwrap();
                lock(&hostile.held).push(buffer);
                let registered = Registered(Arc::downgrade(&hostile));
                let guard = hostile.allocator.on_shortage(Cost::Drop, registered);
                *lock(&hostile.guard) = Some(guard);
                hostile
            })
            .collect();
        let child = root.child("helps").priority(1).build().unwrap();
        let helps = Hostile::new(child, Some(Manner::FreesAll), 0);
        helps.refresh();
        let rest = LIMIT - root.allocated_memory();
        lock(&helps.held).push(helps.allocator.buffer(rest / 64 * 64).unwrap());
        let query = root.child("query").build().unwrap();

        let granted = query.buffer(LIMIT / 2);

        assert!(granted.is_ok(), "{granted:?}");
        let calls = hostile.iter().map(|it| it.calls.load(Ordering::Relaxed));
        assert_eq!(calls.sum::<usize>(), 10_000);
        drop((granted, query, all));
        end(&root, 0, hostile.into_iter().chain([helps]).collect());
    });
}

//! Threads do at random whatever has to do with waiting for memory, in one tree that is nearly full.
//!
//! `cargo run --release -p arrow-memory-integration-tests --example fuzz_waiting -- SECONDS SEED`
//!
//! 72 threads share a tree of 256 MiB with a spill reserve. Each takes and releases buffers and reservations, waits on the thread and by
//! futures, is admitted, cancels, closes allocators, changes limits, caps and reservations, and hands buffers on.
//! Caches that can be dropped are registered and end; a few of them panic, block, ask others, end their registration while
//! they are asked, or free nothing. Eight more threads hold memory and spill when their inbox says so.
//! Some wakers panic, and some use the tree. The program exits with 1 unless each call ends as its docs say, the
//! sums of the tree are right each time that it is verified, and nothing is charged in the end. The last line has
//! the totals.

mod wakers;
mod worker;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, RootAllocator};
use arrow_memory_integration_tests::load::{Cache, Count, Ground, Operator, Totals};
use arrow_memory_system as _;

use worker::Worker;

const THREADS: usize = 72;
const SPILLERS: u64 = 8;
/// What one ask to spill comes with: a quarter of the reserve.
const SHARE: usize = 1 << 20;
const LIMIT: usize = 256 << 20;
const QUERIES: usize = 12;

/// What the threads share.
struct World {
    root: RootAllocator,
    /// The children of the root. A thread that closes one puts a new one into its place.
    queries: Vec<RwLock<BufferAllocator>>,
    /// Buffers that wakers drop.
    pool: Mutex<Vec<ArrowBufMut>>,
    caches: Vec<Mutex<Option<Arc<Cache>>>>,
    stop: AtomicBool,
    ground: Arc<Ground>,
}

impl World {
    fn new() -> Self {
        let root = RootAllocator::builder()
            .limit(LIMIT)
            .patience(Duration::from_millis(20))
            .spill_reserve(4 * SHARE)
            .build()
            .expect("a backend is linked");
        let query = |index| root.child(&format!("query-{index}")).build();
        let queries =
            (0..QUERIES).map(|index| RwLock::new(query(index).expect("it needs no bytes")));
        Self {
            queries: queries.collect(),
            root,
            pool: Mutex::default(),
            caches: (0..16).map(|_| Mutex::default()).collect(),
            stop: AtomicBool::new(false),
            ground: Arc::default(),
        }
    }

    fn totals(&self) -> &Totals {
        &self.ground.totals
    }

    /// Makes room for those that still wait, so that their threads end. A thread that is in the middle of a step may
    /// take some of it again, such as a reservation: so this is repeated until all have ended.
    fn relax(&self) {
        self.stop.store(true, Ordering::Release);
        for query in self.queries.iter().map(|query| query.read()) {
            let query = query.expect("no thread panics under it");
            query.set_cap(None);
            query.set_limit(usize::MAX);
            let lowered = query.set_reservation(0);
            assert!(lowered.is_ok() || query.is_closed(), "{lowered:?}");
        }
        self.root.set_cap(None);
        self.root.set_limit(LIMIT);
        self.pool.lock().expect("no thread panics under it").clear();
        for cache in &self.caches {
            let cache = cache.lock().expect("no thread panics under it").take();
            drop(cache);
        }
        self.ground.answer_kept();
    }

    fn any_query(&self) -> BufferAllocator {
        let query = self.queries[fastrand::usize(..self.queries.len())].read();
        query.expect("no thread panics under it").clone()
    }

    /// Replaces a cache, or ends it, or has it take memory.
    fn change_cache(&self) {
        let place = &self.caches[fastrand::usize(..self.caches.len())];
        let cache = place.lock().expect("no thread panics under it").clone();
        let stays = cache.is_some_and(|cache| fastrand::u32(..32) > 0 && cache.fill());
        if stays {
            return;
        }
        let new = match fastrand::u32(..8) {
            0 => None,
            1..4 => Cache::new(&self.ground, &self.any_query()),
            _ => Cache::new(&self.ground, &self.root),
        };
        let mut place = place.lock().expect("no thread panics under it");
        let old = std::mem::replace(&mut *place, new);
        drop(place);
        drop(old);
    }

    /// Drops everything, and checks that nothing is left.
    fn end(mut self) {
        self.queries.clear();
        self.pool = Mutex::default();
        self.caches.clear();
        self.ground.answer_kept();
        self.root.verify().expect("the sums are right");
        let snapshot = self.root.snapshot();
        assert_eq!(snapshot.waiters.len(), 0, "{snapshot:?}");
        assert_eq!(self.root.allocated_memory(), 0, "{}", self.root.report());
        // All of it can be had again, and all shares of the spill reserve.
        assert_eq!(self.root.headroom(), (LIMIT - 4 * SHARE) as isize);
        self.root.close().expect("nothing is left");
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Some(5), |text| text.parse().ok());
    let seed = arguments.next().map_or(Some(1), |text| text.parse().ok());
    let (Some(seconds), Some(seed)) = (seconds, seed) else {
        eprintln!("usage: fuzz_waiting SECONDS SEED");
        return ExitCode::from(2);
    };
    let (ended, end) = channel();
    let world = Arc::new(World::new());
    let shared = Arc::clone(&world);
    let runs = thread::spawn(move || {
        run(&shared, Duration::from_secs(seconds), seed);
        // The receiver was dropped if this took too long.
        let _ = ended.send(());
    });
    let allowed = Duration::from_secs(seconds + 60);
    if end.recv_timeout(allowed) == Err(RecvTimeoutError::Timeout) {
        println!("threads hang:\n{:#?}", world.root.snapshot());
        return ExitCode::FAILURE;
    }
    if runs.join().is_err() {
        return ExitCode::FAILURE;
    }
    let Some(world) = alone(world) else {
        println!("a waker or a cache was not dropped");
        return ExitCode::FAILURE;
    };
    println!(
        "seed {seed}, {seconds} s, {THREADS} threads: {}",
        world.totals()
    );
    let failures = world.totals().failures();
    for failure in &failures {
        println!("failed: {failure}");
    }
    world.end();
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Returns the world once the timer's thread has ended the wakers and caches that it was calling.
fn alone(mut world: Arc<World>) -> Option<World> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        if Arc::strong_count(&world.ground) == 1 {
            match Arc::try_unwrap(world) {
                Ok(world) => return Some(world),
                Err(shared) => world = shared,
            }
        }
        thread::yield_now();
    }
    None
}

/// Runs the threads for that time, and verifies the tree while they run.
fn run(world: &Arc<World>, time: Duration, seed: u64) {
    let began = Instant::now();
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|index| {
            let mut worker = Worker::new(Arc::clone(world), seed.wrapping_mul(1000) + index);
            thread::spawn(move || worker.run())
        })
        .collect();
    let spillers = (0..SPILLERS).map(|index| {
        let world = Arc::clone(world);
        thread::spawn(move || spill(&world, seed.wrapping_mul(1000) + 500 + index))
    });
    let threads: Vec<_> = threads.into_iter().chain(spillers).collect();
    while began.elapsed() < time {
        thread::park_timeout(Duration::from_millis(200));
        world.root.verify().expect("the sums are right");
        world.totals().add(Count::Verified);
        if threads.iter().any(|thread| thread.is_finished()) {
            break; // It panicked.
        }
    }
    while !threads.iter().all(|thread| thread.is_finished()) {
        world.relax();
        thread::park_timeout(Duration::from_millis(20));
    }
    let ended = threads.into_iter().map(|thread| thread.join());
    let panicked = ended.filter(Result::is_err).count();
    assert_eq!(panicked, 0, "threads panicked");
    world.relax(); // for what the last steps left
}

/// Has one operator that spills after another, until the world stops.
fn spill(world: &World, seed: u64) {
    fastrand::seed(seed);
    while !world.stop.load(Ordering::Acquire) {
        let parent = match fastrand::bool() {
            true => world.any_query(),
            false => (*world.root).clone(),
        };
        let Ok(allocator) = parent.child("sort").build() else {
            continue; // the query was closed
        };
        let mut operator = Operator::new(allocator);
        for _ in 0..fastrand::u32(1..200) {
            if world.stop.load(Ordering::Acquire) {
                break;
            }
            operator.step(&world.ground, SHARE);
        }
        // Perhaps with an ask in its inbox.
    }
}

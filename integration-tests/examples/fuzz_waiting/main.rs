//! Threads do at random whatever has to do with waiting for memory, in one tree that is nearly full.
//!
//! `cargo run --release -p arrow-memory-integration-tests --example fuzz_waiting -- SECONDS SEED`
//!
//! 72 threads share a tree of 256 MiB. Each takes and releases buffers and reservations, waits on the thread and by
//! futures, is admitted, cancels, closes allocators, changes limits, caps and reservations, and hands buffers on.
//! Some wakers panic, and some use the tree. The program exits with 1 unless each call ends as its docs say, the
//! sums of the tree are right each time that it is verified, and nothing is charged in the end. The last line has
//! the totals.

mod totals;
mod wakers;
mod worker;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, RootAllocator};
use arrow_memory_system as _;

use totals::Totals;
use worker::Worker;

const THREADS: usize = 72;
const LIMIT: usize = 256 << 20;
const QUERIES: usize = 12;

/// What the threads share.
struct World {
    root: RootAllocator,
    /// The children of the root. A thread that closes one puts a new one into its place.
    queries: Vec<RwLock<BufferAllocator>>,
    /// Buffers that wakers drop.
    pool: Mutex<Vec<ArrowBufMut>>,
    stop: AtomicBool,
    totals: Totals,
}

impl World {
    fn new() -> Self {
        let root = RootAllocator::builder()
            .limit(LIMIT)
            .patience(Duration::from_millis(20))
            .build()
            .expect("a backend is linked");
        let query = |index| root.child(&format!("query-{index}")).build();
        let queries =
            (0..QUERIES).map(|index| RwLock::new(query(index).expect("it needs no bytes")));
        Self {
            queries: queries.collect(),
            root,
            pool: Mutex::default(),
            stop: AtomicBool::new(false),
            totals: Totals::default(),
        }
    }

    /// Makes room for those that still wait, so that their threads end.
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
    }

    /// Drops everything, and checks that nothing is left.
    fn end(mut self) {
        self.queries.clear();
        self.pool = Mutex::default();
        self.root.verify().expect("the sums are right");
        let snapshot = self.root.snapshot();
        assert_eq!(snapshot.waiters.len(), 0, "{snapshot:?}");
        assert_eq!(self.root.allocated_memory(), 0, "{}", self.root.report());
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
        println!("a waker was not dropped");
        return ExitCode::FAILURE;
    };
    println!(
        "seed {seed}, {seconds} s, {THREADS} threads: {}",
        world.totals
    );
    let failures = world.totals.failures();
    for failure in &failures {
        println!("failed: {failure}");
    }
    world.end();
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Returns the world once the timer's thread has ended the wakers that it was calling.
fn alone(mut world: Arc<World>) -> Option<World> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        match Arc::try_unwrap(world) {
            Ok(world) => return Some(world),
            Err(shared) => world = shared,
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
    while began.elapsed() < time {
        thread::park_timeout(Duration::from_millis(200));
        world.root.verify().expect("the sums are right");
        Totals::add(&world.totals.verified);
        if threads.iter().any(|thread| thread.is_finished()) {
            break; // It panicked.
        }
    }
    world.relax();
    let ended = threads.into_iter().map(|thread| thread.join());
    let panicked = ended.filter(Result::is_err).count();
    assert_eq!(panicked, 0, "threads panicked");
}

//! Three caches and four threads with queries that sort, under a limit that fits half of what they want.
//!
//! Each cache wants 12 MiB and each query 23 MiB: 128 MiB in all, under a limit of 64 MiB. A query takes 92 batches, for
//! each of which it looks something up in a cache and computes for 200 µs; then it merges. What is not in the cache is
//! computed for another 200 µs. To spill, and to read back, takes a millisecond for each MiB. All of this time is spent
//! asleep, as by a program that waits for disks, so the cores of the machine limit nothing.
//!
//! The same work is done in four ways: see [`Way`].

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_benches::harness::{Estimate, Settings};
use arrow_memory_benches::trees;
use arrow_memory_core::{
    AllocationReservation, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard, ReclaimInbox,
    WaitError,
};

use crate::{KIB, MIB};

const LIMIT: usize = 64 * MIB;
/// Set aside for spilling, where asks come with memory.
const SPILL_RESERVE: usize = MIB;
const BATCH: usize = 256 * KIB;
const CACHES: usize = 3;
/// Entries of a batch's size that each cache wants.
const ENTRIES: usize = 48;
const THREADS: usize = 4;
/// Queries of each thread.
const QUERIES: usize = 4;
/// Batches of a query.
const BATCHES: usize = 92;
const COMPUTE: Duration = Duration::from_micros(200);
const MERGE: Duration = Duration::from_micros(20);
/// To write a batch elsewhere, and as long again to read it back.
const SPILL: Duration = Duration::from_micros(250);

/// How a query gets memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// It waits; caches and other queries are asked for memory.
    Asks,
    /// It is refused, releases all that it has, and begins anew after a while.
    Retries,
    /// It is refused, and spills what it has itself. Without any, it tries again after a while.
    SpillsItself,
    /// There is memory for all.
    Unlimited,
}

const WAYS: [(&str, Way); 4] = [
    ("ask others", Way::Asks),
    ("fail fast, retry", Way::Retries),
    ("fail fast, spill itself", Way::SpillsItself),
    ("no limit", Way::Unlimited),
];

/// What became of the work.
#[derive(Default)]
struct Outcome {
    /// In milliseconds.
    makespan: f64,
    /// What was charged to the tree over time, in MiB × seconds.
    used: f64,
    computed: f64,
    spilled_mib: f64,
    hits: f64,
    refused: f64,
}

pub(crate) fn run(settings: &Settings) {
    let rounds = settings.rounds.div_ceil(10);
    let mut outcomes: [Vec<Outcome>; WAYS.len()] = Default::default();
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            outcomes[at].push(work(WAYS[at].1, round as u64));
        }
    }
    for ((name, _), outcomes) in WAYS.iter().zip(&outcomes) {
        let row = |what: &str, number: fn(&Outcome) -> f64, unit: &str| {
            let estimate = Estimate::of(outcomes.iter().map(number).collect());
            println!("| {name}: {what} | {estimate}{unit} |");
        };
        row("makespan", |it| it.makespan, " ms");
        row("bytes × seconds used", |it| it.used, " MiB s");
        row(
            "batches computed of 1,472 that are needed",
            |it| it.computed,
            "",
        );
        row("spilled", |it| it.spilled_mib, " MiB");
        row("found in a cache", |it| it.hits, "");
        row("refused requests", |it| it.refused, "");
    }
}

/// What the threads share.
struct World {
    way: Way,
    root: BufferAllocator,
    caches: Vec<Arc<Cache>>,
    computed: AtomicU64,
    spilled: AtomicU64,
    hits: AtomicU64,
    refused: AtomicU64,
}

/// Does all the work in one way.
fn work(way: Way, seed: u64) -> Outcome {
    let limit = if way == Way::Unlimited {
        usize::MAX
    } else {
        LIMIT
    };
    let reserve = if way == Way::Asks { SPILL_RESERVE } else { 0 };
    let root = trees::root_with("mimalloc", |builder| {
        builder.limit(limit).spill_reserve(reserve)
    });
    let caches = (0..CACHES).map(|number| Arc::new(Cache::new(&root, number)));
    let caches: Vec<_> = caches.collect();
    let asked = caches.iter().filter(|_| way == Way::Asks);
    let guards: Vec<ReclaimGuard> = asked.map(|cache| cache.register()).collect();
    let world = World {
        way,
        root,
        caches,
        computed: AtomicU64::new(0),
        spilled: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    let ends = AtomicBool::new(false);
    let began = Instant::now();
    let (makespan, used) = thread::scope(|scope| {
        let used = scope.spawn(|| sample(&world.root, &ends));
        let threads = (0..THREADS as u64).map(|thread| {
            let world = &world;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed * 100 + thread);
                for number in 0..QUERIES {
                    query(world, number, &mut random);
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            thread.join().expect("no query panics");
        }
        let makespan = began.elapsed();
        // Relaxed: nothing else is told by it.
        ends.store(true, Ordering::Relaxed);
        (makespan, used.join().expect("it does not panic"))
    });
    drop(guards);
    // Relaxed, all: the threads have ended.
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
    Outcome {
        makespan: makespan.as_secs_f64() * 1000.0,
        used,
        computed: count(&world.computed),
        spilled_mib: count(&world.spilled) / MIB as f64,
        hits: count(&world.hits),
        refused: count(&world.refused),
    }
}

/// Adds up what is charged, in MiB × seconds.
fn sample(root: &BufferAllocator, ends: &AtomicBool) -> f64 {
    let (mut sum, mut before) = (0.0, Instant::now());
    // Relaxed: see `work`.
    while !ends.load(Ordering::Relaxed) {
        pause(Duration::from_micros(500));
        let now = Instant::now();
        sum += root.allocated_memory() as f64 / MIB as f64 * (now - before).as_secs_f64();
        before = now;
    }
    sum
}

/// Stands for a computation, or for a wait for a disk.
fn pause(time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|it| !it.is_zero()) {
        thread::park_timeout(left);
    }
}

fn count(count: &AtomicU64, by: usize) {
    // Relaxed: a count.
    count.fetch_add(by as u64, Ordering::Relaxed);
}

// ---- caches -------------------------------------------------------------------------------

/// Keeps what was computed, as long as there is room.
struct Cache {
    allocator: BufferAllocator,
    entries: Mutex<HashMap<usize, AllocationReservation>>,
}

impl Cache {
    fn new(root: &BufferAllocator, number: usize) -> Self {
        let allocator = root.child(&format!("cache-{number}")).build();
        Self {
            allocator: allocator.expect("the root is open"),
            entries: Mutex::default(),
        }
    }

    fn register(self: &Arc<Self>) -> ReclaimGuard {
        let evicts = Evicts(Arc::clone(self));
        self.allocator.on_shortage(Cost::Drop, evicts)
    }

    /// Whether the key is found. If not, it is computed and kept, if that costs nobody anything.
    fn look_up(&self, key: usize) -> bool {
        if self.entries.lock().expect("no panic").contains_key(&key) {
            return true;
        }
        pause(COMPUTE);
        let mut entry = self.allocator.new_reservation();
        // Without the look others would be asked to make room for the entry.
        if self.allocator.headroom() >= BATCH as isize && entry.add(BATCH).is_ok() {
            let before = self.entries.lock().expect("no panic").insert(key, entry);
            drop(before);
        }
        false
    }

    fn evict(&self, bytes: usize) {
        // The thread that asks may have the lock.
        let Ok(mut entries) = self.entries.try_lock() else {
            return;
        };
        let keys: Vec<usize> = entries
            .keys()
            .copied()
            .take(bytes.div_ceil(BATCH))
            .collect();
        let evicted: Vec<_> = keys.iter().map(|key| entries.remove(key)).collect();
        drop(entries);
        drop(evicted);
    }
}

/// Drops entries of a cache when it is asked.
struct Evicts(Arc<Cache>);

impl Reclaim for Evicts {
    fn reclaimable(&self) -> usize {
        self.0.allocator.charged_memory()
    }

    fn reclaim(&self, ask: Ask) {
        self.0.evict(ask.bytes());
    }
}

// ---- queries ------------------------------------------------------------------------------

struct Query<'a> {
    world: &'a World,
    inbox: ReclaimInbox,
    /// One for each batch in memory.
    held: Vec<AllocationReservation>,
    allocator: BufferAllocator,
    spilled: usize,
}

/// A refused request, after which the query begins anew.
struct Refused;

/// Runs a query to its end.
fn query(world: &World, number: usize, random: &mut fastrand::Rng) {
    let mut attempts = 0;
    while attempt(world, number, random).is_err() {
        // Twice as long each time, and some more or less.
        attempts = (attempts + 1).min(5);
        pause(Duration::from_micros(random.u64(500..1500) << attempts));
    }
}

fn attempt(world: &World, number: usize, random: &mut fastrand::Rng) -> Result<(), Refused> {
    let allocator = world.root.child(&format!("query-{number}"));
    let allocator = allocator.build().expect("the root is open");
    let mut query = Query {
        world,
        inbox: allocator.reclaim_inbox(Cost::Spill),
        held: Vec::new(),
        allocator,
        spilled: 0,
    };
    for _ in 0..BATCHES {
        let cache = &world.caches[random.usize(..CACHES)];
        if cache.look_up(random.usize(..ENTRIES)) {
            count(&world.hits, 1);
        }
        pause(COMPUTE);
        count(&world.computed, 1);
        query.take_batch(random)?;
    }
    pause(MERGE * query.held.len() as u32 + SPILL * query.spilled as u32);
    Ok(())
}

impl Query<'_> {
    fn take_batch(&mut self, random: &mut fastrand::Rng) -> Result<(), Refused> {
        match self.world.way {
            Way::Asks => {
                block_on(self.take_or_spill());
                self.inbox.set_reclaimable(self.held.len() * BATCH);
            }
            Way::Retries | Way::Unlimited => {
                if self.try_batch().is_err() {
                    return Err(Refused);
                }
            }
            Way::SpillsItself => {
                while self.try_batch().is_err() {
                    if self.held.is_empty() {
                        pause(Duration::from_micros(random.u64(500..1500)));
                    } else {
                        self.spill();
                    }
                }
            }
        }
        Ok(())
    }

    fn try_batch(&mut self) -> Result<(), Refused> {
        let mut batch = self.allocator.new_reservation();
        if batch.add(BATCH).is_err() {
            count(&self.world.refused, 1);
            return Err(Refused);
        }
        self.held.push(batch);
        Ok(())
    }

    /// Waits for a batch, and spills when it is asked, before or meanwhile.
    async fn take_or_spill(&mut self) {
        if let Some(ask) = self.inbox.try_ask() {
            self.spill_for(ask);
        }
        let allocator = self.allocator.clone();
        let mut wait = allocator.wait();
        loop {
            let mut more = pin!(wait.reserve_async(BATCH));
            let taken = std::future::poll_fn(|context| {
                loop {
                    if let Poll::Ready(taken) = more.as_mut().poll(context) {
                        return Poll::Ready(taken);
                    }
                    match self.inbox.poll_ask(context) {
                        Poll::Ready(ask) => self.spill_for(ask),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            });
            match taken.await {
                Ok(batch) => return self.held.push(batch),
                Err(WaitError::GiveWay(give_way)) => {
                    self.spill();
                    wait = allocator.wait().after(give_way);
                }
                Err(error) => panic!("a query was refused: {error:#}"),
            }
        }
    }

    fn spill_for(&mut self, ask: Ask) {
        let memory = ask.memory().expect("the root has a spill reserve");
        let page = memory.buffer(64 * KIB).expect("it is set aside for this");
        self.spill();
        drop(page);
        drop(ask);
    }

    /// Writes all that it has elsewhere.
    fn spill(&mut self) {
        let batches = self.held.len();
        pause(SPILL * batches as u32);
        self.held.clear();
        self.spilled += batches;
        count(&self.world.spilled, batches * BATCH);
    }
}

/// Runs a future on this thread, which parks while it waits.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future: Pin<&mut F> = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

//! Three caches and four queries that spill, under a limit that fits half of what they want.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use arrow_memory_core::{
    AllocationReservation, Ask, BufferAllocator, Cost, Reclaim, ReclaimInbox, RootAllocator,
    WaitError,
};
use arrow_memory_integration_tests::books::within_a_minute;

use crate::support::{LONG, assert_empty, builder, until};

const BATCH: usize = 16 << 10;
/// Batches that each cache holds, and that each query wants at once.
const CACHE: usize = 48;
const QUERY: usize = 92;
const QUERIES: usize = 4;
const ROUNDS: usize = 4;
/// Half of what all want.
const LIMIT: usize = (3 * CACHE + QUERIES * QUERY) * BATCH / 2;
const SPILL_RESERVE: usize = 16 * BATCH;

/// Drops as many batches as are asked for.
struct Cache {
    held: Mutex<Vec<AllocationReservation>>,
    /// How many batches all caches hold.
    cached: Arc<AtomicUsize>,
}

impl Reclaim for Cache {
    fn reclaimable(&self) -> usize {
        self.held.try_lock().map_or(0, |held| held.len() * BATCH)
    }

    fn reclaim(&self, ask: Ask) {
        let evicted = self.held.try_lock().map(|mut held| {
            let rest = held.len().saturating_sub(ask.bytes().div_ceil(BATCH));
            held.split_off(rest)
        });
        let count = evicted.as_ref().map_or(0, Vec::len);
        drop(evicted);
        self.cached.fetch_sub(count, Ordering::Relaxed);
    }
}

struct Query {
    allocator: BufferAllocator,
    inbox: ReclaimInbox,
    held: Vec<AllocationReservation>,
    /// How often it spilled since it was asked.
    spills: usize,
}

impl Query {
    /// Waits for a batch, and spills when it is asked, before or meanwhile.
    async fn take(&mut self) {
        let allocator = self.allocator.clone();
        let mut wait = allocator.wait();
        loop {
            let mut batch = pin!(wait.at_most(LONG).reserve_async(BATCH));
            let taken = poll_fn(|context| {
                while let Poll::Ready(ask) = self.inbox.poll_ask(context) {
                    self.spill(&ask);
                }
                batch.as_mut().poll(context)
            });
            match taken.await {
                Ok(batch) => return self.held.push(batch),
                Err(WaitError::GiveWay(give_way)) => {
                    self.held.clear();
                    wait = allocator.wait().after(give_way);
                }
                Err(error) => panic!("a query was refused: {error:#}"),
            }
        }
    }

    fn spill(&mut self, ask: &Ask) {
        let memory = ask.memory().unwrap();
        let page = memory.buffer(SPILL_RESERVE / 4).unwrap();
        self.held.clear();
        self.spills += 1;
        drop(page);
    }
}

#[test]
fn all_queries_finish_and_none_is_refused_what_others_can_give_back() {
    within_a_minute(|| {
        let root = builder(LIMIT + SPILL_RESERVE)
            .spill_reserve(SPILL_RESERVE)
            .patience(Duration::from_millis(20))
            .build()
            .unwrap();
        let cached = Arc::new(AtomicUsize::new(3 * CACHE));
        let caches = [(); 3].map(|()| {
            let allocator = root.child("cache").build().unwrap();
            let batches = (0..CACHE).map(|_| allocator.wait().reserve(BATCH).unwrap());
            let cache = Cache {
                held: Mutex::new(batches.collect()),
                cached: Arc::clone(&cached),
            };
            allocator.on_shortage(Cost::Drop, cache)
        });
        let (spills, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let arrived = AtomicUsize::new(0);

        thread::scope(|scope| {
            for thread in 0..QUERIES {
                let (root, cached, spills, ended) = (&root, &cached, &spills, &ended);
                let arrived = &arrived;
                scope.spawn(move || {
                    for number in 0..ROUNDS {
                        let name = format!("query-{thread}-{number}");
                        let spilled = run(root, &name, cached, number, arrived);
                        spills.fetch_add(spilled, Ordering::Relaxed);
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });

        assert_eq!(ended.load(Ordering::Relaxed), ROUNDS * QUERIES);
        let cached = cached.load(Ordering::Relaxed);
        assert!(cached < 3 * CACHE, "caches are asked to drop");
        assert!(
            spills.load(Ordering::Relaxed) > 0,
            "then queries are asked to spill"
        );
        drop(caches);
        assert_empty(&root);
        assert_eq!(root.headroom(), LIMIT as isize);
    });
}

/// Runs a query, of which none ends before all have had what they want; the answer says how often it was asked to spill.
fn run(
    root: &RootAllocator,
    name: &str,
    cached: &AtomicUsize,
    number: usize,
    arrived: &AtomicUsize,
) -> usize {
    let allocator = root.child(name).build().unwrap();
    let mut query = Query {
        inbox: allocator.reclaim_inbox(Cost::Spill),
        held: Vec::new(),
        spills: 0,
        allocator,
    };
    for _ in 0..QUERY {
        smol::block_on(query.take());
        query.inbox.set_reclaimable(query.held.len() * BATCH);
        // A request that does not wait is refused only if the caches have nothing; or if another thread is just asking
        // one of them, for which it does not wait.
        until(|| query.allocator.buffer(64).is_ok() || cached.load(Ordering::Relaxed) == 0);
    }
    arrived.fetch_add(1, Ordering::Relaxed);
    // Those that have what they want are asked, too: together they may hold all that there is.
    until(|| {
        while let Some(ask) = query.inbox.try_ask() {
            query.spill(&ask);
        }
        arrived.load(Ordering::Relaxed) >= (number + 1) * QUERIES
    });
    query.spills
}

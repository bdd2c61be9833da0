//! Many threads at a tight limit: the limit is never passed, and no request that fits is refused.
//!
//! Every call is recorded with the ticks before and after it, and judged at the end, see
//! [`arrow_memory_integration_tests::history`]. The manager counts the bytes of live blocks during the run.
//!
//! One change of the accounting at a time showed that these tests can fail:
//!
//! | change | failure |
//! |---|---|
//! | a request is refused without recalling credit first | a request that always fitted is refused |
//! | bytes are given back to a shut word | the same; and sums that do not add up at the end |
//! | one in a thousand releases gives nothing back | the same; and a tree that cannot be closed |
//! | credit is taken by a load and a store | more bytes released than were charged |
//! | recall folds a node's credit before all below are stopped | a request that always fitted is refused |
//! | credit below a tight level is kept as elsewhere | the same |
//! | credit is handed out beyond the limit | a peak above the limit; live bytes above it |
//! | a charge ends before its block is freed | live bytes above the limit |
//! | a child is opened below a tight parent | the tree's own assertions |

mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{AllocationManager, ArrowBufMut, BufferAllocator, RootAllocator};
use arrow_memory_integration_tests::for_every_backend;
use arrow_memory_integration_tests::history::{History, Log, OpenLevel, Summary};
use arrow_memory_integration_tests::managers::YieldingManager;

use worker::{Worker, release};

type Backend = Arc<dyn AllocationManager>;

/// The limit of the root in bytes.
const LIMIT: usize = 48 * 1024;

/// Enough threads on two cores to be preempted at every point.
const THREADS: u64 = 4;

/// The number of steps of each thread per run, unless `CONTENTION_STEPS` sets it (sanitizers are slow).
const STEPS: usize = 10_000;

fn steps() -> usize {
    let wanted = std::env::var("CONTENTION_STEPS").ok();
    wanted.and_then(|it| it.parse().ok()).unwrap_or(STEPS)
}

for_every_backend!(
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_the_default_credit,
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_without_credit,
    at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_little_credit,
    whoever_looks_on_sees_no_level_above_its_limit,
    levels_that_many_threads_fought_for_keep_their_limits,
    a_client_that_keeps_asking_too_much_refuses_nobody_else,
);

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_the_default_credit(
    backend: &Backend,
) {
    for seed in 1..4 {
        contend(backend, None, seed, Onlooker::No);
    }
}

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_without_credit(backend: &Backend) {
    contend(backend, Some(0), 4, Onlooker::No);
}

fn at_a_tight_limit_no_byte_too_many_is_granted_and_none_too_few_with_little_credit(
    backend: &Backend,
) {
    contend(backend, Some(1500), 5, Onlooker::No);
}

fn whoever_looks_on_sees_no_level_above_its_limit(backend: &Backend) {
    contend(backend, None, 6, Onlooker::Yes);
}

/// A node on which threads collide often may switch to another representation.
fn levels_that_many_threads_fought_for_keep_their_limits(backend: &Backend) {
    let fight = |levels: &[Node]| {
        for level in [8, 2, 0] {
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    // All buffers fit at once, so that no thread needs the tree's lock.
                    scope.spawn(move || {
                        for _ in 0..5 * steps() {
                            drop(levels[level].allocator.buffer(64).unwrap());
                        }
                    });
                }
            });
        }
    };
    contend_after(backend, None, 7, Onlooker::No, fight);
}

fn a_client_that_keeps_asking_too_much_refuses_nobody_else(backend: &Backend) {
    let root = RootAllocator::builder()
        .limit(LIMIT)
        .allocation_manager(Arc::clone(backend))
        .build()
        .unwrap();
    let modest = root.child("modest").build().unwrap();
    let greedy = root.child("greedy").build().unwrap();
    let _held = greedy.buffer(LIMIT / 4).unwrap();
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: only the flag matters.
            while !done.load(Ordering::Relaxed) {
                greedy.buffer(LIMIT * 3 / 4 + 1).unwrap_err();
            }
        });
        let workers = [1, 2].map(|seed| {
            let modest = &modest;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut held: Vec<ArrowBufMut> = Vec::new();
                for _ in 0..4 * steps() {
                    // Six buffers of at most a sixteenth, on two threads, and the quarter fit into the limit.
                    if held.len() == 6 {
                        held.swap_remove(random.usize(..6));
                    }
                    held.push(modest.buffer(1 + random.usize(..LIMIT / 16)).unwrap());
                }
            })
        });
        let results = workers.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onlooker {
    Yes,
    No,
}

fn contend(backend: &Backend, credit: Option<usize>, seed: u64, onlooker: Onlooker) {
    contend_after(backend, credit, seed, onlooker, |_| ());
}

/// Calls `first`, then runs threads that use random levels of one tree in every way that respects limits.
fn contend_after(
    backend: &Backend,
    credit: Option<usize>,
    seed: u64,
    onlooker: Onlooker,
    first: impl FnOnce(&[Node]),
) {
    let manager = Arc::new(TrackingManager::over(Arc::clone(backend)));
    let history = History::default();
    let mut log = Log::default();
    let yielding = Arc::new(YieldingManager::over(manager.clone()));
    let levels = tree(yielding, credit, &history);
    first(&levels);
    let shared = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    let start = Barrier::new(usize::try_from(THREADS).unwrap());

    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (levels, history, shared, start) = (&levels, &history, &shared, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut worker = Worker::new(levels, history, shared, seed * 100 + thread);
                    worker.work();
                })
            })
            .collect();
        if onlooker == Onlooker::Yes {
            scope.spawn(|| {
                // Relaxed: only the flag matters.
                while !done.load(Ordering::Relaxed) {
                    look(&levels);
                }
            });
        }
        let results: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });

    let rest = shared.into_inner().unwrap();
    rest.into_iter()
        .for_each(|held| release(held, &history, &mut log));
    finish(levels, &history, &mut log);
    history.add(log);
    assert!(
        manager.max_live_bytes() <= LIMIT,
        "{} bytes were live",
        manager.max_live_bytes()
    );
    manager.assert_clean();
    let Summary {
        granted,
        refused,
        undisturbed,
    } = history
        .judge()
        .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    assert!(
        granted > steps() && refused > steps() / 4,
        "{granted} granted, {refused} refused"
    );
    println!("{granted} granted, {refused} refused, of which {undisturbed} undisturbed");
}

/// One level of the tree on which all threads work.
struct Node {
    allocator: BufferAllocator,
    open: OpenLevel,
}

/// The root, two branches and a chain; some levels are reserved, and the limits add up to more than the
/// root's.
fn tree(manager: Backend, credit: Option<usize>, history: &History) -> Vec<Node> {
    const KIB: usize = 1024;
    let (root, span) = history.timed(|| {
        let mut builder = RootAllocator::builder()
            .limit(LIMIT)
            .allocation_manager(manager);
        if let Some(credit) = credit {
            builder = builder.credit(credit);
        }
        BufferAllocator::from(builder.build().unwrap())
    });
    let open = history.level(None, 0, LIMIT, span);
    let mut nodes = vec![Node {
        allocator: root,
        open,
    }];
    let children = [
        // parent, reservation, limit
        (0, 0, 30 * KIB),
        (0, 12 * KIB, 24 * KIB),
        (1, 5 * KIB, 16 * KIB + 1),
        (1, 0, usize::MAX),
        (2, 7 * KIB, 20 * KIB),
        (4, 0, usize::MAX),
        (6, 3 * KIB, usize::MAX),
        (7, 0, 25 * KIB),
    ];
    for (index, (parent, reservation, limit)) in children.into_iter().enumerate() {
        let at: &Node = &nodes[parent];
        let (child, span) = history.timed(|| {
            at.allocator
                .new_child_allocator(&format!("level {}", index + 1), reservation, limit)
                .unwrap()
        });
        let open = history.level(Some(at.open.level), reservation, limit, span);
        nodes.push(Node {
            allocator: child,
            open,
        });
    }
    nodes
}

/// Reads every number while other threads work.
fn look(levels: &[Node]) {
    for node in levels {
        let it = &node.allocator;
        let (allocated, limit) = (it.allocated_memory(), it.limit());
        assert!(
            allocated <= limit,
            "`{}`: {allocated} of {limit}",
            it.name()
        );
        assert!(it.headroom() >= 0, "`{}`", it.name());
        assert!(!it.is_over_limit(), "`{}`", it.name());
        assert!(it.peak_memory_allocation() <= limit, "`{}`", it.name());
    }
    assert_eq!(levels[0].allocator.verify(), Ok(()));
}

/// Closes the tree, the leaves first.
fn finish(levels: Vec<Node>, history: &History, log: &mut Log) {
    for node in &levels {
        let it = &node.allocator;
        let below = it.child_allocators();
        assert_eq!(it.allocated_memory(), below.iter().map(counted).sum());
        assert!(it.peak_memory_allocation() <= it.limit(), "`{}`", it.name());
    }
    assert_eq!(levels[0].allocator.verify(), Ok(()));
    for node in levels.into_iter().rev() {
        let (closed, span) = history.timed(|| node.allocator.close().is_ok());
        assert!(closed, "`{}`", node.allocator.name());
        log.removed(node.open, span);
    }
}

/// The bytes that a child counts for its parent.
fn counted(child: &BufferAllocator) -> usize {
    child.allocated_memory().max(child.reservation())
}

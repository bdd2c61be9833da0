//! Who is refused beyond what limits say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_memory_core::{AllocationReservation, Ask, Cost, Reclaim};
use arrow_memory_datafusion::{Charge, DataFusionMemory, Policy, QueryMemory, RootAllocator, Wait};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use crate::support::balanced;

struct Pool {
    root: RootAllocator,
    memory: DataFusionMemory,
    query: QueryMemory,
    pool: Arc<dyn MemoryPool>,
}

fn pool(limit: usize, policy: Policy) -> Pool {
    let root = RootAllocator::new(limit);
    let memory = DataFusionMemory::builder(&root).policy(policy).build();
    let query = memory.query("q").try_admit().unwrap();
    let pool = pool_of(&query);
    Pool {
        root,
        memory,
        query,
        pool,
    }
}

fn pool_of(query: &QueryMemory) -> Arc<dyn MemoryPool> {
    Arc::clone(query.task_context(TaskContext::default()).memory_pool())
}

fn spiller(pool: &Arc<dyn MemoryPool>, name: &str) -> MemoryReservation {
    MemoryConsumer::new(name)
        .with_can_spill(true)
        .register(pool)
}

fn other(pool: &Arc<dyn MemoryPool>, name: &str) -> MemoryReservation {
    MemoryConsumer::new(name).register(pool)
}

/// Grows until it is refused, and returns its size.
fn fill(reservation: &MemoryReservation) -> usize {
    while reservation.try_grow(1).is_ok() {}
    reservation.size()
}

#[test]
fn what_can_spill_leaves_room_to_what_cannot() {
    let Pool {
        root,
        memory: _memory,
        query,
        pool,
    } = pool(1000, Policy::Greedy);
    let sort = spiller(&pool, "ExternalSorter[0]");
    assert_eq!(fill(&sort), 900);
    let join = other(&pool, "HashJoinInput");
    assert_eq!(fill(&join), 100);
    let refused = sort.try_grow(1).unwrap_err().to_string();
    assert!(refused.contains("cannot spill"), "{refused}");
    drop((sort, join, pool, query));
    balanced(&root);
}

/// What it declares is on its way, and exists already.
#[test]
fn a_repartitioning_is_not_held_back_and_may_pass_the_limit_by_the_overdraft() {
    let Pool {
        root,
        memory: _memory,
        query,
        pool,
    } = pool(1000, Policy::Fair);
    let sort = spiller(&pool, "ExternalSorter[0]");
    assert_eq!(fill(&sort), 900);
    let repartition = spiller(&pool, "RepartitionExec[0]");
    assert_eq!(fill(&repartition), 150);
    assert_eq!(query.report().forced_bytes, 50);
    drop((sort, repartition, pool, query));
    balanced(&root);
}

#[test]
fn what_declares_nothing_is_not_held_back() {
    let Pool { query, pool, .. } = pool(1000, Policy::Fair);
    let sort = spiller(&pool, "ExternalSorter[0]");
    fill(&sort);
    spiller(&pool, "ExternalSorter[1]").try_grow(50).unwrap();
    drop(query);
}

#[test]
fn a_fair_part_is_one_of_those_that_are_active() {
    let Pool { query, pool, .. } = pool(1000, Policy::Fair);
    let registered: Vec<_> = (0..8)
        .map(|one| spiller(&pool, &format!("s[{one}]")))
        .collect();
    // Alone, it may have everything that is not left to the others.
    assert_eq!(fill(&registered[0]), 900);
    registered[0].shrink(500);
    registered[1].try_grow(1).unwrap();
    assert_eq!(fill(&registered[1]), 450);
    registered[1].shrink(150);
    let refused = registered[0].try_grow(51).unwrap_err().to_string();
    assert!(refused.contains("equal part"), "{refused}");
    // What cannot spill is taken from both.
    let join = other(&pool, "HashJoinInput");
    join.try_grow(100).unwrap();
    assert_eq!(fill(&registered[1]), 400);
    drop((registered, join, query));
}

#[test]
fn the_largest_that_can_spill_gives_way_once() {
    let Pool { query, pool, .. } = pool(1000, Policy::Greedy);
    let (small, large) = (
        spiller(&pool, "ExternalSorter[0]"),
        spiller(&pool, "ExternalSorter[1]"),
    );
    let repartition = spiller(&pool, "RepartitionExec[0]");
    let merge = other(&pool, "ExternalSorterMerge[1]");
    small.try_grow(100).unwrap();
    large.try_grow(300).unwrap();
    repartition.try_grow(400).unwrap();
    merge.try_grow(50).unwrap();
    let join = other(&pool, "HashJoinInput");
    join.try_grow(151).unwrap_err();
    // Only the largest one that frees something is told, when it asks next, and once.
    small.try_grow(1).unwrap();
    merge.try_grow(1).unwrap();
    repartition.try_grow(1).unwrap();
    let refused = large.try_grow(1).unwrap_err().to_string();
    assert!(refused.contains("to spill"), "{refused}");
    join.try_grow(151).unwrap_err();
    large.try_grow(1).unwrap();
    // It has given something back, and can be told again.
    large.shrink(10);
    join.try_grow(900).unwrap_err();
    large.try_grow(1).unwrap_err();
    let revoked: u64 = query.report().operators.iter().map(|one| one.revoked).sum();
    assert_eq!(revoked, 2);
    drop((small, large, repartition, merge, join, query));
}

/// Runs a request for 300 bytes of a query's join while another query has 800 of 1000. That gives them back once the request
/// waits, or only when it was answered. Returns whether the bytes were granted, and whether the request has waited.
fn waited(wait: Wait, limit: usize, threads: bool, gives: bool) -> (bool, bool) {
    let root = RootAllocator::new(1000);
    let memory = DataFusionMemory::builder(&root).wait(wait).build();
    let holder = memory.query("holder").try_admit().unwrap();
    let held = other(&pool_of(&holder), "HashJoinInput");
    held.try_grow(800).unwrap();
    let query = memory.query("q").limit(limit).try_admit().unwrap();
    let join = other(&pool_of(&query), "HashJoinInput");
    let mut runtime = if threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_time().build().unwrap();
    let answered = AtomicBool::new(false);
    let granted = std::thread::scope(|scope| {
        scope.spawn(|| {
            let waits = || gives && !root.snapshot().waiters.is_empty();
            while !answered.load(Ordering::Relaxed) && !waits() {
                std::thread::yield_now();
            }
            drop(held);
        });
        let granted = runtime.block_on(async { join.try_grow(300).is_ok() });
        answered.store(true, Ordering::Relaxed);
        granted
    });
    let waited = !query.report().waited.is_zero();
    drop((join, query, holder));
    balanced(&root);
    (granted, waited)
}

#[test]
fn what_cannot_spill_waits_for_other_queries_if_it_may() {
    let long = Wait::Block(Duration::from_secs(60));
    assert_eq!(waited(long, usize::MAX, true, true), (true, true));
    let short = Wait::Block(Duration::from_millis(60));
    assert_eq!(waited(short, usize::MAX, true, false), (false, true));
    assert_eq!(waited(Wait::Never, usize::MAX, true, true), (false, false));
    // Its own limit refuses; and a runtime of one thread would wait for itself.
    assert_eq!(waited(long, 200, true, true), (false, false));
    assert_eq!(waited(long, usize::MAX, false, true), (false, false));
}

#[test]
fn another_query_gives_way_where_it_can_help_and_is_not_more_important() {
    // Without a number of its own a query has that of the allocator above, which is 2.
    for (first, second, limit, told) in [
        (None, None, usize::MAX, true),
        (Some(2), None, usize::MAX, true),
        (Some(3), None, usize::MAX, false),
        (None, Some(1), usize::MAX, false),
        (None, None, 500, false),
    ] {
        let root = RootAllocator::new(1000);
        let server = root.child("server").priority(2).build().unwrap();
        let memory = DataFusionMemory::new(&server);
        let admitted = |name, priority: Option<i32>, limit| {
            let query = memory.query(name).limit(limit);
            let query = match priority {
                Some(priority) => query.priority(priority),
                None => query,
            };
            query.try_admit().unwrap()
        };
        let queries = [
            admitted("first", first, usize::MAX),
            admitted("second", second, limit),
        ];
        let sort = spiller(&pool_of(&queries[0]), "ExternalSorter[0]");
        sort.try_grow(450).unwrap();
        let join = other(&pool_of(&queries[1]), "HashJoinInput");
        join.try_grow(600).unwrap_err();
        assert_eq!(
            sort.try_grow(1).is_err(),
            told,
            "{first:?} {second:?} {limit}"
        );
    }
}

/// Gives back what it holds when it is asked.
struct Cache(Mutex<Option<AllocationReservation>>);

impl Reclaim for Cache {
    fn reclaimable(&self) -> usize {
        900
    }

    fn reclaim(&self, ask: Ask) {
        drop(self.0.lock().unwrap().take());
        drop(ask);
    }
}

#[test]
fn caches_are_asked_before_an_operator_is_refused() {
    for charge in [Charge::Declared, Charge::Larger] {
        let root = RootAllocator::new(1000);
        let memory = DataFusionMemory::builder(&root).charge(charge).build();
        let cache = root.child("cache").build().unwrap();
        let mut entries = cache.new_reservation();
        entries.add(900).unwrap();
        let entries = Cache(Mutex::new(Some(entries)));
        let guard = cache.on_shortage(Cost::Drop, entries);
        let query = memory.query("q").try_admit().unwrap();
        let join = other(&pool_of(&query), "HashJoinInput");
        join.try_grow(300).unwrap();
        assert_eq!(
            (cache.allocated_memory(), root.allocated_memory()),
            (0, 300)
        );
        drop((join, query, guard, cache));
        balanced(&root);
    }
}

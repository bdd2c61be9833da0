//! What DataFusion expects of a pool, its own tests' expectations among them, on a query's pool and on a session's.

use std::sync::Arc;
use std::thread;

use arrow_memory_datafusion::{DataFusionMemory, RootAllocator};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

use crate::support::balanced;

fn register(pool: &Arc<dyn MemoryPool>, name: &str) -> MemoryReservation {
    MemoryConsumer::new(name).register(pool)
}

/// Runs a test on a session's pool, and on the pools of a query with that limit and of one below a root with it.
fn on_each_pool(limit: usize, test: impl Fn(&Arc<dyn MemoryPool>)) {
    let root = RootAllocator::new(limit);
    test(&DataFusionMemory::new(&root).pool());
    balanced(&root);
    for (of_root, of_query) in [(limit, usize::MAX), (usize::MAX, limit)] {
        let root = RootAllocator::new(of_root);
        let query = DataFusionMemory::new(&root)
            .query("q")
            .limit(of_query)
            .try_admit()
            .unwrap();
        let context = query.task_context(TaskContext::default());
        test(context.memory_pool());
        drop((query, context));
        balanced(&root);
    }
}

#[test]
fn a_pool_that_is_over_its_limit_recovers() {
    on_each_pool(50, |pool| {
        let a1 = register(pool, "a1");
        assert_eq!(pool.reserved(), 0);
        a1.grow(100);
        assert_eq!(pool.reserved(), 100);
        assert_eq!(a1.free(), 100);
        assert_eq!(pool.reserved(), 0);
        a1.try_grow(100).unwrap_err();
        assert_eq!(pool.reserved(), 0);
        a1.try_grow(30).unwrap();
        assert_eq!(pool.reserved(), 30);

        let a2 = register(pool, "a2");
        a2.try_grow(25).unwrap_err();
        assert_eq!(pool.reserved(), 30);
        drop(a1);
        assert_eq!(pool.reserved(), 0);
        a2.try_grow(25).unwrap();
        assert_eq!(pool.reserved(), 25);
    });
}

#[test]
fn the_limit_is_reached_and_not_passed() {
    on_each_pool(50, |pool| {
        let one = register(pool, "one");
        for (size, fits) in [(0, true), (1, true), (49, true), (50, true), (51, false)] {
            assert_eq!(one.try_resize(size).is_ok(), fits, "{size}");
        }
        assert_eq!((one.size(), pool.reserved()), (50, 50));
        register(pool, "two").try_grow(0).unwrap();
    });
}

#[test]
fn reservations_of_one_consumer_are_split_taken_and_emptied() {
    on_each_pool(50, |pool| {
        let mut r1 = register(pool, "r1");
        r1.try_grow(20).unwrap();
        let r2 = r1.split(5);
        assert_eq!((r1.size(), r2.size(), pool.reserved()), (15, 5, 20));
        let r3 = r1.new_empty();
        r3.try_grow(5).unwrap();
        let r4 = r1.take();
        r4.try_grow(5).unwrap();
        assert_eq!((r1.size(), r4.size(), pool.reserved()), (0, 20, 30));
        r1.try_grow(3).unwrap();
        drop((r1, r4));
        assert_eq!((r2.size(), r3.size(), pool.reserved()), (5, 5, 10));
    });
}

#[test]
fn what_is_shrunk_is_there_for_others() {
    on_each_pool(100, |pool| {
        let r1 = register(pool, "r1");
        r1.try_grow(50).unwrap();
        assert_eq!(r1.try_shrink(30).unwrap(), 20);
        assert_eq!(pool.reserved(), 20);
        let r2 = register(pool, "r2");
        r2.try_grow(80).unwrap();
        assert_eq!(pool.reserved(), 100);
        assert!(r1.try_shrink(25).is_err());
        assert_eq!((r1.size(), pool.reserved()), (20, 100));
        assert_eq!(r1.try_shrink(20).unwrap(), 0);
        assert_eq!(pool.reserved(), 80);
    });
}

#[test]
fn a_reservation_that_is_shrunk_too_far_panics_and_the_pool_is_as_it_was() {
    on_each_pool(100, |pool| {
        let one = register(pool, "one");
        one.grow(10);
        let shrunk = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.shrink(11)));
        assert!(shrunk.is_err());
        assert_eq!((one.size(), pool.reserved()), (10, 10));
    });
}

#[test]
fn a_pool_tells_its_type_and_its_limit() {
    on_each_pool(50, |pool| {
        assert!(!pool.is::<GreedyMemoryPool>());
        assert!(matches!(pool.memory_limit(), MemoryLimit::Finite(50)));
        assert_eq!(pool.name(), "arrow-memory");
    });
    let unlimited = DataFusionMemory::new(&RootAllocator::unlimited()).pool();
    assert!(matches!(unlimited.memory_limit(), MemoryLimit::Infinite));
}

#[test]
fn a_refusal_is_bare_and_says_who_asked_who_refused_and_who_holds_most() {
    let root = RootAllocator::new(1000);
    let memory = DataFusionMemory::new(&root);
    let other = memory.query("other").reservation(300).try_admit().unwrap();
    let query = memory.query("q7").limit(500).try_admit().unwrap();
    let context = query.task_context(TaskContext::default());
    let sorts = [0, 1].map(|partition| {
        let consumer = MemoryConsumer::new(format!("Sort[{partition}]")).with_can_spill(true);
        consumer.register(context.memory_pool())
    });
    sorts[0].try_grow(100).unwrap();
    sorts[1].try_grow(300).unwrap();
    let join = register(context.memory_pool(), "Join");

    let DataFusionError::ResourcesExhausted(text) = join.try_grow(200).unwrap_err() else {
        panic!("operators that match on it would fail instead of spilling");
    };

    for part in [
        "Join of query `q7` was refused 200 B: ",
        "`q7`",
        "largest consumers of `q7`:\n  Sort[1]: 300 B, can spill\n  Sort[0]: 100 B, can spill\n",
        "Raise the query's limit",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("other"),
        "the query's own limit refused: {text}"
    );

    query.set_limit(usize::MAX);
    let DataFusionError::ResourcesExhausted(text) = join.try_grow(301).unwrap_err() else {
        panic!("operators that match on it would fail instead of spilling");
    };

    assert!(
        text.contains("largest allocators below `ROOT`:\n  q7"),
        "{text}"
    );
    assert!(text.contains("\n  other: 300 B"), "{text}");
    drop((sorts, join, context, query, other));
    balanced(&root);
}

#[test]
fn each_operator_has_its_node_and_what_is_forced_is_counted() {
    let root = RootAllocator::builder()
        .limit(1000)
        .credit(0)
        .build()
        .unwrap();
    let query = DataFusionMemory::new(&root).query("q").try_admit().unwrap();
    let context = query.task_context(TaskContext::default());
    let pool = context.memory_pool();
    let (one, two) = (register(pool, "Sort[0]"), register(pool, "Sort[1]"));
    let join = register(pool, "Join");
    one.try_grow(100).unwrap();
    two.try_grow(50).unwrap();
    one.free();
    join.grow(2000);
    assert!(
        two.try_grow(1).is_err(),
        "nothing is granted while the tree is over its limit"
    );
    join.shrink(1999);
    drop(two);

    let report = query.report();

    let operators: Vec<_> = report
        .operators
        .iter()
        .map(|node| {
            (
                &*node.name,
                node.declared,
                node.peak,
                node.refused,
                node.forced_bytes,
                node.consumers,
            )
        })
        .collect();
    assert_eq!(
        operators,
        [("Join", 1, 2000, 0, 2000, 1), ("Sort", 0, 150, 1, 0, 1)]
    );
    assert_eq!(
        (
            report.declared,
            report.peak,
            report.refused,
            report.forced_bytes
        ),
        (1, 2050, 1, 2000)
    );
    let nodes = query.allocator().child_allocators();
    assert_eq!(
        nodes
            .iter()
            .map(|node| node.name().to_owned())
            .collect::<Vec<_>>(),
        ["Sort", "Join"]
    );
    drop((one, join, context, query, nodes));
    balanced(&root);
}

#[test]
fn nothing_is_granted_to_a_query_that_was_cancelled_and_its_nodes_leave_with_their_bytes() {
    let root = RootAllocator::new(1000);
    let query = DataFusionMemory::new(&root)
        .query("q")
        .reservation(500)
        .try_admit()
        .unwrap();
    let context = query.task_context(TaskContext::default());
    let sort = register(context.memory_pool(), "Sort[0]");
    sort.try_grow(100).unwrap();
    assert_eq!(root.allocated_memory(), 500);

    query.cancel("enough");

    assert_eq!(
        root.allocated_memory(),
        100,
        "nothing is set aside for it any more"
    );
    let late = register(context.memory_pool(), "Late[0]");
    for reservation in [&sort, &late] {
        let refused = reservation.try_grow(1).unwrap_err().to_string();
        assert!(
            refused.contains("the query has ended: it was cancelled: enough"),
            "{refused}"
        );
        reservation.grow(10);
    }
    assert_eq!(root.allocated_memory(), 120);
    drop((sort, late));
    balanced(&root);
}

#[test]
fn threads_that_reserve_at_random_pass_no_limit_and_leave_nothing() {
    const LIMIT: usize = 10_000;
    on_each_pool(LIMIT, |pool| {
        let left: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4u64)
                .map(|seed| scope.spawn(move || at_random(pool, seed)))
                .collect();
            let reservations = threads.into_iter().map(|thread| thread.join().unwrap());
            let reservations: Vec<_> = reservations.flatten().collect();
            let sum = reservations.iter().map(MemoryReservation::size).sum();
            assert_eq!(pool.reserved(), sum);
            sum
        });
        assert!(left <= LIMIT);
        assert_eq!(pool.reserved(), 0);
    });
}

/// Grows, shrinks, splits and takes for a while; returns what it still has.
fn at_random(pool: &Arc<dyn MemoryPool>, seed: u64) -> Vec<MemoryReservation> {
    let mut state = seed;
    let mut below = |end: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    let mut all: Vec<_> = (0..3)
        .map(|partition| register(pool, &format!("Op[{partition}]")))
        .collect();
    for _ in 0..2000 {
        let index = below(all.len());
        match below(8) {
            // A refusal is as good an outcome as a grant.
            0..4 => drop(all[index].try_grow(below(3000))),
            4 => drop(all[index].try_resize(below(3000))),
            5 => assert!(all[index].free() <= 10_000),
            6 if all.len() < 8 => {
                let part = all[index].split(all[index].size() / 2);
                all.push(part);
            }
            _ if all.len() > 3 => drop(all.swap_remove(index)),
            _ => {
                let taken = all[index].take();
                all[index] = taken;
            }
        }
        assert!(pool.reserved() <= 10_000);
    }
    all
}

//! The reservation of a child, changed by an amount, as threads do that share the child.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use arrow_memory_core::{AllocError, BufferAllocator, Purpose, RootAllocator};
use arrow_memory_system as _;

fn tree(limit: usize) -> (RootAllocator, BufferAllocator) {
    let root = RootAllocator::new(limit);
    let sort = root.child("sort").build().unwrap();
    (root, sort)
}

#[test]
fn raising_and_lowering_change_what_is_reserved_by_an_amount() {
    let (root, sort) = tree(1000);
    let charged = || (sort.reservation(), root.allocated_memory());

    sort.raise_reservation(300).unwrap();
    sort.raise_reservation(0).unwrap();
    sort.raise_reservation(700).unwrap();
    assert_eq!(charged(), (1000, 1000));
    sort.lower_reservation(999);
    sort.lower_reservation(0);
    assert_eq!(charged(), (1, 1));
    sort.allocate_bytes(500).unwrap();
    assert_eq!(charged(), (1, 500));
    sort.raise_reservation(500).unwrap();
    assert_eq!(charged(), (501, 501));
    sort.lower_reservation(501);
    assert_eq!(charged(), (0, 500));
    sort.release_bytes(500);
    root.verify().unwrap();
}

#[test]
fn a_refusal_says_by_how_much_it_was_to_rise_and_changes_nothing() {
    let (root, sort) = tree(1000);
    root.allocate_bytes(500).unwrap();
    sort.raise_reservation(100).unwrap();

    let refused = sort.raise_reservation(401).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "allocator `ROOT` is out of room: 401 bytes requested (the reservation of `sort` was to rise from \
         100 to 501 bytes), 400 left of its limit of 1000"
    );
    let AllocError::OutOfMemory {
        requested, purpose, ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!(*requested, 401);
    assert!(
        matches!(&**purpose, Purpose::LiveReservation { allocator, from: 100, to: 501 } if &*allocator.name == "sort"),
        "{purpose:?}"
    );
    assert_eq!((sort.reservation(), root.allocated_memory()), (100, 600));
    assert_eq!(root.stats().refusals, 1);
    sort.raise_reservation(400).unwrap();
    root.release_bytes(500);
}

#[test]
fn the_allocators_own_limit_holds_for_the_sum() {
    let (_root, sort) = tree(1000);
    sort.set_limit(300);
    sort.raise_reservation(200).unwrap();

    let refused = sort.raise_reservation(101).unwrap_err();

    assert_eq!(&*refused.allocator().unwrap().name, "sort");
    sort.raise_reservation(100).unwrap();
    sort.set_limit(100);
    sort.raise_reservation(0).unwrap(); // it changes nothing, so that nothing stands in its way
    assert_eq!(sort.reservation(), 300);
}

#[test]
fn a_sum_that_no_number_can_hold_is_refused() {
    let (root, sort) = tree(usize::MAX);
    sort.raise_reservation(10).unwrap();

    for bytes in [isize::MAX as usize - 9, isize::MAX as usize, usize::MAX] {
        let refused = sort.raise_reservation(bytes).unwrap_err();
        assert!(
            matches!(refused, AllocError::SizeOverflow { requested, .. } if requested == bytes),
            "{refused}"
        );
        let forced = catch_unwind(AssertUnwindSafe(|| sort.force_raise_reservation(bytes)));
        assert!(forced.is_err());
    }
    assert_eq!((sort.reservation(), root.allocated_memory()), (10, 10));
    root.verify().unwrap();
}

#[test]
fn a_forced_raise_passes_limits_and_is_counted() {
    let (root, sort) = tree(1000);

    assert!(sort.force_raise_reservation(700));
    assert!(!sort.force_raise_reservation(800));

    assert_eq!(
        (sort.reservation(), sort.stats().forced_bytes),
        (1500, 1500)
    );
    assert!(root.is_over_limit());
    sort.lower_reservation(500);
    assert!(!root.is_over_limit());
    sort.set_limit(100);
    assert!(!sort.force_raise_reservation(1), "above its own limit, too");
}

#[test]
fn to_lower_it_by_more_than_it_has_panics_and_changes_nothing() {
    let (root, sort) = tree(1000);
    sort.raise_reservation(100).unwrap();

    let panic = catch_unwind(AssertUnwindSafe(|| sort.lower_reservation(101))).unwrap_err();

    assert_eq!(
        panic.downcast_ref::<String>().unwrap(),
        "the reservation of allocator `sort` was to be lowered by 101 bytes, and has 100"
    );
    assert_eq!((sort.reservation(), root.allocated_memory()), (100, 100));
    sort.lower_reservation(100);
    root.verify().unwrap();
}

#[test]
fn a_root_and_an_allocator_that_has_left_its_tree_reserve_nothing() {
    let (root, sort) = tree(1000);

    root.raise_reservation(500).unwrap();
    assert!(root.force_raise_reservation(5000));
    root.lower_reservation(5500);
    root.raise_reservation(1001).unwrap_err();
    sort.raise_reservation(100).unwrap();
    sort.allocate_bytes(10).unwrap();
    sort.close().unwrap_err();
    assert!(matches!(
        sort.raise_reservation(1).unwrap_err(),
        AllocError::Closed { .. }
    ));
    sort.lower_reservation(60);
    assert_eq!((sort.reservation(), root.allocated_memory()), (40, 40));
    sort.release_bytes(10);
    sort.lower_reservation(40); // it has left, and took its reservation with it
    assert!(sort.force_raise_reservation(100));

    assert_eq!((sort.reservation(), root.allocated_memory()), (0, 0));
}

#[test]
fn the_history_has_the_value_and_the_line() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let sort = root.child("sort").build().unwrap();

    let first = line!() + 1;
    sort.raise_reservation(70).unwrap();
    sort.force_raise_reservation(7);
    sort.lower_reservation(66);
    root.raise_reservation(5).unwrap(); // changes nothing, and is not noted

    let text = root.to_verbose_string();
    for (line, value) in (first..).zip([70, 77, 11]) {
        let event = format!("reservation set ({value}) at {}:{line}", file!());
        assert!(text.contains(&event), "{text}");
    }
    assert_eq!(text.matches("reservation set").count(), 3, "{text}");
}

/// Partitions that raise and lower by what they hold: at each instant the sum covers what those hold that were
/// granted, and no refused raise leaves anything behind.
#[test]
fn the_sum_over_threads_is_exact() {
    const LIMIT: usize = 1 << 20;
    let (root, sort) = tree(LIMIT);
    let rest = 12_345;
    sort.raise_reservation(rest).unwrap();

    let left: usize = thread::scope(|scope| {
        let partitions: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn({
                    let sort = sort.clone();
                    move || churn(&sort, seed, LIMIT / 3)
                })
            })
            .collect();
        for _ in 0..200 {
            assert!(sort.reservation() >= rest);
            assert!(root.allocated_memory() <= LIMIT);
            root.verify().unwrap();
        }
        partitions.into_iter().map(|it| it.join().unwrap()).sum()
    });

    assert_eq!(sort.reservation(), rest + left);
    sort.lower_reservation(rest + left);
    assert_eq!(root.allocated_memory(), 0);
    assert!(root.peak_memory_allocation() <= LIMIT);
    root.verify().unwrap();
}

/// Raises and lowers the reservation of `sort` at random, and returns by how much it is higher in the end.
fn churn(sort: &BufferAllocator, seed: u64, largest: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = 0;
    for _ in 0..3_000 {
        let bytes = random.usize(..largest);
        match random.usize(..4) {
            0 | 1 => held += sort.raise_reservation(bytes).map_or(0, |()| bytes),
            2 => {
                let some = random.usize(..=held);
                sort.lower_reservation(some);
                held -= some;
            }
            _ => {
                sort.lower_reservation(held);
                held = 0;
            }
        }
    }
    held
}

/// Those who could make room are asked before a reservation is refused, as before an allocation is.
#[test]
fn others_are_asked_before_a_reservation_is_refused() {
    use crate::reclaim::{Cache, Log};
    use arrow_memory_core::Cost;

    let log = Log::default();
    let root = RootAllocator::new(1000);
    for raise in [true, false] {
        let cache = root.child("cache").build().unwrap();
        let cache = Cache::new(cache, Cost::Drop, 900, &log);
        let sort = root.child("sort").build().unwrap();
        let raised = if raise {
            sort.raise_reservation(300)
        } else {
            sort.set_reservation(300)
        };
        raised.unwrap();
        assert_eq!((sort.reservation(), root.allocated_memory()), (300, 300));
        drop((sort, cache));
    }
    assert_eq!(*log.lock().unwrap(), ["cache", "cache"]);
}

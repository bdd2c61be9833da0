//! Retiring: the allocator refuses new work, reports nothing, and is freed with its last byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::testing::{ListenerEvent, RecordingListener, TrackingManager};
use arrow_memory_core::{AllocError, RootAllocator};

use crate::support::{allocated, child, ones, over, tracked};

#[test]
fn a_retired_allocator_refuses_all_new_work_and_goes_with_its_last_byte() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let mut growing = query.buffer(64).unwrap();
    let buffer = ones(&query, 1000);

    query.retire();

    let refusals = [
        query.buffer(1).map(drop),
        query.allocate_bytes(1),
        query.allocate_bytes(0),
        query.child("late").build().map(drop),
        query.new_reservation().add(1),
        growing.try_reserve(1000),
    ];
    for refused in refusals {
        assert!(
            matches!(refused, Err(AllocError::Closed { .. })),
            "{refused:?}"
        );
    }
    assert!(query.is_closed());
    assert_eq!(allocated([&query, &root]), [1088, 1088]);
    assert_eq!(root.child_allocators(), std::slice::from_ref(&query));
    drop((buffer, growing));
    assert!(root.child_allocators().is_empty());
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn retiring_is_idempotent_and_close_still_reports() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let buffer = ones(&query, 64);

    query.retire();
    query.retire();
    let error = query.close().unwrap_err();
    query.retire();

    assert_eq!((error.buffers(), error.allocated), (1, 64));
    drop(buffer);
    query.close().unwrap();
    query.retire();
    root.close().unwrap();
}

#[test]
fn one_with_nothing_outstanding_leaves_at_once_and_its_parent_hears_of_it() {
    let listener = Arc::new(RecordingListener::new());
    let root = over(&Arc::new(TrackingManager::new()))
        .listener(listener.clone())
        .build()
        .unwrap();
    let query = root.child("query").reservation(4096).build().unwrap();

    query.retire();

    assert!(root.child_allocators().is_empty());
    assert_eq!(root.allocated_memory(), 0);
    let removed = |event: &ListenerEvent| matches!(event, ListenerEvent::ChildRemoved { .. });
    assert_eq!(
        listener
            .events()
            .iter()
            .filter(|event| removed(event))
            .count(),
        1
    );
}

#[test]
fn its_children_may_use_what_their_own_reservations_cover_and_no_more() {
    for credit in [0, 1 << 20] {
        let root = over(&Arc::new(TrackingManager::new()))
            .credit(credit)
            .build()
            .unwrap();
        let query = child(&root, "query");
        let reserved = query.child("reserved").reservation(128).build().unwrap();
        let plain = child(&query, "plain");
        // Credit that the child holds beyond its reservation is given back by `retire`.
        drop(ones(&plain, 64));

        query.retire();

        let within = reserved.buffer(128).unwrap();
        assert!(reserved.buffer(1).is_err() && plain.buffer(1).is_err());
        assert!(!plain.is_closed());
        drop((within, plain));
        assert_eq!(root.child_allocators(), std::slice::from_ref(&query));
        drop(reserved);
        assert!(
            root.child_allocators().is_empty(),
            "gone with its last child"
        );
        root.verify().unwrap();
    }
}

#[test]
fn dropping_the_handles_of_a_retired_allocator_leaves_it_to_its_bytes() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let buffer = ones(&query, 64);
    query.retire();

    drop(query);

    assert_eq!(root.child_allocators().len(), 1);
    drop(buffer);
    assert!(root.child_allocators().is_empty());
}

/// Visiting each of 100,000 buffers would take some hundred times as long.
#[test]
fn the_number_of_buffers_does_not_matter() {
    let root = RootAllocator::builder().debug(false).build().unwrap();
    let time = |buffers: usize| {
        let query = child(&root, "query");
        let scan = child(&query, "scan");
        let held: Vec<_> = (0..buffers).map(|_| scan.buffer(64).unwrap()).collect();
        let start = Instant::now();
        query.retire();
        let taken = start.elapsed();
        assert!(scan.buffer(1 << 20).is_err());
        drop(held);
        taken
    };

    let mut least = [Duration::MAX; 2];
    for round in 0..40 {
        for (least, buffers) in least.iter_mut().zip([1, 100_000]) {
            *least = time(buffers).min(*least);
        }
        if round >= 4 && least[1] <= 50 * least[0] {
            break;
        }
    }
    println!("retired: {least:?} with 1 and with 100,000 buffers");
    assert!(least[1] <= 50 * least[0], "{least:?}");
}

#[test]
fn workers_that_drain_while_their_query_is_retired_leave_nothing_behind() {
    let (manager, root) = tracked(usize::MAX);
    for _ in 0..200 {
        let query = child(&root, "query");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for index in 0..3 {
                let (query, stop) = (&query, &stop);
                scope.spawn(move || {
                    let scan = query.child("scan").build();
                    let mut held = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let allocator = match &scan {
                            Ok(scan) if index == 0 => scan,
                            _ => query,
                        };
                        match allocator.buffer(64 << index) {
                            Ok(buffer) => held.push(buffer),
                            Err(error) => {
                                assert!(matches!(error, AllocError::Closed { .. }), "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            let (query, stop) = (&query, &stop);
            scope.spawn(move || {
                thread::yield_now();
                query.retire();
                query.retire();
                // New work is refused, so the workers end.
                assert!(query.buffer(64).is_err());
                stop.store(true, Ordering::Relaxed);
            });
        });
        assert!(root.child_allocators().is_empty());
        query.close().unwrap();
        assert_eq!(root.allocated_memory(), 0);
    }
    root.verify().unwrap();
    manager.assert_clean();
}

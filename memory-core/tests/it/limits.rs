//! Limits: how much each level grants, which level refuses, and when bytes count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow_memory_core::{AllocError, ForeignAllocation, TransferError};

use crate::support::{allocated, child, exact, ones, tracked};

#[test]
fn a_refusal_lists_every_level_with_what_it_was_asked() {
    for credit in [0, 1 << 20] {
        let manager = std::sync::Arc::new(arrow_memory_core::testing::TrackingManager::new());
        let builder = crate::support::over(&manager).credit(credit).limit(1024);
        let root = builder.build().unwrap();
        let middle = root.new_child_allocator("middle", 256, 5000).unwrap();
        let leaf = middle.new_child_allocator("leaf", 0, 9000).unwrap();
        let _held = ones(&leaf, 64);

        let refused = leaf.buffer(1000).unwrap_err();

        let AllocError::OutOfMemory {
            requested, outcome, ..
        } = refused
        else {
            panic!("{refused}");
        };
        let levels: Vec<_> = outcome
            .entries
            .iter()
            .map(|it| {
                let name = it.allocator.name.to_string();
                (name, it.limit, it.allocated, it.reservation, it.requested)
            })
            .collect();
        assert_eq!((requested, outcome.omitted), (1000, 0));
        assert_eq!(outcome.failed_allocator(), root.info());
        assert_eq!(outcome.headroom(), 768);
        assert_eq!(
            levels,
            [
                ("leaf".to_owned(), 9000, 64, 0, 1024),
                ("middle".to_owned(), 5000, 64, 256, 1024),
                // The reservation, for which the root is charged already, covers 192 of them.
                ("ROOT".to_owned(), 1024, 256, 0, 832),
            ]
        );
    }
}

#[test]
fn the_text_of_a_refusal_names_who_refused_and_the_numbers_of_each_level() {
    let (_, root) = tracked(1000);
    let scan = root.new_child_allocator("scan", 0, 5000).unwrap();

    let text = format!("{:#}", scan.buffer(1001).unwrap_err());

    assert_eq!(
        text,
        "allocator `ROOT` is out of room: 1001 bytes requested (1024 after rounding), 1000 left of \
         its limit of 1000\n  \
           allocator `scan`: requested 1024, allocated 0, limit 5000, reservation 0\n  \
           allocator `ROOT`: requested 1024, allocated 0, limit 1000, reservation 0 (refused)"
    );
}

#[test]
fn a_refusal_is_counted_by_the_allocator_that_refused() {
    let (_, root) = tracked(1000);
    let scan = root.new_child_allocator("scan", 0, 500).unwrap();

    assert!(scan.buffer(501).is_err());
    assert!(root.buffer(1001).is_err());
    scan.set_limit(usize::MAX);
    assert!(scan.buffer(1001).is_err());
    assert!(scan.allocate_bytes(1001).is_err());

    assert_eq!((scan.stats().refusals, root.stats().refusals), (1, 3));
}

#[test]
fn what_a_reservation_covers_does_not_reach_the_parent() {
    let (_, root) = tracked(1024);
    let reserved = root.new_child_allocator("reserved", 512, 5000).unwrap();
    let full = ones(&root, 512);
    assert!(root.buffer(1).is_err(), "the reservation is not its to use");

    let within = reserved.buffer(512).unwrap();

    assert_eq!(allocated([&reserved, &root]), [512, 1024]);
    assert!(reserved.buffer(1).is_err());
    root.set_limit(0);
    drop(within);
    assert!(
        reserved.buffer(512).is_ok(),
        "whatever is the matter above: it asks nobody there"
    );
    drop(full);
}

#[test]
fn headroom_is_the_least_that_any_level_leaves_reservations_included() {
    let (_, root) = tracked(1000);
    let middle = root.new_child_allocator("middle", 300, 600).unwrap();
    let leaf = middle.new_child_allocator("leaf", 100, 5000).unwrap();
    let idle = middle.new_child_allocator("idle", 50, 60).unwrap();
    // The root has 1000 - 300 left. Middle has that, and the part of its own reservation that its children do
    // not have.
    assert_eq!(
        [&root, &middle, &leaf, &idle].map(|it| it.headroom()),
        [700, 450, 550, 60]
    );

    leaf.allocate_bytes(500).unwrap();

    // Middle has 550 of its 600: 50 are left, although the root has more.
    assert_eq!(allocated([&middle, &root]), [550, 550]);
    assert_eq!(
        [&root, &middle, &leaf, &idle].map(|it| it.headroom()),
        [450, 50, 50, 60]
    );
    leaf.allocate_bytes(50).unwrap();
    assert!(leaf.allocate_bytes(1).is_err());
    leaf.release_bytes(550);
}

#[test]
fn an_allocator_is_over_its_limit_if_one_above_it_is() {
    let (_, root) = tracked(1000);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let below = child(&b, "below");

    assert!(!a.force_allocate(1001));

    assert!([&root, &a, &b, &below].iter().all(|it| it.is_over_limit()));
    assert_eq!(below.headroom(), -1);
    a.release_bytes(1);
    assert!(![&root, &a, &b, &below].iter().any(|it| it.is_over_limit()));
    a.release_bytes(1000);
}

#[test]
fn nothing_but_forced_paths_grows_an_allocator_that_is_over_its_limit() {
    let (_, root) = tracked(1000);
    let covered = root.new_child_allocator("covered", 128, 5000).unwrap();
    let other = child(&root, "other");
    let mut buffer = other.buffer_zeroed(64).unwrap();
    let shared = ones(&other, 64);
    let mut reservation = root.new_reservation();
    root.set_limit(100);
    let before = root.allocated_memory();

    assert!(root.buffer(1).is_err());
    assert!(other.allocate_bytes(1).is_err());
    assert!(buffer.resize(65, 0).is_err());
    assert!(reservation.add(1).is_err());
    assert!(root.new_child_allocator("late", 1, 10).is_err());
    assert!(shared.try_transfer_ownership(&root).is_err());
    let foreign = ForeignAllocation::from_owner(vec![1; 10]);
    let refused = other.wrap_foreign_allocation(foreign).unwrap_err();
    assert_eq!(root.allocated_memory(), before);
    // Bytes that are charged already may be used, and so may requests that do not reach the root.
    let used = covered.buffer(128).unwrap();
    assert_eq!(root.allocated_memory(), before);

    assert!(!root.force_allocate(1));
    let forced = other
        .wrap_foreign_allocation(refused.allocation.forced())
        .unwrap();
    assert_eq!(root.allocated_memory(), before + 11);
    root.release_bytes(1);
    drop((used, forced));
}

#[test]
fn every_forced_path_is_counted_with_its_bytes_where_they_went() {
    let (_, root) = tracked(100);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let forced = || [&root, &a, &b].map(|it| it.stats().forced_bytes);
    assert_eq!(forced(), [0, 0, 0]);

    assert!(!a.force_allocate(500));
    assert_eq!(forced(), [0, 500, 0]);
    let foreign = ForeignAllocation::from_owner(vec![1; 30]).forced();
    let buffer = a.wrap_foreign_allocation(foreign).unwrap();
    assert_eq!(forced(), [0, 530, 0]);
    let moved = buffer.transfer_ownership(&b).unwrap();
    assert!(!moved.allocation_fit);
    assert_eq!(forced(), [0, 530, 30]);
    let shared = moved.buffer.retain_in(&root).unwrap();
    drop(buffer);
    drop(moved);

    assert_eq!(shared.accounted_size(), 30);
    assert_eq!(forced(), [30, 530, 30], "a release that moves ownership");
    drop(shared);
    a.release_bytes(500);
}

#[test]
fn a_lowered_limit_revokes_nothing_and_a_raised_one_takes_effect_at_once() {
    let (_, root) = tracked(1024);
    let scan = root.new_child_allocator("scan", 0, 1024).unwrap();
    let held = ones(&scan, 640);

    scan.set_limit(100);
    assert_eq!((scan.allocated_memory(), scan.headroom()), (640, -540));
    assert_eq!(held.as_slice(), [1; 640]);
    assert!(scan.buffer(1).is_err());
    scan.set_limit(704);
    let more = scan.buffer(64).unwrap();
    assert!(scan.buffer(1).is_err());
    root.set_limit(704);
    scan.set_limit(usize::MAX);

    assert!(scan.buffer(1).is_err());
    root.set_limit(768);
    assert!(scan.buffer(1).is_ok());
    drop(more);
}

#[test]
fn a_limit_is_what_was_set_even_if_that_is_more_than_there_can_be() {
    let (_, root) = tracked(usize::MAX);
    for limit in [0, 1, 63, isize::MAX.unsigned_abs(), usize::MAX - 1] {
        root.set_limit(limit);
        assert_eq!(root.limit(), limit);
    }
}

#[test]
fn charged_memory_is_at_least_what_is_allocated_and_at_most_the_credit_more() {
    let (_, root) = tracked(usize::MAX);
    let scan = child(&root, "scan");

    for size in [1, 64, 5000, 1 << 20, 5 << 20] {
        let buffer = scan.buffer(size).unwrap();
        let (charged, allocated) = (root.charged_memory(), root.allocated_memory());
        assert_eq!(allocated, size.next_multiple_of(64));
        assert!((allocated..=allocated + (1 << 20)).contains(&charged));
        drop(buffer);
    }
    let exact = exact(1000);
    let _held = ones(&exact, 500);
    assert_eq!(exact.charged_memory(), 512);
}

#[test]
fn a_request_that_is_refused_is_in_no_peak() {
    let root = exact(1000);
    let scan = child(&root, "scan");
    drop(ones(&scan, 100));

    assert!(scan.buffer(1001).is_err());
    assert!(scan.allocate_bytes(5000).is_err());
    let other = child(&root, "other");
    other.allocate_bytes(990).unwrap();
    let shared = scan.buffer(1).unwrap_err();

    assert!(matches!(shared, AllocError::OutOfMemory { .. }));
    assert_eq!(scan.peak_memory_allocation(), 128);
    assert_eq!(root.peak_memory_allocation(), 990);
    other.release_bytes(990);
}

#[test]
fn a_transfer_changes_a_common_ancestor_neither_for_readers_nor_in_its_peak() {
    for root in [exact(128), tracked(128).1] {
        let top = child(&root, "top");
        let (a, b) = (child(&top, "a"), child(&child(&top, "between"), "b"));
        let buffer = ones(&a, 128);
        let done = AtomicBool::new(false);

        thread::scope(|threads| {
            threads.spawn(|| {
                let mut buffer = buffer;
                for round in 0..2000 {
                    let target = if round % 2 == 0 { &b } else { &a };
                    // This would be refused if the bytes were charged twice, even for a moment.
                    buffer = buffer.try_transfer_ownership(target).unwrap();
                }
                // Relaxed: the flag guards no other memory.
                done.store(true, Ordering::Relaxed);
                drop(buffer);
            });
            while !done.load(Ordering::Relaxed) {
                let snapshot = root.snapshot();
                let entry = |name| {
                    let mut entries = snapshot.entries.iter();
                    entries.find(|it| &*it.allocator.name == name).unwrap()
                };
                // The last snapshot may be of the time after the end.
                if done.load(Ordering::Relaxed) {
                    break;
                }
                assert_eq!(entry("top").allocated, 128);
                assert_eq!(entry("a").allocated + entry("b").allocated, 128);
            }
        });

        assert_eq!(root.peak_memory_allocation(), 128);
        assert_eq!(top.peak_memory_allocation(), 128);
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn a_refused_transfer_changes_nothing_and_says_who_refused() {
    let (_, root) = tracked(10_000);
    let scan = child(&root, "scan");
    let small = root.new_child_allocator("small", 0, 100).unwrap();
    let buffer = ones(&scan, 128);

    let refused = buffer.try_transfer_ownership(&small).unwrap_err();

    let TransferError::DoesNotFit { bytes, outcome, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!((bytes, outcome.failed_allocator()), (128, small.info()));
    assert_eq!((buffer.ref_count(), buffer.accounted_size()), (1, 128));
    assert_eq!(allocated([&scan, &small, &root]), [128, 0, 128]);
    let moved = buffer.transfer_ownership(&small).unwrap();
    assert!(!moved.allocation_fit && small.is_over_limit());
    assert_eq!(allocated([&scan, &small, &root]), [0, 128, 128]);
}

#[test]
fn different_roots_are_an_error_that_changes_nothing() {
    let ((_, one), (_, two)) = (tracked(1000), tracked(1000));
    let (from, to) = (child(&one, "from"), child(&two, "to"));
    for mut buffer in [from.buffer_zeroed(100).unwrap(), from.buffer(0).unwrap()] {
        let refused = [
            buffer.transfer_ownership(&to).map(drop),
            { ones(&from, 1).retain_in(&to).map(drop) },
            from.empty().retain_in(&to).map(drop),
            ones(&from, 1).transfer_ownership(&two).map(drop),
            ones(&from, 1).try_transfer_ownership(&to).map(drop),
        ];
        for refused in refused {
            let Err(TransferError::DifferentRoots { .. }) = refused else {
                panic!("{refused:?}");
            };
        }
        assert_eq!(buffer.allocator(), from);
        assert_eq!(from.allocated_memory(), buffer.capacity());
    }
    assert_eq!(allocated([&one, &two]), [0, 0]);
    two.close().unwrap_err();
    to.close().unwrap();
    two.close().unwrap();
}

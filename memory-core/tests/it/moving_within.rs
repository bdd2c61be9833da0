//! Charges that move within a common ancestor, and sums at the edge of what a signed size can express.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::Arc;

use arrow_memory_core::{AllocError, RootAllocator, TransferError};
use arrow_memory_system as _;

use crate::support::{Woken, allocated, child, exact, ones, poll, tracked};

const MAX: usize = isize::MAX as usize;

#[test]
fn a_transfer_within_a_closed_allocator_is_no_new_work_there() {
    let (_, root) = tracked(1 << 20);
    let parent = child(&root, "parent");
    let source = child(&parent, "source");
    // A reservation, so that the levels above are asked.
    let target = parent.child("target").reservation(100).build().unwrap();
    let held = ones(&source, 512);
    parent.close().unwrap_err();

    let moved = held.try_transfer_ownership(&target).unwrap();

    assert_eq!(allocated([&source, &target, &parent]), [0, 512, 512]);
    root.verify().unwrap();
    drop(moved);
}

#[test]
fn a_transfer_that_needs_more_of_a_closed_allocator_than_it_frees_there_is_refused() {
    let (_, root) = tracked(1 << 20);
    let parent = child(&root, "parent");
    // It keeps 300 of the bytes that move away.
    let source = parent.child("source").reservation(300).build().unwrap();
    let target = parent.child("target").reservation(100).build().unwrap();
    let held = ones(&source, 512);
    parent.close().unwrap_err();

    let refused = held.try_transfer_ownership(&target).unwrap_err();

    assert!(matches!(refused, TransferError::Closed { .. }), "{refused}");
    assert_eq!(allocated([&source, &target, &parent]), [512, 0, 612]);
    root.verify().unwrap();
}

#[test]
fn a_transfer_within_an_allocator_passes_nobody_who_waits_there() {
    let root = exact(1024);
    let [source, target, other, scan] =
        ["source", "target", "other", "scan"].map(|name| child(&root, name));
    let held = ones(&source, 512);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(waits.as_mut(), &woken).is_pending());
    for _ in 0..2 {
        drop(other.buffer(512).unwrap());
    }
    other.buffer(512).expect_err("room is withheld");

    let moved = held.try_transfer_ownership(&target).unwrap();

    assert_eq!(allocated([&source, &target, &root]), [0, 512, 512]);
    root.verify().unwrap();
    drop((moved, held));
    assert_eq!((woken.count(), root.allocated_memory()), (1, 1024));
}

#[test]
fn a_closed_allocator_whose_last_bytes_move_to_a_sibling_leaves_its_tree() {
    let (_, root) = tracked(1 << 20);
    let (source, target) = (child(&root, "source"), child(&root, "target"));
    // Not shared, so that no ledger stays behind.
    let (mut held, _open) = (source.buffer(512).unwrap(), ones(&target, 64));
    source.close().unwrap_err();

    assert!(held.transfer_ownership(&target).unwrap());

    assert_eq!(root.child_allocators(), [target]);
    root.verify().unwrap();
}

#[test]
fn a_sum_that_no_signed_size_expresses_is_told_from_a_limit() {
    let unlimited = RootAllocator::new(usize::MAX);
    let limited = RootAllocator::new(MAX);
    for root in [&unlimited, &limited] {
        root.allocate_bytes(MAX - 10).unwrap();
        root.allocate_bytes(10).unwrap();
    }

    let refused = [&unlimited, &limited].map(|root| root.buffer(64).unwrap_err());

    assert!(
        matches!(refused[0], AllocError::SizeOverflow { .. }),
        "{}",
        refused[0]
    );
    assert!(
        matches!(refused[1], AllocError::OutOfMemory { .. }),
        "{}",
        refused[1]
    );
    for root in [&unlimited, &limited] {
        assert_eq!(root.allocated_memory(), MAX);
        root.release_bytes(MAX);
    }
}

#[test]
fn forced_bytes_fit_up_to_the_largest_sum_and_no_further() {
    let (_, root) = tracked(1000);
    let child = child(&root, "child");

    assert!(!child.force_allocate(MAX));

    let more = catch_unwind(AssertUnwindSafe(|| child.force_allocate(1)));
    let text = more.unwrap_err().downcast::<String>().unwrap();
    assert!(!text.contains("out of room"), "{text}");
    assert_eq!(allocated([&child, &root]), [MAX, MAX]);
    child.release_bytes(MAX);
    root.verify().unwrap();
}

#[test]
fn a_closed_allocator_whose_bytes_may_not_move_away_stays_in_its_tree() {
    let (_, root) = tracked(1 << 20);
    let source = child(&root, "source");
    let target = root.child("target").limit(100).build().unwrap();
    let held = ones(&source, 512);
    source.close().unwrap_err();

    held.try_transfer_ownership(&target).unwrap_err();

    assert_eq!(root.child_allocators(), [source.clone(), target]);
    assert_eq!(allocated([&source, &root]), [512, 512]);
    root.verify().unwrap();
    drop(held);
    root.verify().unwrap();
}

#[test]
fn what_a_reservation_at_the_target_makes_free_serves_who_waits_above() {
    let root = exact(1024);
    let (parent, scan) = (child(&root, "parent"), child(&root, "scan"));
    let source = child(&parent, "source");
    let target = parent.child("target").reservation(512).build().unwrap();
    let held = ones(&source, 512);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(512));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    let moved = held.try_transfer_ownership(&target).unwrap();

    assert_eq!((woken.count(), root.allocated_memory()), (1, 1024));
    assert_eq!(allocated([&parent, &scan]), [512, 512]);
    root.verify().unwrap();
    drop(moved);
}

#[test]
fn a_transfer_within_an_allocator_that_is_over_its_limit_does_not_fit() {
    let root = exact(1000);
    let (source, target) = (child(&root, "source"), child(&root, "target"));
    let held = ones(&source, 640);
    root.set_limit(500);

    held.try_transfer_ownership(&target).unwrap_err();
    let moved = held.transfer_ownership(&target).unwrap();

    assert!(!moved.allocation_fit);
    assert_eq!(allocated([&source, &target, &root]), [0, 640, 640]);
    root.verify().unwrap();
}

#[test]
fn a_transfer_that_a_reservation_covers_fits_whatever_is_above() {
    for forced in [false, true] {
        let root = exact(2000);
        let source = child(&root, "source");
        let target = root.child("target").reservation(1000).build().unwrap();
        let held = ones(&source, 640);
        root.set_limit(500);

        let moved = if forced {
            let moved = held.transfer_ownership(&target).unwrap();
            assert!(moved.allocation_fit);
            moved.buffer
        } else {
            held.try_transfer_ownership(&target).unwrap()
        };

        assert_eq!(allocated([&source, &target, &root]), [0, 640, 1000]);
        root.verify().unwrap();
        drop(moved);
    }
}

#[test]
fn a_transfer_that_ends_an_excess_fits_and_one_that_leaves_it_does_not() {
    // With 400 reserved bytes at the target, the levels above are charged 400 less afterwards.
    for (limit, fits) in [(2960, true), (2959, false)] {
        let root = exact(3000);
        let middle = child(&root, "middle");
        let leaf = middle.child("leaf").reservation(400).build().unwrap();
        middle.force_allocate(2000);
        let moved = ones(&leaf, 960).transfer_ownership(&middle).unwrap();
        assert!(!moved.allocation_fit);
        assert_eq!(allocated([&leaf, &middle, &root]), [0, 3360, 3360]);

        root.set_limit(limit);
        let back = moved.buffer.try_transfer_ownership(&leaf);

        assert_eq!(back.is_ok(), fits, "{back:?}");
        let sum = if fits { 2960 } else { 3360 };
        assert_eq!(allocated([&middle, &root]), [sum, sum]);
        root.verify().unwrap();
    }
}

#[test]
fn a_transfer_to_an_allocator_that_it_fills_fits() {
    let root = exact(1024);
    let source = root.child("source").reservation(128).build().unwrap();
    let target = root.child("target").limit(512).build().unwrap();
    let (held, _rest) = (ones(&source, 512), ones(&root, 384));

    let moved = held.transfer_ownership(&target).unwrap();

    assert!(moved.allocation_fit);
    assert_eq!(allocated([&source, &target, &root]), [0, 512, 1024]);
    root.verify().unwrap();
}

#[test]
fn a_transfer_into_a_closed_allocator_is_new_work_there() {
    let root = exact(1 << 20);
    let (source, closed) = (child(&root, "source"), child(&root, "closed"));
    let target = child(&closed, "target");
    let held = ones(&source, 512);
    closed.close().unwrap_err();

    let refused = held.try_transfer_ownership(&target).unwrap_err();

    assert!(matches!(refused, TransferError::Closed { .. }), "{refused}");
    assert_eq!(allocated([&source, &target, &root]), [512, 0, 512]);
    root.verify().unwrap();
}

#[test]
fn a_transfer_below_a_reservation_that_covers_it_fits_whatever_is_above() {
    let root = exact(2000);
    let parent = root.child("parent").reservation(1000).build().unwrap();
    let (source, target) = (child(&parent, "source"), child(&parent, "target"));
    let held = ones(&source, 640);
    root.set_limit(500);

    let moved = held.try_transfer_ownership(&target).unwrap();

    let sums = allocated([&source, &target, &parent, &root]);
    assert_eq!(sums, [0, 640, 640, 1000]);
    root.verify().unwrap();
    drop(moved);
}

#[test]
fn what_a_closed_allocator_kept_for_its_last_bytes_is_free_before_they_arrive_elsewhere() {
    let root = exact(512);
    let source = root.child("source").reservation(512).build().unwrap();
    let target = child(&root, "target");
    let held = ones(&source, 512);
    let shared = held.retain_in(&target).unwrap();
    source.close().unwrap_err();

    drop(held);

    assert_eq!(root.child_allocators(), slice::from_ref(&target));
    assert_eq!(allocated([&target, &root]), [512, 512]);
    assert_eq!(root.peak_memory_allocation(), 512);
    root.verify().unwrap();
    drop(shared);
}

#[test]
fn a_closed_allocator_whose_last_bytes_no_sum_elsewhere_can_hold_stays_in_its_tree() {
    let root = exact(usize::MAX);
    let parent = root.child("parent").reservation(512).build().unwrap();
    let (source, target) = (child(&parent, "source"), child(&root, "target"));
    let held = ones(&source, 512);
    let shared = held.retain_in(&target).unwrap();
    source.close().unwrap_err();
    root.allocate_bytes(MAX - 600).unwrap();

    drop(held);

    assert_eq!(parent.child_allocators(), slice::from_ref(&source));
    let sums = allocated([&source, &parent, &target, &root]);
    assert_eq!(sums, [512, 512, 0, MAX - 88]);
    root.verify().unwrap();
    drop(shared);
    assert!(parent.child_allocators().is_empty());
    root.release_bytes(MAX - 600);
    assert_eq!(allocated([&parent, &root]), [0, 512]);
    root.verify().unwrap();
}

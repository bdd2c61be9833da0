//! Bytes without a block: external bytes, and temporary reservations.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_memory_core::{AllocError, PowerOfTwoRoundingPolicy};

use crate::support::{allocated, child, over, tracked};

#[test]
fn forced_bytes_of_a_reservation_are_its_own() {
    let (_, root) = tracked(1000);
    let query = child(&root, "query");
    let mut reservation = query.new_reservation();

    assert!(reservation.force_add(0) && reservation.force_add(1000));
    assert!(!reservation.force_add(1));
    assert_eq!(
        (reservation.size(), query.stats().forced_bytes),
        (1001, 1001)
    );
    let release = || query.release_bytes(1);
    assert!(catch_unwind(AssertUnwindSafe(release)).is_err());
    let overflow = || reservation.force_add(usize::MAX / 2);
    assert!(catch_unwind(AssertUnwindSafe(overflow)).is_err());
    assert_eq!((reservation.size(), root.allocated_memory()), (1001, 1001));

    // This also holds for an allocator that is closed, and for one that has left its tree.
    query.close().unwrap_err();
    reservation.force_add(1);
    drop(reservation);
    assert_eq!(root.allocated_memory(), 0);
    let mut reservation = query.new_reservation();
    reservation.force_add(5);
    assert_eq!((reservation.size(), root.allocated_memory()), (5, 0));
    drop((reservation, query));
    root.verify().unwrap();
    root.close().unwrap();
}

#[test]
fn a_reservation_adds_exactly_and_its_buffer_charges_what_rounding_adds() {
    let (_, root) = tracked(1000);
    let mut reservation = root.new_reservation();

    reservation.add(1).unwrap();
    reservation.add(99).unwrap();
    assert_eq!((reservation.size(), root.allocated_memory()), (100, 100));
    let buffer = reservation.allocate_buffer().unwrap();

    assert_eq!((buffer.len(), buffer.capacity()), (0, 128));
    assert_eq!(root.allocated_memory(), 128);
    assert_eq!(root.stats().reserved_bytes, 0);
}

#[test]
fn a_reservation_whose_remainder_does_not_fit_is_handed_back_as_it_was() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();

    let (error, reservation) = reservation.allocate_buffer().unwrap_err();

    assert!(matches!(error, AllocError::OutOfMemory { .. }), "{error}");
    assert_eq!((reservation.size(), root.allocated_memory()), (100, 100));
    root.set_limit(128);
    assert!(reservation.allocate_buffer().is_ok());
}

#[test]
fn the_buffer_of_a_reservation_has_its_size_whatever_the_policy() {
    let (manager, _) = tracked(0);
    let builder = over(&manager).rounding_policy(PowerOfTwoRoundingPolicy);
    let root = builder.build().unwrap();
    let mut reservation = root.new_reservation();
    reservation.add(192).unwrap();

    let buffer = reservation.allocate_buffer().unwrap();

    assert_eq!((buffer.capacity(), root.allocated_memory()), (192, 192));
}

#[test]
fn a_reservation_shrinks_resizes_and_splits_without_losing_a_byte() {
    let (_, root) = tracked(1000);
    let scan = child(&root, "scan");
    let mut reservation = scan.new_reservation();

    reservation.resize(500).unwrap();
    reservation.resize(500).unwrap();
    reservation.shrink(100);
    let part = reservation.split(150);
    assert_eq!((reservation.size(), part.size()), (250, 150));
    assert_eq!(allocated([&scan, &root]), [400, 400]);
    assert_eq!((part.allocator(), reservation.allocator()), (&scan, &scan));
    reservation.resize(0).unwrap();
    assert_eq!(allocated([&scan, &root]), [150, 150]);
    assert!(reservation.resize(851).is_err());
    assert_eq!(reservation.size(), 0);
    reservation.resize(850).unwrap();

    drop(part);
    let stats = scan.stats();
    assert_eq!((stats.reserved_bytes, stats.external_bytes), (850, 0));
    drop(reservation);
    assert_eq!(allocated([&scan, &root]), [0, 0]);
}

#[test]
fn taking_more_than_a_reservation_has_panics_and_changes_nothing() {
    let (_, root) = tracked(1000);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();

    let shrink = catch_unwind(AssertUnwindSafe(|| reservation.shrink(101)));
    let split = catch_unwind(AssertUnwindSafe(|| drop(reservation.split(101))));

    assert!(shrink.is_err() && split.is_err());
    assert_eq!((reservation.size(), root.allocated_memory()), (100, 100));
}

#[test]
fn a_reservation_keeps_its_allocator_and_its_buffer_does_after_it() {
    let (_, root) = tracked(1000);
    let scan = child(&root, "scan");
    let mut reservation = scan.new_reservation();
    reservation.add(64).unwrap();
    drop(scan);

    let buffer = reservation.allocate_buffer().unwrap();

    assert_eq!(buffer.allocator().name(), "scan");
    assert_eq!(root.child_allocators().len(), 1);
    drop(buffer);
    assert!(root.child_allocators().is_empty());
}

#[test]
fn external_bytes_that_nobody_releases_go_with_the_last_handle() {
    let (_, root) = tracked(1000);
    let scan = child(&root, "scan");
    let again = scan.clone();
    scan.allocate_bytes(300).unwrap();
    assert!(scan.force_allocate(400));
    assert_eq!(scan.stats().external_bytes, 700);

    drop(scan);
    assert_eq!(root.allocated_memory(), 700);
    drop(again);

    assert_eq!(root.allocated_memory(), 0);
    assert!(root.child_allocators().is_empty());
    root.close().unwrap();
}

#[test]
fn external_bytes_may_be_released_by_any_handle_and_in_other_pieces() {
    let (_, root) = tracked(1000);
    root.allocate_bytes(300).unwrap();
    root.allocate_bytes(1).unwrap();

    root.clone().release_bytes(200);
    root.release_bytes(101);

    assert_eq!((root.allocated_memory(), root.headroom()), (0, 1000));
}

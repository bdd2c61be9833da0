//! Charging foreign memory to a reservation: one piece, or several as a whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_memory_core::testing::{RecordingListener, TrackingManager};
use arrow_memory_core::{AllocError, AllocationListener, AllocatorInfo, ForeignAllocation};

use crate::foreign::{count, counted};
use crate::support::{child, over, tracked};

#[test]
fn pieces_are_charged_as_a_whole_taken_in_one_by_one_and_what_is_left_is_given_back() {
    let (_, root) = tracked(100);
    let (small, small_drops) = counted(40);
    let (large, large_drops) = counted(70);

    let mut reservation = root.new_reservation();
    assert!(reservation.add(101).is_err());
    reservation.add(60).unwrap();
    let small = reservation.wrap_foreign_allocation(small).unwrap();
    assert_eq!((reservation.size(), root.allocated_memory()), (20, 60));
    let refused = reservation.wrap_foreign_allocation(large).unwrap_err();
    assert_eq!((reservation.size(), root.allocated_memory()), (20, 60));
    drop(small);
    let large = reservation
        .wrap_foreign_allocation(refused.allocation)
        .unwrap();
    assert_eq!((reservation.size(), root.allocated_memory()), (0, 70));
    reservation.add(30).unwrap();
    drop(reservation);
    assert_eq!(
        (root.allocated_memory(), root.stats().foreign_bytes),
        (70, 70)
    );

    drop(large);
    assert_eq!([count(&small_drops), count(&large_drops)], [1, 1]);
    root.close().unwrap();
}

#[test]
fn a_piece_takes_exactly_its_bytes_or_all_there_are_and_charges_the_rest() {
    for (reserved, left, charged) in [
        (0, 0, 40),
        (39, 0, 40),
        (40, 0, 40),
        (41, 1, 41),
        (90, 50, 90),
    ] {
        let (_, root) = tracked(100);
        let scan = child(&root, "scan");
        let mut reservation = scan.new_reservation();
        reservation.add(reserved).unwrap();
        let (piece, drops) = counted(30);

        let piece = piece.charged_as(40);
        let buffer = reservation.wrap_foreign_allocation(piece).unwrap();

        let stats = scan.stats();
        assert_eq!((buffer.len(), buffer.allocator()), (30, scan.clone()));
        assert_eq!(
            (stats.foreign_bytes, stats.reserved_bytes, stats.own_bytes),
            (40, left, 0)
        );
        assert_eq!(
            (reservation.size(), root.allocated_memory()),
            (left, charged)
        );
        drop((buffer, reservation));
        assert_eq!((count(&drops), root.allocated_memory()), (1, 0));
        root.verify().unwrap();
    }
}

#[test]
fn nothing_in_the_way_is_needed_by_a_piece_that_the_reservation_covers() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(60).unwrap();
    root.allocate_bytes(40).unwrap();
    root.set_limit(10);

    let (piece, _) = counted(60);
    let buffer = reservation.wrap_foreign_allocation(piece).unwrap();

    assert_eq!((reservation.size(), root.allocated_memory()), (0, 100));
    drop(buffer);
    root.release_bytes(40);
}

#[test]
fn a_refused_piece_is_handed_back_and_the_reservation_is_as_it_was() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(50).unwrap();
    root.allocate_bytes(41).unwrap();
    let (piece, drops) = counted(60);

    let refused = reservation.wrap_foreign_allocation(piece).unwrap_err();
    assert!(matches!(refused.source, AllocError::OutOfMemory { .. }));
    let refused = reservation
        .wrap_foreign_allocation(refused.allocation.forced())
        .unwrap_err();
    assert!(matches!(refused.source, AllocError::OutOfMemory { .. }));
    let huge = refused.allocation.charged_as(usize::MAX);
    let refused = reservation.wrap_foreign_allocation(huge).unwrap_err();
    assert!(matches!(refused.source, AllocError::SizeOverflow { .. }));
    assert_eq!((reservation.size(), root.allocated_memory()), (50, 91));
    drop(refused);
    assert_eq!(count(&drops), 1);

    let (piece, _) = counted(60);
    assert!(!reservation.force_add(10));
    let piece = reservation.wrap_foreign_allocation(piece).unwrap();
    assert_eq!((reservation.size(), root.allocated_memory()), (0, 101));
    root.release_bytes(41);
    drop((piece, reservation));
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn a_closed_allocator_takes_nothing_in_and_the_reservation_is_as_it_was() {
    let (_, root) = tracked(100);
    let scan = child(&root, "scan");
    let mut reservation = scan.new_reservation();
    reservation.add(50).unwrap();
    scan.close().unwrap_err();
    let (piece, drops) = counted(40);

    let refused = reservation.wrap_foreign_allocation(piece).unwrap_err();

    assert!(matches!(refused.source, AllocError::Closed { .. }));
    assert_eq!((reservation.size(), count(&drops)), (50, 0));
    drop(reservation);
    assert!(root.child_allocators().is_empty());
}

#[test]
fn an_empty_piece_takes_nothing_and_is_released_at_once() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(50).unwrap();
    let (empty, drops) = counted(0);

    let buffer = reservation.wrap_foreign_allocation(empty).unwrap();

    assert_eq!((buffer.len(), count(&drops)), (0, 1));
    assert_eq!((reservation.size(), root.allocated_memory()), (50, 50));
}

#[test]
fn a_listener_hears_of_each_piece_and_may_veto_it() {
    let listener = Arc::new(RecordingListener::new());
    let root = over(&Arc::new(TrackingManager::new())).limit(100);
    let root = root.listener(listener.clone()).build().unwrap();
    let (piece, drops) = counted(40);
    let mut reservation = root.new_reservation();
    reservation.add(60).unwrap();
    assert_eq!(listener.take().len(), 0);

    listener.veto(true);
    let refused = reservation.wrap_foreign_allocation(piece).unwrap_err();
    assert!(matches!(refused.source, AllocError::Vetoed { .. }));
    assert_eq!((reservation.size(), root.allocated_memory()), (60, 60));
    listener.veto(false);
    listener.take();
    let piece = reservation.wrap_foreign_allocation(refused.allocation);
    drop(piece.unwrap());

    assert_eq!(listener.take().len(), 3, "asked, allocated, released");
    assert_eq!((count(&drops), root.allocated_memory()), (1, 20));
}

/// Panics in one of its two callbacks.
struct Panics {
    before: bool,
}

impl AllocationListener for Panics {
    fn on_pre_allocation(
        &self,
        _at: &AllocatorInfo,
        _size: usize,
    ) -> Result<(), arrow_memory_core::Veto> {
        assert!(!self.before, "told to");
        Ok(())
    }

    fn on_allocation(&self, _at: &AllocatorInfo, _size: usize) {
        assert!(self.before, "told to");
    }
}

#[test]
fn a_panic_of_the_listener_releases_the_piece_and_leaves_the_reservation_as_it_was() {
    for before in [true, false] {
        let root = over(&Arc::new(TrackingManager::new())).limit(100);
        let root = root.listener(Arc::new(Panics { before })).build().unwrap();
        let mut reservation = root.new_reservation();
        reservation.add(50).unwrap();
        let (piece, drops) = counted(40);

        let caught = catch_unwind(AssertUnwindSafe(|| {
            let wrapped = reservation.wrap_foreign_allocation(piece);
            wrapped.map(drop).map_err(drop)
        }));

        assert!(caught.is_err());
        assert_eq!((reservation.size(), count(&drops)), (50, 1));
        assert_eq!(root.allocated_memory(), 50);
        drop(reservation);
        root.close().unwrap();
    }
}

#[test]
fn an_error_names_the_bytes_of_the_piece() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(90).unwrap();

    let piece = ForeignAllocation::from_owner(vec![1; 120]);
    let refused = reservation.wrap_foreign_allocation(piece).unwrap_err();

    let AllocError::OutOfMemory { requested, .. } = refused.source else {
        panic!("{refused}");
    };
    assert_eq!(requested, 120);
}

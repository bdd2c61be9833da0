//! Rooms for foreign memory: charged as a whole, and used piece by piece.

use std::sync::Arc;

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::testing::{RecordingListener, TrackingManager};
use arrow_memory_core::{AllocError, ForeignAllocation, RootAllocator};

use crate::foreign::{count, counted};
use crate::support::{over, tracked};

#[test]
fn room_for_foreign_memory_is_charged_as_a_whole_used_piece_by_piece_and_given_back() {
    let (_, root) = tracked(100);
    let (small, small_drops) = counted(40);
    let (large, large_drops) = counted(70);

    assert!(ForeignRoom::new(&root, 101, &mut []).is_err());
    let mut room = ForeignRoom::new(&root, 60, &mut []).unwrap();
    let small = room.wrap(small).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (20, 60));
    let refused = room.wrap(large).unwrap_err();
    assert_eq!((room.size(), root.allocated_memory()), (20, 60));
    drop(small);
    let large = room.wrap(refused.allocation).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (0, 70));
    drop(room);
    drop(ForeignRoom::new(&root, 30, &mut []).unwrap());
    assert_eq!(
        (root.allocated_memory(), root.stats().foreign_bytes),
        (70, 70)
    );

    drop(large);
    assert_eq!([count(&small_drops), count(&large_drops)], [1, 1]);
    root.close().unwrap();
}

#[test]
fn room_out_of_a_reservation_is_charged_throughout_and_what_is_left_goes_back_there() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(90).unwrap();
    let (small, small_drops) = counted(40);
    let (large, large_drops) = counted(55);

    let mut room = ForeignRoom::out_of(&mut reservation, 80, &mut []).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (80, 90));
    let small = room.wrap(small).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (40, 90));
    drop(room);
    assert_eq!((reservation.size(), root.allocated_memory()), (50, 90));

    // 60 is more than the reservation has: the room charges 10 bytes more, and releases them to the allocator
    // if unused.
    let room = ForeignRoom::out_of(&mut reservation, 60, &mut []).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (60, 100));
    drop(room);
    assert_eq!((reservation.size(), root.allocated_memory()), (50, 90));
    let mut room = ForeignRoom::out_of(&mut reservation, 60, &mut []).unwrap();
    let large = room.wrap(large).unwrap();
    drop(room);
    assert_eq!((reservation.size(), root.allocated_memory()), (0, 95));

    assert_eq!(root.stats().foreign_bytes, 95);
    drop((small, large, reservation));
    assert_eq!([count(&small_drops), count(&large_drops)], [1, 1]);
    root.close().unwrap();
}

#[test]
fn room_out_of_a_reservation_is_refused_as_a_whole() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(50).unwrap();
    root.allocate_bytes(41).unwrap();

    let refused = ForeignRoom::out_of(&mut reservation, 60, &mut []).unwrap_err();
    assert!(matches!(refused, AllocError::OutOfMemory { .. }));
    let refused = ForeignRoom::out_of(&mut reservation, usize::MAX, &mut []).unwrap_err();
    assert!(matches!(refused, AllocError::SizeOverflow { .. }));
    assert_eq!((reservation.size(), root.allocated_memory()), (50, 91));

    // A piece larger than its room is charged for the difference, or refused.
    let (piece, _) = counted(60);
    let mut room = ForeignRoom::out_of(&mut reservation, 50, &mut []).unwrap();
    let refused = room.wrap(piece).unwrap_err();
    root.release_bytes(41);
    let piece = room.wrap(refused.allocation).unwrap();
    drop(room);
    assert_eq!((reservation.size(), root.allocated_memory()), (0, 60));
    drop((piece, reservation));
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn a_listener_hears_of_each_piece_that_a_room_takes_in_and_may_veto_it() {
    let listener = Arc::new(RecordingListener::new());
    let root = over(&Arc::new(TrackingManager::new())).limit(100);
    let root = root.listener(listener.clone()).build().unwrap();
    let (piece, drops) = counted(40);
    let mut room = ForeignRoom::new(&root, 60, &mut []).unwrap();
    assert_eq!(listener.take().len(), 0);

    listener.veto(true);
    let refused = room.wrap(piece).unwrap_err();
    assert!(matches!(refused.source, AllocError::Vetoed { .. }));
    assert_eq!((room.size(), root.allocated_memory()), (60, 60));
    listener.veto(false);
    listener.take();
    drop(room.wrap(refused.allocation).unwrap());

    assert_eq!(listener.take().len(), 3, "asked, allocated, released");
    assert_eq!((count(&drops), root.allocated_memory()), (1, 20));
}

#[test]
fn the_bytes_of_a_buffer_that_is_taken_back_are_the_rooms_again() {
    let (_, root) = tracked(100);
    let mut reservation = root.new_reservation();
    reservation.add(90).unwrap();
    let mut room = ForeignRoom::out_of(&mut reservation, 60, &mut []).unwrap();

    let buffer = room
        .wrap(ForeignAllocation::from_owner(vec![7; 60]))
        .unwrap();
    assert!(room.take_back(buffer));

    drop(room);
    assert_eq!((reservation.size(), root.allocated_memory()), (90, 90));
}

/// A regression: the sum of all bytes that a room ever had wrapped around, and the reservation got bytes that
/// were not charged.
#[test]
fn a_room_that_had_more_in_all_than_a_number_can_say_returns_nothing_that_is_in_use() {
    let root = RootAllocator::unlimited();
    let mut reservation = root.new_reservation();
    reservation.add(10).unwrap();
    let (kept, _) = counted(10);

    let mut room = ForeignRoom::out_of(&mut reservation, 10, &mut []).unwrap();
    let kept = room.wrap(kept).unwrap();
    for _ in 0..8 {
        let (huge, _) = counted(1);
        drop(room.wrap(huge.charged_as((1 << 61) - 1)).unwrap());
    }
    drop(room);

    assert_eq!((reservation.size(), root.allocated_memory()), (0, 10));
    drop((kept, reservation));
    assert_eq!(root.allocated_memory(), 0);
}

/// A room takes back the memory that it is charged for, and no other.
#[test]
fn a_buffer_of_another_allocator_or_one_that_is_shared_is_not_taken_back() {
    let root = RootAllocator::new(1000);
    let other = root.child("other").build().unwrap();
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();
    let elsewhere = counted(40).0;
    let elsewhere = other.wrap_foreign_allocation(elsewhere).unwrap();

    let mut room = ForeignRoom::out_of(&mut reservation, 50, &mut []).unwrap();
    assert!(!room.take_back(elsewhere));
    assert_eq!((room.size(), other.allocated_memory()), (50, 0));
    let shared = room.wrap(counted(30).0).unwrap();
    let clone = shared.clone();
    assert!(!room.take_back(shared));
    assert_eq!(room.size(), 20);
    assert!(room.take_back(clone));
    assert_eq!(room.size(), 50);
    let retained = room.wrap(counted(30).0).unwrap();
    let guest = retained.retain_in(&other).unwrap();
    assert!(!room.take_back(retained));
    assert_eq!((room.size(), other.allocated_memory()), (20, 30));
    drop(room);
    assert_eq!(reservation.size(), 70);
    drop((guest, reservation));
    assert_eq!(root.allocated_memory(), 0);
}

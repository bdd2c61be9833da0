//! Room for foreign memory: charged as a whole, used piece by piece.

use std::sync::Arc;

use arrow_memory_core::AllocError;
use arrow_memory_core::testing::{RecordingListener, TrackingManager};

use crate::foreign::{count, counted};
use crate::support::{over, tracked};

#[test]
fn room_for_foreign_memory_is_charged_as_a_whole_used_piece_by_piece_and_given_back() {
    let (_, root) = tracked(100);
    let (small, small_drops) = counted(40);
    let (large, large_drops) = counted(70);

    assert!(root.room_for_foreign(101).is_err());
    let mut room = root.room_for_foreign(60).unwrap();
    let small = room.wrap(small).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (20, 60));
    let refused = room.wrap(large).unwrap_err();
    assert_eq!((room.size(), root.allocated_memory()), (20, 60));
    drop(small);
    let large = room.wrap(refused.allocation).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (0, 70));
    drop(room);
    drop(root.room_for_foreign(30).unwrap());
    assert_eq!(
        (root.allocated_memory(), root.stats().foreign_bytes),
        (70, 70)
    );

    drop(large);
    assert_eq!([count(&small_drops), count(&large_drops)], [1, 1]);
    root.close().unwrap();
}

#[test]
fn a_listener_hears_of_each_piece_that_a_room_takes_in_and_may_veto_it() {
    let listener = Arc::new(RecordingListener::new());
    let root = over(&Arc::new(TrackingManager::new())).limit(100);
    let root = root.listener(listener.clone()).build().unwrap();
    let (piece, drops) = counted(40);
    let mut room = root.room_for_foreign(60).unwrap();
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

//! Adoptions that are refused leave everything as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_arrow::deps::arrow_array::Int64Array;
use arrow_memory_arrow::{Accounted, MemoryError};
use arrow_memory_core::{AllocError, AllocationListener, AllocatorInfo, RootAllocator, Veto};

use crate::Books;

#[test]
fn a_batch_that_does_not_fit_moves_nothing() {
    let books = Books::without_credit();
    let (first, second) = (books.batch(10, 8000), books.batch(10, 8000));
    books.join.set_limit(100_000);
    let first = first.adopt(&books.join).unwrap();
    let before = books.charged();
    assert_eq!(before, [160_000, 80_000, 80_000, 80_000]);

    let refused = second.adopt(&books.join).unwrap_err();

    assert_eq!(books.charged(), before);
    assert_eq!(books.join.peak_memory_allocation(), 80_000);
    assert_eq!(books.root.peak_memory_allocation(), 160_000);
    drop(first);
    drop(refused);
    books.close();
}

#[test]
fn memory_that_moves_within_a_query_needs_no_room() {
    let books = Books::new();
    books.scan.set_limit(80_000);
    let batch = books.batch(10, 8000);

    let adopted = batch.adopt(&books.scan).unwrap();

    assert_eq!(books.charged(), [80_000, 80_000, 0, 0]);
    assert!(books.scan.buffer(1).is_err());
    drop(adopted);
    books.close();
}

#[test]
fn memory_that_moves_between_queries_needs_room_where_it_goes_only() {
    let books = Books::without_credit();
    books.root.set_limit(80_000);
    let batch = books.batch(10, 8000);

    let adopted = batch.adopt(&books.join).unwrap();

    assert_eq!(books.charged(), [80_000, 0, 0, 80_000]);
    assert_eq!(books.root.peak_memory_allocation(), 80_000);
    drop(adopted);
    books.close();
}

#[test]
fn a_transfer_passes_the_limits_that_an_adoption_keeps() {
    let books = Books::new();
    books.join.set_limit(1000);
    let array = books.array(8000);

    let moved = array.transfer_ownership(&books.join).unwrap();

    assert!(!moved.allocation_fit);
    assert_eq!(books.charged(), [8000, 0, 0, 8000]);
    drop((array, moved));
    books.close();
}

/// Vetoes one allocation after some others.
struct Vetoing(AtomicUsize);

impl AllocationListener for Vetoing {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(Veto::new("the last one")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_veto_in_the_middle_of_a_batch_moves_nothing() {
    for allowed in 0..10 {
        let books = Books::new();
        let listener = Arc::new(Vetoing(AtomicUsize::new(allowed)));
        let query = books
            .root
            .child("query")
            .listener(listener)
            .build()
            .unwrap();
        let batch = books.batch(10, 8000);
        let before = books.charged();

        let refused = batch.adopt(&query).unwrap_err();

        assert_eq!((books.charged(), query.allocated_memory()), (before, 0));
        drop((refused, query));
        books.close();
    }
}

#[test]
fn a_reservation_pays_for_what_a_kernel_made_in_a_scope() {
    let books = Books::new();
    let mut room = books.scan.new_reservation();
    room.add(9000).unwrap();
    let output = books.array(8000);
    assert_eq!(books.charged(), [17_000, 17_000, 8000, 0]);

    let adopted = output.adopt_from(&mut room).unwrap();

    assert_eq!((room.size(), books.charged()), (1000, [9000, 9000, 0, 0]));
    drop((room, adopted));
    books.close();
}

#[test]
fn a_reservation_that_is_too_small_takes_the_rest_from_the_heap() {
    let books = Books::with_root(RootAllocator::new(11_000));
    let mut room = books.scan.new_reservation();
    room.add(3000).unwrap();
    let output = books.array(8000);

    let adopted = output.adopt_from(&mut room).unwrap();

    assert_eq!((room.size(), books.charged()), (0, [8000, 8000, 0, 0]));
    drop((room, adopted));
    books.close();
}

/// Panics when it is told of an allocation after some others.
struct Panicking(AtomicUsize);

impl AllocationListener for Panicking {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        let left = self.0.fetch_sub(1, Ordering::Relaxed);
        assert_ne!(left, 0, "the listener's own failure");
    }
}

#[test]
fn a_listener_that_panics_in_the_middle_leaves_reservation_and_heap_as_they_were() {
    for allowed in 0..4 {
        let books = Books::new();
        let listener = Arc::new(Panicking(AtomicUsize::new(allowed)));
        let query = books
            .root
            .child("query")
            .listener(listener)
            .build()
            .unwrap();
        let mut room = query.new_reservation();
        room.add(20_000).unwrap();
        let batch = books.batch(4, 8000);
        let before = books.charged();

        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            batch.clone().adopt_from(&mut room)
        }));

        assert!(failed.is_err());
        assert_eq!((room.size(), books.charged()), (20_000, before));
        drop((batch, room, query));
        books.close();
    }
}

#[test]
fn a_closed_allocator_adopts_nothing_that_outlived_its_scope_either() {
    let mut books = Books::new();
    let array = books.array(8000);
    books.scope = None;
    books.root.close().unwrap_err();
    let before = books.charged();

    Int64Array::from(vec![7; 1000])
        .adopt(&books.root)
        .unwrap_err();
    let error = array.clone().adopt(&books.root).unwrap_err();

    assert!(
        matches!(error.source, MemoryError::Alloc(AllocError::Closed { .. })),
        "{error:?}"
    );
    assert_eq!((books.charged(), books.retained()), (before, 8000));
    drop((array, error)); // the error has the array, too
    assert_eq!(books.charged(), [0; 4]);
}

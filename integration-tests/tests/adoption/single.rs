//! One array, adopted and released.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_arrow::deps::arrow_array::Int64Array;
use arrow_memory_arrow::{Accounted, HandOver};
use arrow_memory_core::RootAllocator;
use arrow_memory_global::Scope;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::Books;

#[test]
fn an_adopted_array_is_charged_once() {
    let books = Books::without_credit();
    let array = books.array(8000);
    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);

    let adopted = array.adopt(&books.scan).unwrap();

    assert_eq!(adopted.accounted_size(), 8000);
    assert_eq!(books.charged(), [8000, 8000, 0, 0]);
    assert_eq!(books.scan.peak_memory_allocation(), 8000);
    drop(adopted);
    books.close();
}

#[test]
fn an_array_that_another_query_adopts_is_charged_there_alone() {
    let books = Books::without_credit();
    let adopted = books.array(8000).adopt(&books.join).unwrap();
    assert_eq!(books.charged(), [8000, 0, 0, 8000]);
    assert_eq!(books.root.peak_memory_allocation(), 8000);

    let moved = adopted.try_move_to(&books.scan).unwrap();

    assert_eq!(books.charged(), [8000, 8000, 0, 0]);
    drop(moved);
    books.close();
}

#[test]
fn blocks_of_every_size_from_the_smallest_on_are_charged_once() {
    for bytes in [512, 513, 600, 1000, 1023, 1024, 1025, 3 << 20, 70 << 20] {
        let books = Books::new();
        let adopted = books.buffer(bytes).adopt(&books.join).unwrap();
        assert_eq!(books.charged(), [bytes, 0, 0, bytes]);
        drop(adopted);
        books.close();
    }
}

#[test]
fn a_clone_that_lives_on_is_charged_to_the_heap_again() {
    let books = Books::new();
    let array = books.array(8000);
    let adopted = array.clone().adopt(&books.scan).unwrap();
    assert_eq!(books.charged(), [8000, 8000, 0, 0]);

    drop(adopted);

    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    let adopted = array.clone().adopt(&books.join).unwrap();
    assert_eq!(books.charged(), [8000, 0, 0, 8000]);
    drop((array, adopted));
    books.close();
}

#[test]
fn a_clone_that_outlives_an_adopter_is_charged_to_who_allocated_it() {
    let mut books = Books::new();
    let array = books.array(8000);
    let adopted = array.clone().adopt(&books.join).unwrap();

    drop(adopted);

    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    let adopted = array.clone().adopt(&books.join).unwrap();
    books.scope = None;
    assert_eq!(books.charged(), [8000, 0, 0, 8000]);
    drop(adopted);
    assert_eq!(books.charged(), [8000, 0, 0, 0]);
    let report = books.root.report();
    assert_eq!(*report.retained.largest, [("scan".into(), 8000)]);
    drop(array);
    books.close();
}

/// Counts the events of allocators that outlived their handles.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl Subscriber for Counting {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |_: &Field, value: &dyn Debug| {
            if format!("{value:?}") == "last handle dropped with memory outstanding" {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The node for what is retained is made for these bytes, and has no handle: nobody is told that it outlived one.
#[test]
fn memory_that_comes_back_to_an_ended_scope_is_no_event() {
    let events = Counting::default();
    tracing::subscriber::with_default(events.clone(), || {
        let mut books = Books::new();
        let array = books.array(8000);
        let adopted = array.clone().adopt(&books.join).unwrap();
        books.scope = None;

        drop(adopted);

        assert_eq!(books.retained(), 8000);
        drop(array);
        books.close();
    });
    assert_eq!(events.0.load(Ordering::Relaxed), 0);
}

#[test]
fn detached_memory_is_the_heaps_again() {
    let books = Books::new();
    let adopted = books.array(8000).adopt(&books.scan).unwrap();

    let detached = adopted.detach();
    drop(adopted);

    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    drop(detached);
    books.close();
}

#[test]
fn memory_that_is_detached_and_grows_stays_charged_to_the_byte() {
    let books = Books::new();
    let adopted = books.buffer(8000).adopt(&books.scan).unwrap();
    let detached = adopted.detach();
    drop(adopted);

    let mut vec = detached.into_vec::<u8>().unwrap();
    vec.reserve_exact(12_000);
    assert_eq!(books.charged(), [20_000, 20_000, 20_000, 0]);
    vec.shrink_to(0);
    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    vec.truncate(100);
    vec.shrink_to_fit();
    assert_eq!(books.charged(), [0; 4]);
    books.close();
}

#[test]
fn a_scope_may_end_while_its_memory_is_adopted() {
    let mut books = Books::new();
    let (array, page) = (books.array(8000), books.array(4000));
    let adopted = array.clone().adopt(&books.scan).unwrap();
    books.scope = None;
    assert_eq!(
        (books.charged(), books.retained()),
        ([12_000, 8000, 0, 0], 4000)
    );

    drop(adopted);

    assert_eq!(
        (books.charged(), books.retained()),
        ([12_000, 0, 0, 0], 12_000)
    );
    let again = array.clone().adopt(&books.join).unwrap();
    assert_eq!(
        (books.charged(), books.retained()),
        ([12_000, 0, 0, 8000], 4000)
    );
    drop(again);
    assert_eq!(books.retained(), 12_000);
    drop((array, page));
    books.close();
}

#[test]
fn a_query_closes_when_its_adopted_memory_is_released_and_a_clone_lives_on() {
    let mut books = Books::new();
    let array = books.array(8000);
    let adopted = array.clone().adopt(&books.scan).unwrap();
    books.scan.close().unwrap_err();
    books.scope = None;

    drop(adopted);

    // It has left its tree.
    books.scan.close().unwrap();
    assert_eq!((books.charged(), books.retained()), ([8000, 0, 0, 0], 8000));
    drop(array);
    books.close();
}

#[test]
fn retained_memory_with_a_long_name_is_adopted() {
    let books = Books::new();
    let name = "a query with a name of more than fifteen bytes";
    let query = books.root.child(name).build().unwrap();
    let scope = Scope::new(&query).unwrap();
    let arrays = scope.run(|| [0, 1].map(|_| Int64Array::from(vec![7; 1000])));
    drop(scope);
    assert_eq!(books.retained(), 16_000);

    let adopted = arrays[0].clone().adopt(&books.join).unwrap();
    assert_eq!(
        (books.charged(), books.retained()),
        ([16_000, 0, 0, 8000], 8000)
    );
    drop(adopted);

    let report = books.root.report();
    assert_eq!(*report.retained.largest, [(name.into(), 16_000)]);
    drop((arrays, query));
    books.close();
}

#[test]
fn two_trees_are_charged_each() {
    let books = Books::new();
    let other = RootAllocator::new(1 << 20);
    let array = books.array(8000);

    let there = array.clone().adopt(&other).unwrap();
    assert_eq!(
        (books.charged(), other.allocated_memory()),
        ([8000, 8000, 8000, 0], 8000)
    );
    let here = array.adopt(&books.join).unwrap();

    assert_eq!(
        (books.charged(), other.allocated_memory()),
        ([8000, 0, 0, 8000], 8000)
    );
    drop(there);
    assert_eq!(
        (books.charged(), other.allocated_memory()),
        ([8000, 0, 0, 8000], 0)
    );
    drop(here);
    other.close().unwrap();
    books.close();
}

#[test]
fn a_closed_allocator_leaves_when_its_bytes_go_back_to_the_heap() {
    let books = Books::new();
    let array = books.array(8000);
    let query = books.root.child("query").build().unwrap();
    let adopted = array.clone().adopt(&query).unwrap();
    let empty = query.empty(); // keeps the allocator's memory, but not a closed allocator in its tree
    query.close().unwrap_err();

    drop(adopted);

    let children = books.root.child_allocators();
    assert!(children.iter().all(|child| child.name() != "query"));
    drop((children, empty, array, query));
    books.close();
}

/// Who hands it over is not asked: the heap pays, so that the bytes move to the receiver.
#[test]
fn an_array_of_a_scope_is_handed_over_and_charged_to_the_receiver_alone() {
    for forced in [false, true] {
        let books = Books::without_credit();
        let array = books.array(8000);
        let by = HandOver::new(&books.scan, &books.join);
        let by = if forced { by.forced() } else { by };

        let handed = array.hand_over(&by).unwrap();

        assert!(handed.allocation_fit);
        assert_eq!(books.charged(), [8000, 0, 0, 8000]);
        assert_eq!(books.root.peak_memory_allocation(), 8000);
        let back = HandOver::new(&books.join, &books.scan);
        let back = handed.value.hand_over(&back).unwrap().value;
        assert_eq!(books.charged(), [8000, 8000, 0, 0]);
        drop(back);
        books.close();
    }
}

#[test]
fn an_array_of_a_scope_that_is_left_alone_stays_charged_to_the_heap() {
    let books = Books::without_credit();
    let array = books.array(8000);
    let all = |_| true;

    let by = HandOver::new(&books.scan, &books.join).except(&all);
    let handed = array.hand_over(&by).unwrap().value;

    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    drop(handed);
    books.close();
}

//! Adoptions where room is withheld for a request that waits: memory that moves is no new work, wherever it comes from.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_global::Scope;

const LIMIT: usize = 100_000;

/// A tree without credit. The target is in a part of it with two queries that have scopes.
struct Queries {
    root: RootAllocator,
    scopes: [Scope; 3],
    target: BufferAllocator,
    waiting: BufferAllocator,
    passing: BufferAllocator,
}

impl Queries {
    fn new() -> Self {
        let root = RootAllocator::builder().limit(LIMIT).credit(0);
        let root = root.build().unwrap();
        let part = root.child("part").build().unwrap();
        let scope = |of: &BufferAllocator, name: &str| {
            let query = of.child(name).build().unwrap();
            Scope::new(&query).unwrap()
        };
        Self {
            // The third one meets the path of the target at the root, the others at `part`.
            scopes: [scope(&part, "a"), scope(&part, "b"), scope(&root, "c")],
            target: part.child("target").build().unwrap(),
            waiting: root.child("waiting").build().unwrap(),
            passing: root.child("passing").build().unwrap(),
            root,
        }
    }

    /// A column of 20,000 bytes, built in the scope with this number.
    fn column(&self, scope: usize) -> ArrayRef {
        self.scopes[scope].run(|| Arc::new(Int64Array::from(vec![7_i64; 2500])) as ArrayRef)
    }

    /// A batch of a column from each scope.
    fn batch(&self, scopes: &[usize]) -> RecordBatch {
        let columns = scopes.iter().enumerate();
        let columns = columns.map(|(name, &scope)| (name.to_string(), self.column(scope)));
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// Passes the waiter at the root until room is withheld for it.
    fn pass(&self) {
        let passed = (0..LIMIT).find(|_| self.passing.buffer(64).is_err());
        assert!(passed.is_some_and(|number| number > 0));
    }
}

/// The scopes that the columns of a batch come from.
const ORDERS: [&[usize]; 5] = [&[0, 0, 0], &[0, 1, 0], &[0, 2, 0], &[2, 1, 0], &[2, 0, 2]];

fn assert_waits(mut request: Pin<&mut impl Future>) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(request.as_mut().poll(&mut context).is_pending());
}

#[test]
fn a_batch_moves_past_a_waiter_from_as_many_heaps_as_it_comes_from() {
    for scopes in ORDERS {
        let queries = Queries::new();
        let batch = queries.batch(scopes);
        let mut request = pin!(queries.waiting.wait().buffer_async(90_000));
        assert_waits(request.as_mut());
        queries.pass();

        let adopted = batch.adopt(&queries.target).unwrap();

        assert_eq!(queries.target.allocated_memory(), 60_000);
        assert_eq!(queries.root.allocated_memory(), 60_000);
        queries.root.verify().unwrap();
        drop(adopted);
    }
}

#[test]
fn what_is_new_in_a_batch_is_refused_where_room_is_withheld() {
    let queries = Queries::new();
    let there = Arc::new(Int64Array::from(vec![7_i64; 2500])) as ArrayRef;
    let columns = [queries.column(0), there.clone(), queries.column(2)];
    let columns = ["a", "b", "c"].into_iter().zip(columns);
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut request = pin!(queries.waiting.wait().buffer_async(90_000));
    assert_waits(request.as_mut());
    queries.pass();

    let refused = batch.adopt(&queries.target).unwrap_err();

    let error = refused.source.to_string();
    assert!(error.contains("withheld"), "{error}");
    assert_eq!(queries.target.allocated_memory(), 0);
    assert_eq!(queries.root.allocated_memory(), 40_000);
    queries.root.verify().unwrap();
}

#[test]
fn a_reservation_pays_for_what_is_new_in_a_batch_where_room_is_withheld() {
    let queries = Queries::new();
    let mut room = queries.target.new_reservation();
    room.add(20_000).unwrap();
    let there = Arc::new(Int64Array::from(vec![7_i64; 2500])) as ArrayRef;
    // The pieces of one heap have another one between them.
    let columns = [
        queries.column(0),
        queries.column(2),
        there,
        queries.column(0),
    ];
    let columns = ["a", "b", "c", "d"].into_iter().zip(columns);
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut request = pin!(queries.waiting.wait().buffer_async(90_000));
    assert_waits(request.as_mut());
    queries.pass();

    let adopted = batch.adopt_from(&mut room).unwrap();

    assert_eq!(
        (room.size(), queries.target.allocated_memory()),
        (0, 80_000)
    );
    assert_eq!(queries.root.allocated_memory(), 80_000);
    drop(adopted);
}

#[test]
fn a_batch_that_moves_passes_no_waiter() {
    for scopes in ORDERS {
        let queries = Queries::new();
        let batch = queries.batch(scopes);
        let mut request = pin!(queries.waiting.wait().buffer_async(90_000));
        assert_waits(request.as_mut());

        for _ in 0..10 {
            drop(batch.clone().adopt(&queries.target).unwrap());
        }

        // A waiter that was passed by 90,000 bytes has the room to itself.
        assert!(queries.passing.buffer(64).is_ok(), "{scopes:?}");
    }
}

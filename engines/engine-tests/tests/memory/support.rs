//! Sessions, queries and what is checked after each test.

use arrow_memory_datafusion::{Charge, DataFusionMemory, RootAllocator};
use datafusion::arrow::array::Int64Array;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// Sorts 300,000 rows of about 70 bytes, which do not come in the order of `k`.
pub(crate) const SORT: &str = "SELECT value * 7919 % 300007 AS k, repeat('x', 50) || value AS s \
     FROM generate_series(1, 300000) ORDER BY k";
pub(crate) const SORTED_ROWS: usize = 300_000;

/// Builds a hash table of 300,000 rows, which cannot spill.
pub(crate) const JOIN: &str = "SELECT count(*) FROM generate_series(1, 300000) a \
     JOIN generate_series(1, 300000) b ON a.value = b.value";

/// Returns a session with one partition and small batches, whose sorts set little aside for merging.
pub(crate) fn config() -> SessionConfig {
    SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(1024)
        .with_sort_spill_reservation_bytes(MIB)
}

/// Returns a session whose operators are charged for what they declare.
pub(crate) fn session(root: &RootAllocator) -> (DataFusionMemory, SessionContext) {
    let memory = DataFusionMemory::builder(root)
        .charge(Charge::Declared)
        .build();
    let session = memory.session(config()).unwrap();
    (memory, session)
}

/// Checks that a result of [`SORT`] has all rows, in order.
pub(crate) fn assert_sorted(batches: &[RecordBatch]) {
    let keys: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            let keys = batch
                .column(0)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap();
            keys.values().to_vec()
        })
        .collect();
    let mut expected: Vec<i64> = (1..=300_000).map(|value| value * 7919 % 300_007).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

pub(crate) fn count(batches: &[RecordBatch]) -> i64 {
    let column = batches[0].column(0).as_any();
    column.downcast_ref::<Int64Array>().unwrap().value(0)
}

/// Returns the text of a refusal.
pub(crate) fn refused(error: &DataFusionError) -> &str {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) => text,
        other => panic!("not a refusal: {other}"),
    }
}

/// Waits until nothing is charged: a sort reads its batches in tasks, which drop them a moment after they were aborted.
pub(crate) async fn drained(root: &RootAllocator) {
    let begun = std::time::Instant::now();
    while root.allocated_memory() > 0 {
        assert!(begun.elapsed().as_secs() < 30, "{root}");
        tokio::task::yield_now().await;
    }
    balanced(root);
}

/// Waits until nothing is left of any query: tasks that have ended drop what they hold a moment later.
pub(crate) async fn settled(memory: &DataFusionMemory, root: &RootAllocator) {
    let begun = std::time::Instant::now();
    while !memory.queries().is_empty() || !root.child_allocators().is_empty() {
        assert!(
            begun.elapsed().as_secs() < 30,
            "{:?}\n{root}",
            memory.queries()
        );
        tokio::task::yield_now().await;
    }
    balanced(root);
}

/// Checks that nothing is left of any query.
pub(crate) fn balanced(root: &RootAllocator) {
    assert_eq!(root.allocated_memory(), 0, "{root}");
    assert!(root.child_allocators().is_empty(), "{root}");
    root.verify().unwrap();
}

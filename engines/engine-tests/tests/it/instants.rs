//! What a tree says is held, compared at instants with the buffers that are alive.

use std::sync::{Arc, OnceLock, Weak};

use arrow_memory_datafusion::DataFusionMemory;
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use engine_tests::configuration::trees;
use engine_tests::instants::{Crossed, Found, observe};
use engine_tests::tpch::{ANSWERS_SCALE, Joins, config, queries, register, tables};

use crate::alone;

fn batch() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..1000).map(|i| i.to_string()),
    ));
    RecordBatch::try_from_iter([("numbers", numbers), ("texts", texts)]).unwrap()
}

#[test]
fn a_buffer_counts_once_and_as_long_as_anybody_else_has_it() {
    let crossed = Crossed::new(Box::new(|| 0));
    let whole = batch();

    crossed.note(&whole);
    let alive = crossed.live();
    crossed.note(&whole.slice(10, 10));
    let noted_again = crossed.live();
    let slice = whole.slice(500, 1);
    drop(whole);
    let by_slice = crossed.live();
    drop(slice);

    assert!(alive >= 8000 + 4004 + 2890, "{alive}");
    assert_eq!((noted_again, by_slice, crossed.live()), (alive, alive, 0));
}

/// Runs a query of two partitions on one thread, and compares with what the closure returns, at each poll of an
/// operator.
async fn found(number: usize, held: fn(&Crossed, &DataFusionMemory) -> usize) -> Found {
    let mut trees = trees().into_iter();
    let all = trees.find(|tree| tree.name.starts_with("operators"));
    let limited = all.unwrap().limited(None);
    let crossed = Arc::new(OnceLock::<Weak<Crossed>>::new());
    let (known, memory) = (Arc::clone(&crossed), limited.memory().unwrap().clone());
    let held = move || held(&known.get().and_then(Weak::upgrade).unwrap(), &memory);
    let observed = Crossed::new(Box::new(held));
    crossed.set(Arc::downgrade(&observed)).unwrap();
    let builder = SessionStateBuilder::new()
        .with_config(config(2, Joins::Hash))
        .with_default_features();
    let builder = limited.configure(observe(builder, &observed));
    let session = SessionContext::new_with_state(builder.build());
    register(&session, &tables(ANSWERS_SCALE).unwrap())
        .await
        .unwrap();

    let query = queries().swap_remove(number - 1);
    let batches = limited.execute(&session, &query.sql, "observed", |_, batches| {
        drop(batches);
        Ok(())
    });
    batches.await.unwrap();
    assert_eq!(observed.live(), 0, "nothing of the query is left");
    observed.found()
}

/// Returns what the operators of all queries hold, their results included.
fn held(memory: &DataFusionMemory) -> usize {
    let queries = memory.queries();
    queries.iter().map(|query| query.held).sum()
}

#[tokio::test]
async fn what_operators_hold_is_what_is_alive() {
    let _alone = alone().await;

    // Scans, joins, sorts, aggregates with few groups and with many, which are returned in slices of one batch, and a
    // scalar subquery.
    for number in [1, 3, 5, 10, 11, 18] {
        let equal = found(number, |_, memory| held(memory)).await;
        assert!(equal.instants > 100 && equal.peak > 1000, "{equal:?}");
        assert!(equal.differences.is_empty(), "{number}: {equal:?}");
    }
    let one_more = found(3, |crossed, _| crossed.live() + 1).await;
    assert!(!one_more.differences.is_empty());
}

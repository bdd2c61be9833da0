//! Batches that operators hold: charged to who holds them, once, and to nobody if they are a table's.

use std::sync::Arc;

use arrow_memory_datafusion::{
    Charge, DataFusionMemory, Granularity, OperatorReport, QueryReport, RootAllocator,
};
use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use engine_tests::run;

use crate::support::{MIB, SORT, balanced, config, drained, refused, settled};

/// Keeps its whole input, and declares nothing.
const WINDOW: &str = "SELECT value, sum(value) OVER () AS s FROM generate_series(1, 2000000)";

fn memory(root: &RootAllocator, charge: Charge, at: Granularity) -> DataFusionMemory {
    let builder = DataFusionMemory::builder(root).charge(charge);
    builder.granularity(at).build()
}

/// Returns the report's operator whose name begins so.
fn operator<'a>(report: &'a QueryReport, name: &str) -> &'a OperatorReport {
    let mut operators = report.operators.iter();
    let found = operators.find(|operator| operator.name.starts_with(name));
    found.unwrap_or_else(|| panic!("no {name} in\n{report}"))
}

#[tokio::test]
async fn results_stay_charged_until_the_client_drops_them() {
    let root = RootAllocator::new(1 << 30);
    let memory = DataFusionMemory::new(&root);
    let session = memory.session(config()).unwrap();
    let query = memory.query("q").admit().await.unwrap();
    let sql = "SELECT value FROM generate_series(1, 100000)";
    let batches = query
        .collect(run::sql(&session, sql).await.unwrap())
        .await
        .unwrap();

    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let report = query.report();
    assert_eq!(operator(&report, "result").held, root.allocated_memory());
    assert!(
        root.allocated_memory() >= 800_000 && root.allocated_memory() <= bytes,
        "{report}"
    );
    let still = query
        .finish_within(std::time::Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(still.to_string().contains("result"), "{still}");
    drop(batches);
    query.finish().await.unwrap();
    drop(query);
    balanced(&root);
}

#[tokio::test]
async fn a_window_that_declares_nothing_is_limited_and_named() {
    for (charge, fits) in [
        (Charge::Declared, true),
        (Charge::Observed, true),
        (Charge::Larger, false),
    ] {
        let root = RootAllocator::new(8 * MIB);
        let memory = memory(&root, charge, Granularity::Holders);
        let session = memory.session(config()).unwrap();
        let query = memory.query("q").admit().await.unwrap();
        let frame = run::sql(&session, WINDOW).await.unwrap();
        let mut stream = query.execute_stream(frame).await.unwrap();
        let first = futures::StreamExt::next(&mut stream).await.unwrap();
        let report = query.report();
        match &first {
            Ok(_) => assert!(fits, "{report}"),
            Err(error) => {
                assert!(!fits, "{error}");
                let text = refused(error);
                assert!(text.contains("WindowAggExec#"), "{text}");
            }
        }
        if charge == Charge::Observed {
            let window = operator(&report, "WindowAggExec");
            assert!(window.held_peak > 15 * MIB, "{report}");
            assert_eq!(window.declared, 0);
        }
        // A batch may pass the limit by the overdraft.
        assert!(report.peak <= 9 * MIB, "{report}");
        drop((stream, first));
        query.finish().await.unwrap();
        drop(query);
        settled(&memory, &root).await;
    }
}

#[tokio::test]
async fn a_sort_is_charged_for_the_larger_of_what_it_declares_and_holds() {
    let root = RootAllocator::builder()
        .limit(1 << 30)
        .credit(0)
        .build()
        .unwrap();
    for at in [Granularity::Holders, Granularity::Operators] {
        let memory = memory(&root, Charge::Larger, at);
        let session = memory.session(config()).unwrap();
        let query = memory.query("q").admit().await.unwrap();
        let frame = run::sql(&session, SORT).await.unwrap();
        let mut stream = query.execute_stream(frame).await.unwrap();
        drop(
            futures::StreamExt::next(&mut stream)
                .await
                .unwrap()
                .unwrap(),
        );
        drop(stream);
        let report = query.finish().await.unwrap();
        let sort = operator(&report, "SortExec#");
        assert!(sort.held_peak > 15 * MIB, "{report}");
        assert!(sort.peak >= sort.held_peak, "{report}");
        // Beside the sort, there are batches on their way.
        assert!(report.peak < sort.peak + 4 * MIB, "{report}");
        drop(query);
        settled(&memory, &root).await;
    }
}

fn table(rows: i64) -> RecordBatch {
    let column = |from: i64| Arc::new(Int64Array::from_iter_values(from..from + rows)) as ArrayRef;
    RecordBatch::try_from_iter([("a", column(0)), ("b", column(7))]).unwrap()
}

async fn filtered(session: &SessionContext, memory: &DataFusionMemory) -> QueryReport {
    let query = memory.query("q").limit(2 * MIB).admit().await.unwrap();
    let sql = "SELECT a, b FROM t WHERE a % 100000 = 3 UNION ALL SELECT b, a FROM t WHERE a < 2";
    let batches = query
        .collect(run::sql(session, sql).await.unwrap())
        .await
        .unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 12);
    drop(batches);
    query.finish().await.unwrap()
}

#[tokio::test]
async fn a_table_that_somebody_keeps_in_memory_is_not_billed_to_a_query() {
    for at in [Granularity::Holders, Granularity::Operators] {
        let root = RootAllocator::new(1 << 30);
        let memory = memory(&root, Charge::Larger, at);
        let session = memory.session(config()).unwrap();
        session.register_batch("t", table(1_000_000)).unwrap();
        let report = filtered(&session, &memory).await;
        assert!(report.peak < MIB, "{report}");

        // The whole table goes through a projection, and is kept by the client.
        let query = memory.query("q").limit(MIB).admit().await.unwrap();
        let frame = run::sql(&session, "SELECT b, a FROM t").await.unwrap();
        let batches = query.collect(frame).await.unwrap();
        assert_eq!(root.allocated_memory(), 0);
        drop(batches);
        query.finish().await.unwrap();
        drop(query);
        settled(&memory, &root).await;
    }
}

#[tokio::test]
async fn a_table_that_an_allocator_is_charged_for_stays_there() {
    use arrow_memory_arrow::arrow_59::Accounted;
    let root = RootAllocator::new(1 << 30);
    let tables = root.child("tables").build().unwrap();
    let memory = memory(&root, Charge::Larger, Granularity::Operators);
    let session = memory.session(config()).unwrap();
    let batch = table(1_000_000).adopt(&tables).unwrap();
    let bytes = tables.allocated_memory();
    session.register_batch("t", batch).unwrap();
    let report = filtered(&session, &memory).await;
    assert!(report.peak < MIB, "{report}");
    assert_eq!(tables.allocated_memory(), bytes);
    assert_eq!(root.allocated_memory(), bytes);
    session.deregister_table("t").unwrap();
    assert_eq!(tables.allocated_memory(), 0);
}

#[tokio::test]
async fn a_buffer_that_is_in_two_columns_is_charged_once() {
    let root = RootAllocator::new(1 << 30);
    let memory = memory(&root, Charge::Larger, Granularity::Operators);
    let session = memory.session(config().with_batch_size(65_536)).unwrap();
    let peak = async |sql: &str| {
        let query = memory.query("q").admit().await.unwrap();
        let batches = query
            .collect(run::sql(&session, sql).await.unwrap())
            .await
            .unwrap();
        let bytes = query.allocator().allocated_memory();
        drop(batches);
        query.finish().await.unwrap();
        bytes
    };
    let once = peak("SELECT value + 1 AS a FROM generate_series(1, 65536)").await;
    let twice = peak(
        "SELECT a, a AS b, a AS c FROM (SELECT value + 1 AS a FROM generate_series(1, 65536))",
    )
    .await;
    assert_eq!(once, twice);
}

#[tokio::test]
async fn a_recursive_query_has_one_operator_for_all_its_rounds() {
    let root = RootAllocator::new(1 << 30);
    let memory = memory(&root, Charge::Larger, Granularity::Operators);
    let session = memory.session(config()).unwrap();
    let query = memory.query("q").admit().await.unwrap();
    let sql = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 50) \
         SELECT n FROM r ORDER BY n";
    let batches = query
        .collect(run::sql(&session, sql).await.unwrap())
        .await
        .unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 50);
    let report = query.report();
    assert!(report.operators.len() < 12, "{report}");
    drop(batches);
    query.finish().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_query_holds_nothing_in_its_operators() {
    let root = RootAllocator::new(1 << 30);
    let memory = memory(&root, Charge::Larger, Granularity::Operators);
    let session = memory.session(config()).unwrap();
    for polls in 0..4 {
        let query = memory.query("q").admit().await.unwrap();
        let frame = run::sql(&session, SORT).await.unwrap();
        let mut stream = query.execute_stream(frame).await.unwrap();
        for _ in 0..polls {
            futures::StreamExt::next(&mut stream)
                .await
                .unwrap()
                .unwrap();
        }
        query.cancel("enough");
        drop(stream);
        drained(&root).await;
    }
}

#[tokio::test]
async fn what_a_join_has_built_goes_when_its_last_row_was_returned() {
    let root = RootAllocator::new(1 << 30);
    let memory = memory(&root, Charge::Larger, Granularity::Holders);
    let session = memory.session(config()).unwrap();
    let query = memory.query("q").admit().await.unwrap();
    let sql = "SELECT a.value FROM generate_series(1, 200000) a \
         JOIN generate_series(1, 200000) b ON a.value = b.value ORDER BY a.value % 1000";
    let frame = run::sql(&session, sql).await.unwrap();
    let mut stream = query.execute_stream(frame).await.unwrap();
    let first = futures::StreamExt::next(&mut stream).await.unwrap();
    let report = query.report();
    let join = operator(&report, "HashJoinExec");
    assert!(join.peak > 2 * MIB, "{report}");
    assert_eq!((join.declared, join.held), (0, 0), "{report}");
    drop((first, stream));
    query.finish().await.unwrap();
}

//! `SELECT * FROM memory()`.

use arrow_memory_datafusion::RootAllocator;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::prelude::SessionContext;
use engine_tests::run;
use futures::StreamExt;

use crate::support::{MIB, SORT, session, settled};

async fn rows(session: &SessionContext, sql: &str) -> RecordBatch {
    let batches = run::batches(session, sql).await.unwrap();
    datafusion::arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    let column = rows.column_by_name(column).unwrap();
    column
        .as_string::<i32>()
        .iter()
        .map(|text| text.unwrap().to_owned())
        .collect()
}

fn numbers(rows: &RecordBatch, column: &str) -> Vec<u64> {
    let column = rows.column_by_name(column).unwrap();
    column.as_primitive::<UInt64Type>().values().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operator_of_each_query_that_is_alive_is_a_row() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);
    let query = memory.query("sort").admit().await.unwrap();
    let mut stream = query
        .execute_stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());

    let seen = rows(&session, "SELECT * FROM memory() WHERE query = 'sort'").await;

    let report = query.report();
    let names: Vec<String> = report
        .operators
        .iter()
        .map(|node| node.name.clone())
        .collect();
    assert_eq!(texts(&seen, "operator"), names);
    assert!(
        numbers(&seen, "charged").iter().sum::<u64>() > 0,
        "{seen:?}"
    );
    let peaks: Vec<u64> = report
        .operators
        .iter()
        .map(|node| node.peak as u64)
        .collect();
    assert_eq!(numbers(&seen, "peak"), peaks);
    drop(stream);
    query.finish().await.unwrap();
    drop(query);
    settled(&memory, &root).await;
    assert_eq!(
        rows(&session, "SELECT count(*) FROM memory()")
            .await
            .num_rows(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_reads_the_operators_when_it_is_executed() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);
    let frame = run::sql(
        &session,
        "SELECT operator FROM memory() WHERE query = 'late'",
    )
    .await
    .unwrap();
    let query = memory.query("late").admit().await.unwrap();
    let mut stream = query
        .execute_stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());

    let batches = run::collect(frame).await.unwrap();

    let seen: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(seen, query.report().operators.len());
    drop((stream, query));
    settled(&memory, &root).await;
}

#[tokio::test]
async fn memory_takes_no_arguments() {
    let root = RootAllocator::new(MIB);
    let (_, session) = session(&root);
    let error = run::sql(&session, "SELECT * FROM memory(1)")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("memory() takes no arguments"),
        "{error}"
    );
}

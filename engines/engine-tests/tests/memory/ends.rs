//! How queries end: finished, cancelled, dropped, by a panic, and with something left.

use std::sync::Arc;
use std::time::Duration;

use arrow_memory_datafusion::RootAllocator;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use engine_tests::run;
use futures::StreamExt;

use crate::support::{SORT, SORTED_ROWS, balanced, drained, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_query_ends_its_streams_with_the_reason_and_leaves_nothing() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("q").reservation(1000).admit().await.unwrap();
    let mut stream = query
        .execute_stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
    assert_eq!(query.report().open_streams, 1);
    assert!(query.report().declared > 0);

    query.cancel("the client has gone");

    let error = stream.next().await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("`q` has ended: it was cancelled: the client has gone"),
        "{error}"
    );
    assert!(stream.next().await.is_none());
    let report = query.finish().await.unwrap();
    assert_eq!(
        (report.declared, report.reservation),
        (0, 0),
        "the stream gave all back: {report}"
    );
    let again = query
        .collect(run::sql(&session, "SELECT 1").await.unwrap())
        .await
        .unwrap_err();
    assert!(again.to_string().contains("the client has gone"), "{again}");
    drop((stream, query));
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_another_task_collects_ends_when_it_is_cancelled() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = Arc::new(memory.query("q").admit().await.unwrap());
    let frame = run::sql(
        &session,
        "SELECT count(*) FROM generate_series(1, 1000000000000)",
    )
    .await
    .unwrap();
    let collecting = tokio::spawn({
        let query = Arc::clone(&query);
        async move { query.collect(frame).await }
    });
    while query.report().open_streams == 0 {
        tokio::task::yield_now().await;
    }

    query.cancel("it takes too long");

    let error = collecting.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("it takes too long"), "{error}");
    query.finish().await.unwrap();
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_dropped_is_cancelled() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("q").admit().await.unwrap();
    let mut stream = query
        .execute_stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());

    drop(query);

    let error = stream.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("was dropped"), "{error}");
    drained(&root).await; // the stream is still there
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_gives_everything_back() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("q").admit().await.unwrap();
    let mut stream = query
        .execute_stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());

    drop(stream);

    let report = query.finish().await.unwrap();
    assert_eq!((report.declared, report.open_streams), (0, 0), "{report}");
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_function_leaves_nothing() {
    for partitions in [1, 2] {
        let root = RootAllocator::unlimited();
        let memory = arrow_memory_datafusion::DataFusionMemory::new(&root);
        let config = crate::support::config().with_target_partitions(partitions);
        let session = memory.session(config).unwrap();
        let boom = create_udf(
            "boom",
            vec![DataType::Int64],
            DataType::Int64,
            Volatility::Volatile,
            Arc::new(|_: &[ColumnarValue]| -> Result<ColumnarValue> { panic!("boom") }),
        );
        session.register_udf(boom);
        // The hash table of the join is there when the function runs.
        let sql = "SELECT boom(a.value) FROM generate_series(1, 100000) a \
             JOIN generate_series(1, 100000) b ON a.value = b.value ORDER BY 1";
        let query = Arc::new(memory.query("q").admit().await.unwrap());
        let frame = run::sql(&session, sql).await.unwrap();
        let running = Arc::clone(&query);

        let ended = tokio::spawn(async move { running.collect(frame).await }).await;

        assert!(!matches!(ended, Ok(Ok(_))), "the function panicked");
        let report = query.finish().await.unwrap();
        assert!(report.peak > 0, "{report}");
        assert_eq!((report.declared, report.open_streams), (0, 0), "{report}");
        drop(query);
        balanced(&root);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_aborted_leaves_nothing() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = Arc::new(memory.query("q").admit().await.unwrap());
    let frame = run::sql(&session, SORT).await.unwrap();
    let running = Arc::clone(&query);
    let task =
        tokio::spawn(async move { running.collect(frame).await.map(|batches| batches.len()) });
    while query.report().peak == 0 {
        tokio::task::yield_now().await;
    }

    task.abort();

    let report = query.finish().await.unwrap();
    assert_eq!((report.declared, report.open_streams), (0, 0), "{report}");
    drop(task);
    drop(query);
    balanced(&root);
}

#[tokio::test]
async fn finish_says_who_still_holds_something_and_may_be_called_again() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("q7").admit().await.unwrap();
    let context = query.task_context(TaskContext::default());
    let forgotten = MemoryConsumer::new("Cache[0]").register(context.memory_pool());
    forgotten.try_grow(3 << 20).unwrap();

    let held = query
        .finish_within(Duration::from_millis(30))
        .await
        .unwrap_err();

    assert!(held.waited >= Duration::from_millis(30));
    assert_eq!(held.report.operators[0].declared, 3 << 20);
    let text = held.to_string();
    assert!(
        text.contains("query `q7` still holds 3.0 MiB after "),
        "{text}"
    );
    assert!(text.contains("Cache"), "{text}");

    let stream = query
        .execute_stream(run::sql(&session, "SELECT 1").await.unwrap())
        .await
        .unwrap();
    drop(forgotten);
    let held = query.finish_within(Duration::ZERO).await.unwrap_err();
    assert!(
        held.to_string().contains("holds 0 B and has 1 stream open"),
        "{held}"
    );

    drop(stream);
    query.finish().await.unwrap();
    drop((query, context));
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_reads_as_a_tree() {
    let root = RootAllocator::builder().credit(0).build().unwrap();
    let (memory, session) = session(&root);
    let query = memory.query("q").limit(1 << 30).admit().await.unwrap();
    let batches = query
        .collect(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        SORTED_ROWS
    );
    let context = query.task_context(TaskContext::default());
    let extra = MemoryConsumer::new("Extra").register(context.memory_pool());
    extra.grow(1 << 20);

    let text = query.report().to_string();

    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("query `q`: 1.0 MiB declared, peak "),
        "{text}"
    );
    assert!(lines[0].ends_with(", limit 1.0 GiB, spilled 0 B"), "{text}");
    assert!(
        lines.iter().any(|line| line.contains("├─ SortExec#1 ")),
        "{text}"
    );
    assert!(lines.iter().any(|line| line.contains("─ Extra ")), "{text}");
    drop((extra, context, query));
    balanced(&root);
}

//! Servers that only call `ctx.sql`.

use std::sync::Arc;

use arrow_memory_datafusion::{Charge, DataFusionMemory, RootAllocator};
use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::prelude::SessionContext;
use engine_tests::run;
use futures::StreamExt;

use crate::support::{
    JOIN, KIB, MIB, SORT, assert_sorted, balanced, config, count, refused, session, settled,
};

async fn rows(session: &SessionContext, sql: &str) -> String {
    let batches = run::batches(session, sql).await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_query_of_a_session_has_a_node_as_long_as_its_stream_lives() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let mut one = run::stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    let mut two = run::stream(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();
    assert!(one.next().await.unwrap().is_ok() && two.next().await.unwrap().is_ok());

    let reports = memory.queries();

    assert_eq!(
        reports
            .iter()
            .map(|report| &*report.name)
            .collect::<Vec<_>>(),
        ["query#1", "query#2"]
    );
    assert!(
        reports.iter().all(|report| report.declared > 0),
        "{reports:?}"
    );
    drop((one, two));
    settled(&memory, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_one_execution_share_a_node() {
    let root = RootAllocator::unlimited();
    let memory = DataFusionMemory::new(&root);
    let session = memory.session(config().with_target_partitions(2)).unwrap();
    let sql = "SELECT value % 10, count(*) FROM generate_series(1, 100000) GROUP BY 1";
    let streams = run::streams(run::sql(&session, sql).await.unwrap())
        .await
        .unwrap();

    assert_eq!((streams.len(), memory.queries().len()), (2, 1));

    let mut rows = 0;
    for mut stream in streams {
        while let Some(batch) = stream.next().await {
            rows += batch.unwrap().num_rows();
        }
    }
    assert_eq!(rows, 10);
    settled(&memory, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_queries_holds_for_those_that_nobody_admits() {
    let root = RootAllocator::builder().credit(0).build().unwrap(); // exact peaks
    let memory = DataFusionMemory::builder(&root)
        .charge(Charge::Declared)
        .query_limit(8 * MIB)
        .build();
    let session = memory.session(config()).unwrap();
    assert_sorted(&run::batches(&session, SORT).await.unwrap());
    settled(&memory, &root).await;
    assert!(
        root.peak_memory_allocation() <= 8 * MIB,
        "it spilled: {root}"
    );

    let memory = DataFusionMemory::builder(&root)
        .charge(Charge::Declared)
        .query_limit(512 * KIB)
        .build();
    let session = memory.session(config()).unwrap();
    let error = run::batches(&session, JOIN).await.unwrap_err();

    assert!(
        refused(&error).contains("of query `query#1` was refused"),
        "{error}"
    );
    settled(&memory, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_set_by_sql_is_that_of_the_next_queries_and_the_tree_still_counts_them() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);

    run::batches(&session, "SET datafusion.runtime.memory_limit = '512K'")
        .await
        .unwrap();
    let stream = run::stream(run::sql(&session, JOIN).await.unwrap())
        .await
        .unwrap();
    assert_eq!(memory.queries()[0].limit, Some(512 * KIB));
    drop(stream);
    let error = run::batches(&session, JOIN).await.unwrap_err();
    assert!(
        refused(&error).contains("HashJoinInput of query `query#"),
        "{error}"
    );

    run::batches(&session, "SET datafusion.runtime.memory_limit = '100G'")
        .await
        .unwrap();
    let batches = run::batches(&session, JOIN).await.unwrap();
    assert_eq!(count(&batches), 300_000);
    assert!(root.peak_memory_allocation() > MIB, "the tree counted it");
    settled(&memory, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_print_as_they_do_without_the_node_at_their_root() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);
    let plain = SessionContext::new_with_config(config());
    for sql in [
        SORT,
        JOIN,
        "SELECT 1",
        "SELECT value FROM generate_series(1, 9) LIMIT 3",
    ] {
        let explain = format!("EXPLAIN {sql}");
        assert_eq!(rows(&session, &explain).await, rows(&plain, &explain).await);
    }
    let analyzed = rows(&session, &format!("EXPLAIN ANALYZE {SORT}")).await;
    assert!(analyzed.contains("SortExec"), "{analyzed}");
    assert_eq!(
        rows(&session, "SELECT sum(value) FROM generate_series(1, 1000)").await,
        rows(&plain, "SELECT sum(value) FROM generate_series(1, 1000)").await,
    );
    settled(&memory, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_write_tables_and_plans_that_recurse_work() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);
    rows(
        &session,
        "CREATE TABLE t AS SELECT value AS a FROM generate_series(1, 1000)",
    )
    .await;
    rows(&session, "INSERT INTO t SELECT a + 1000 FROM t").await;
    let sum = rows(&session, "SELECT sum(a) FROM t").await;
    assert!(sum.contains("2001000"), "{sum}");
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT sum(i) FROM n";
    let sum = rows(&session, sql).await;
    assert!(sum.contains("5050"), "{sum}");
    settled(&memory, &root).await;
}

#[test]
fn what_runs_beside_the_queries_is_counted_too() {
    let root = RootAllocator::new(1000);
    let memory = DataFusionMemory::new(&root);
    let state = memory.configure(SessionStateBuilder::new()).build();
    let pool = Arc::clone(&state.runtime_env().memory_pool);
    let (one, two) = (
        MemoryConsumer::new("Load[0]").register(&pool),
        MemoryConsumer::new("Load[1]").register(&pool),
    );
    one.try_grow(600).unwrap();
    assert!(two.try_grow(401).is_err());
    assert_eq!(root.child_allocators()[0].name(), "Load");
    drop(one);
    assert_eq!(
        root.child_allocators().len(),
        1,
        "the other partition is alive"
    );
    drop(two);
    balanced(&root);
}

#[tokio::test]
async fn a_limit_that_is_set_by_sql_is_refused_above_what_is_allowed() {
    let root = RootAllocator::new(256 * MIB);
    for (query_limit, allowed, set, runs_with) in [
        (8 * MIB, None, "9M", None),
        (8 * MIB, None, "4M", Some(4 * MIB)),
        (8 * MIB, Some(16 * MIB), "9M", Some(9 * MIB)),
        (8 * MIB, Some(16 * MIB), "17M", None),
        (usize::MAX, None, "100G", Some(100 << 30)),
        (usize::MAX, Some(MIB), "2M", None),
    ] {
        let mut builder = DataFusionMemory::builder(&root).query_limit(query_limit);
        if let Some(allowed) = allowed {
            builder = builder.allow_set(allowed);
        }
        let memory = builder.build();
        let session = memory.session(config()).unwrap();
        let sql = format!("SET datafusion.runtime.memory_limit = '{set}'");
        // The statement runs under the limit that it has set, so that it fails itself.
        let answer = run::collect(run::sql(&session, &sql).await.unwrap()).await;
        assert_eq!(answer.is_ok(), runs_with.is_some(), "{set}");
        let frame = run::sql(&session, "SELECT 1").await.unwrap();
        match (run::stream(frame).await, runs_with) {
            (Ok(stream), Some(limit)) => {
                assert_eq!(memory.queries()[0].limit, Some(limit), "{set}");
                drop(stream);
            }
            (Err(error), None) => {
                let text = error.to_string();
                assert!(text.contains("datafusion.runtime.memory_limit"), "{text}");
                assert!(text.contains("RESET"), "{text}");
            }
            (ran, _) => panic!("{set} with {query_limit} and {allowed:?}: {:?}", ran.err()),
        }
        // What is reset is the limit of queries again.
        let reset = run::batches(&session, "RESET datafusion.runtime.memory_limit").await;
        reset.unwrap();
        let frame = run::sql(&session, "SELECT 1").await.unwrap();
        let stream = run::stream(frame).await.unwrap();
        let limit = Some(query_limit).filter(|&limit| limit < usize::MAX);
        assert_eq!(memory.queries()[0].limit, limit);
        drop(stream);
        settled(&memory, &root).await;
    }
}

/// On one thread, the stream of the first partition ends before the second one is executed.
#[tokio::test]
async fn partitions_that_are_executed_late_belong_to_the_same_query() {
    use datafusion::datasource::MemTable;
    let root = RootAllocator::new(256 * MIB);
    let memory = DataFusionMemory::new(&root);
    let session = memory.session(config()).unwrap();
    let values = |from: i64| {
        let column = Arc::new(Int64Array::from(vec![from, from + 1])) as ArrayRef;
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    };
    let partitions = vec![vec![values(1)], vec![values(3)], vec![values(5)]];
    let table = MemTable::try_new(values(0).schema(), partitions).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let frame = run::sql(&session, "SELECT a FROM t").await.unwrap();
    let batches = run::collect(frame.clone()).await.unwrap();
    assert_eq!(batches.len(), 3);

    // The same for those that are executed one after another.
    let plan = run::plan(&frame).await.unwrap();
    let context = Arc::new(frame.task_ctx());
    for partition in 0..3 {
        let stream = plan.execute(partition, Arc::clone(&context)).unwrap();
        assert_eq!(memory.queries().len(), 1);
        assert_eq!(memory.queries()[0].name, "query#2");
        let batches = futures::TryStreamExt::try_collect::<Vec<_>>(stream).await;
        assert_eq!(batches.unwrap().len(), 1);
    }
    settled(&memory, &root).await;
}

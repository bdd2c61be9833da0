//! Queries that are planned again once they were refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_memory_datafusion::{DataFusionMemory, OnRefusal, QueryMemory, RootAllocator};
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use engine_tests::run;
use futures::{StreamExt, TryStreamExt};

use crate::support::{MIB, config, count, refused, settled};

/// Joins 900,000 rows that are not in the order of their keys.
const JOIN: &str = "SELECT count(*) FROM \
     (SELECT value * 7919 % 1000003 AS k FROM generate_series(1, 900000)) a \
     JOIN (SELECT value * 7919 % 1000003 AS k FROM generate_series(1, 900000)) b ON a.k = b.k";

/// Less than the hash table of the join takes, and enough for sorts that spill.
const LIMIT: usize = 14 * MIB;

struct Server {
    root: RootAllocator,
    memory: DataFusionMemory,
    session: SessionContext,
    query: QueryMemory,
}

impl Server {
    fn new(on_refusal: OnRefusal) -> Self {
        let root = RootAllocator::unlimited();
        let memory = DataFusionMemory::builder(&root)
            .on_refusal(on_refusal)
            .build();
        Self {
            session: memory.session(config()).unwrap(),
            query: memory.query("join").limit(LIMIT).try_admit().unwrap(),
            memory,
            root,
        }
    }

    async fn ends(self) {
        let report = self.query.finish().await.unwrap();
        assert_eq!((report.declared, report.held), (0, 0), "{report}");
        drop(self.query);
        settled(&self.memory, &self.root).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_join_that_is_refused_becomes_a_sort_merge_join_that_spills() {
    for streams in [false, true] {
        let server = Server::new(OnRefusal::PlanAgain);
        let frame = run::sql(&server.session, JOIN).await.unwrap();

        let batches = if streams {
            let stream = server.query.execute_stream(frame).await.unwrap();
            stream.try_collect().await.unwrap()
        } else {
            server.query.collect(frame).await.unwrap()
        };

        assert_eq!(count(&batches), 900_000);
        drop(batches);
        let report = server.query.report();
        let has = |kind: &str| {
            let mut operators = report.operators.iter();
            operators.any(|operator| operator.name.starts_with(kind))
        };
        assert!(has("HashJoinExec") && has("SortMergeJoinExec"), "{report}");
        assert!(report.spilled_bytes > 0 && report.refused > 0, "{report}");
        assert!(report.to_string().contains("planned again"), "{report}");
        server.ends().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_option_it_fails() {
    let server = Server::new(OnRefusal::Fail);
    let frame = run::sql(&server.session, JOIN).await.unwrap();

    let error = server.query.collect(frame).await.unwrap_err();

    assert!(refused(&error).contains("HashJoinInput"), "{error}");
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_returned_a_batch_or_writes_does_not_begin_anew() {
    let server = Server::new(OnRefusal::PlanAgain);
    // The join begins once the first batch is there.
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let waits = move |values: &[ColumnarValue]| {
        while !gate.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(values[0].clone())
    };
    let types = (vec![DataType::Int64], DataType::Int64);
    let gate = create_udf(
        "gate",
        types.0,
        types.1,
        Volatility::Volatile,
        Arc::new(waits),
    );
    server.session.register_udf(gate);
    let sql = format!(
        "SELECT 1 UNION ALL {}",
        JOIN.replace("a.k =", "gate(a.k) =")
    );
    let frame = run::sql(&server.session, &sql).await.unwrap();

    let mut stream = server.query.execute_stream(frame).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(count(&[first]), 1);
    open.store(true, Ordering::Release);
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    refused(&error);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.csv");
    for what in ["", "EXPLAIN ANALYZE "] {
        let sql = format!("{what}COPY ({JOIN}) TO '{}'", file.display());
        let frame = run::sql(&server.session, &sql).await.unwrap();
        refused(&server.query.collect(frame).await.unwrap_err());
    }

    let report = server.query.report();
    let operators = report.operators.iter();
    let mut names = operators.map(|operator| operator.name.as_str());
    assert!(
        !names.any(|name| name.starts_with("SortMergeJoin")),
        "{report}"
    );
    server.ends().await;
}

//! With the program's heap attributed, what operators allocate for themselves counts as held.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::alloc::System;
use std::sync::{Arc, Mutex};

use arrow_memory_datafusion::{Charge, DataFusionMemory, QueryReport, RootAllocator};
use arrow_memory_global::Attributed;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Volatility, create_udf};
use datafusion::prelude::SessionConfig;
use engine_tests::run;

#[global_allocator]
static GLOBAL: Attributed<System> = Attributed::new(System);

const MIB: usize = 1 << 20;

/// Has a hash table of 300,000 groups, of which only the operator itself knows how large it is.
const GROUPS: &str =
    "SELECT count(*) FROM (SELECT DISTINCT value * 7 AS k FROM generate_series(1, 300000))";

async fn grouped(charge: Charge, limit: usize) -> (Result<usize, DataFusionError>, QueryReport) {
    let root = RootAllocator::new(1 << 30);
    let memory = DataFusionMemory::builder(&root).charge(charge).build();
    let session = memory
        .session(SessionConfig::new().with_target_partitions(1))
        .unwrap();
    let query = memory.query("q").limit(limit).admit().await.unwrap();
    let frame = run::sql(&session, GROUPS).await.unwrap();
    let collected = query.collect(frame).await;
    let rows = collected.map(|batches| batches.iter().map(|batch| batch.num_rows()).sum());
    let report = query.finish().await.unwrap();
    drop((query, session, memory));
    // What caches keep is the root's now; nothing is a query's.
    assert_eq!(
        root.snapshot()
            .entries
            .iter()
            .filter(|one| &*one.allocator.name == "q")
            .count(),
        0
    );
    root.verify().unwrap();
    (rows, report)
}

#[tokio::test]
async fn a_hash_table_counts_as_held() {
    if !arrow_memory_global::is_installed() {
        return; // not on this platform
    }
    let aggregate = |report: &QueryReport| {
        let mut operators = report.operators.iter();
        let found = operators.find(|one| one.name.starts_with("AggregateExec") && one.peak > MIB);
        found.unwrap_or_else(|| panic!("{report}")).clone()
    };
    let (rows, report) = grouped(Charge::Larger, usize::MAX).await;
    assert_eq!(rows.unwrap(), 1);
    let larger = aggregate(&report);
    assert!(larger.held_peak > 4 * MIB, "{report}");
    let (_, report) = grouped(Charge::Declared, usize::MAX).await;
    assert_eq!(aggregate(&report).held_peak, 0);
}

/// What operators allocate may outlive the query, in a cache. It is not what keeps a query from finishing.
#[tokio::test]
async fn a_query_whose_operators_left_something_in_a_cache_finishes() {
    static CACHE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

    let root = RootAllocator::new(1 << 30);
    let memory = DataFusionMemory::new(&root);
    let config = SessionConfig::new().with_target_partitions(2);
    let session = memory.session(config).unwrap();
    session.register_udf(create_udf(
        "remembered",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|arguments| {
            CACHE.lock().unwrap().push(vec![7; 100_000].into());
            Ok(arguments[0].clone())
        }),
    ));
    let query = memory.query("q").admit().await.unwrap();
    let sql = "SELECT count(*) FROM generate_series(1, 20000) a JOIN generate_series(1, 20000) b \
         ON remembered(a.value) = b.value";
    let frame = run::sql(&session, sql).await.unwrap();

    drop(query.collect(frame).await.unwrap());

    query.finish().await.unwrap();
    assert!(!CACHE.lock().unwrap().is_empty());
    CACHE.lock().unwrap().clear();
}

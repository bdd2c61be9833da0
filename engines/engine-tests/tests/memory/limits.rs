//! Queries with limits: those that spill, those that are refused, and their neighbours.

use arrow_memory_datafusion::{Charge, DataFusionMemory, RootAllocator};
use engine_tests::run;

use crate::support::{
    JOIN, KIB, MIB, SORT, assert_sorted, balanced, config, count, refused, session,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_that_does_not_fit_its_limit_spills_and_is_right() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("sort").limit(8 * MIB).admit().await.unwrap();

    let batches = query
        .collect(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();

    assert_sorted(&batches);
    let report = query.finish().await.unwrap();
    assert!(report.spilled_bytes > 8 * MIB, "{report}");
    assert!(report.refused > 0 && report.peak <= 8 * MIB, "{report}");
    assert!(
        report
            .operators
            .iter()
            .any(|node| node.name == "SortExec#1" && node.can_spill),
        "{report}"
    );
    assert_eq!((report.declared, report.open_streams), (0, 0), "{report}");
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_that_fits_does_not_spill() {
    let root = RootAllocator::new(256 * MIB);
    let (memory, session) = session(&root);
    let query = memory.query("sort").admit().await.unwrap();

    let batches = query
        .collect(run::sql(&session, SORT).await.unwrap())
        .await
        .unwrap();

    assert_sorted(&batches);
    let report = query.finish().await.unwrap();
    assert_eq!(
        (report.spilled_bytes, report.refused, report.limit),
        (0, 0, None),
        "{report}"
    );
    assert!(report.peak > 8 * MIB, "{report}");
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_does_not_fit_its_limit_is_refused_and_leaves_nothing() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("join").limit(512 * KIB).admit().await.unwrap();

    let error = query
        .collect(run::sql(&session, JOIN).await.unwrap())
        .await
        .unwrap_err();

    let text = refused(&error);
    assert!(
        text.contains("HashJoinInput of query `join` was refused"),
        "{text}"
    );
    let report = query.finish().await.unwrap();
    assert!(report.refused > 0 && report.peak <= 512 * KIB, "{report}");
    assert_eq!(report.declared, 0, "{report}");
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_raised_lets_the_same_query_run() {
    let root = RootAllocator::unlimited();
    let (memory, session) = session(&root);
    let query = memory.query("join").limit(512 * KIB).admit().await.unwrap();
    assert!(
        query
            .collect(run::sql(&session, JOIN).await.unwrap())
            .await
            .is_err()
    );

    query.set_limit(64 * MIB);
    let batches = query
        .collect(run::sql(&session, JOIN).await.unwrap())
        .await
        .unwrap();

    assert_eq!(count(&batches), 300_000);
    query.finish().await.unwrap();
    drop(query);
    balanced(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_queries_with_limits_do_not_disturb_each_other() {
    let root = RootAllocator::new(128 * MIB);
    let memory = DataFusionMemory::builder(&root)
        .charge(Charge::Declared)
        .query_limit(512 * KIB)
        .build();
    let session = memory.session(config()).unwrap();
    let (small, large) = (memory.query("small"), memory.query("large").limit(64 * MIB));
    let (small, large) = (small.admit().await.unwrap(), large.admit().await.unwrap());

    let (refusal, sorted) = tokio::join!(
        async { small.collect(run::sql(&session, JOIN).await.unwrap()).await },
        async { large.collect(run::sql(&session, SORT).await.unwrap()).await },
    );

    let text = refusal
        .map_err(|error| refused(&error).to_owned())
        .unwrap_err();
    assert!(
        text.contains("query `small`") && !text.contains("`large`"),
        "{text}"
    );
    assert_sorted(&sorted.unwrap());
    let (small_report, large_report) =
        (small.finish().await.unwrap(), large.finish().await.unwrap());
    assert!(small_report.peak <= 512 * KIB, "{small_report}");
    assert_eq!(
        (large_report.refused, large_report.spilled_bytes),
        (0, 0),
        "{large_report}"
    );
    drop((small, large));
    balanced(&root);
}

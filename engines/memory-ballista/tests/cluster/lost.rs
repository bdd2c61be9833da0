//! Executors that are lost, and jobs that are cancelled.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use arrow_memory_ballista::ExecutorTree;
use arrow_memory_ballista::local::LocalCluster;
use engine_tests::tpch::Query;

use crate::support::{Outcome, TIME, outcome, query, run, start};

/// Waits until something is true of the executors' trees, and returns them.
async fn until(
    cluster: &LocalCluster,
    mut is_so: impl FnMut(&[ExecutorTree]) -> bool,
) -> Vec<ExecutorTree> {
    let begun = Instant::now();
    loop {
        let all = cluster.read().await.expect("the scheduler answers");
        let trees = all.into_iter().map(|one| one.tree);
        let trees: Vec<_> = trees
            .collect::<Result<_, _>>()
            .expect("the executors answer");
        if is_so(&trees) {
            return trees;
        }
        assert!(begun.elapsed() < TIME, "{trees:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A job that is cancelled ends, and so do its tasks, those that run and those that wait: nothing stays charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_leaves_nothing() {
    let cluster = start(
        &["--cores=2", "--budget=64MiB", "--task-minimum=40MiB"],
        &[],
    )
    .await;
    let scheduler = cluster.address();
    let endless = Query {
        number: 0,
        // Its join gives batches all the time. A nested-loop join would compute for minutes without looking up.
        sql: "SELECT count(*) FROM lineitem a JOIN lineitem b ON a.l_linestatus = b.l_linestatus"
            .to_owned(),
        answer: Vec::new(),
    };
    let jobs = [0, 1, 2].map(|_| {
        let (scheduler, endless) = (scheduler.clone(), endless.clone());
        let hash = [("datafusion.optimizer.prefer_hash_join", "true")];
        tokio::spawn(async move { outcome(&scheduler, &endless, &hash).await })
    });
    let runs = |trees: &[ExecutorTree]| trees.iter().any(|tree| tree.status.running > 0);
    until(&cluster, runs).await;
    let scheduler = format!("--scheduler={scheduler}");
    let mut ended = HashSet::new();
    until(&cluster, |trees| {
        // Ballista forgets a task that is cancelled between its arrival and its start. So not before it has started.
        let jobs = trees.iter().flat_map(|tree| &tree.jobs);
        for job in jobs.filter(|job| job.running + job.waiting > 0) {
            let (right, text) = run(&["cancel", &job.job, &scheduler]);
            assert!(right, "{text}");
            ended.insert(job.job.clone());
        }
        let idle = |tree: &ExecutorTree| tree.status.running + tree.status.waiting == 0;
        ended.len() == 3
            && trees
                .iter()
                .all(|tree| idle(tree) && tree.status.allocated == 0)
    })
    .await;
    for job in jobs {
        let outcome = job.await.unwrap();
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
    // The cores of the cancelled tasks are free again.
    assert_eq!(
        outcome(&cluster.address(), query(6), &[]).await,
        Outcome::Right
    );
}

/// Waits until that executor has results of a job, and runs another task of it.
async fn has_results(cluster: &LocalCluster, executor: &str) {
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        let all = cluster.read().await.expect("the scheduler answers");
        let one = all.iter().find(|one| one.told.status.executor == executor);
        let jobs = one
            .and_then(|one| one.tree.as_ref().ok())
            .map(|tree| &tree.jobs);
        if jobs.is_some_and(|jobs| jobs.iter().any(|job| job.ended > 0 && job.running > 0)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{executor} has no results");
}

/// An executor is killed while it runs a task: that task, and the results that went with the process, are made anew by the
/// other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_an_executor_that_is_killed() {
    let executor = ["--budget=512MiB", "--heartbeat=1"];
    let mut cluster = start(&executor, &["--executor-timeout=5"]).await;
    let scheduler = cluster.address();
    let job = tokio::spawn(async move {
        let settings = [
            ("datafusion.execution.target_partitions", "4"),
            ("ballista.planner.adaptive.enabled", "false"),
        ];
        outcome(&scheduler, query(9), &settings).await
    });
    has_results(&cluster, "executor-1").await;
    let killed = cluster.executors()[0].kill().unwrap();
    assert!(!killed.success());
    assert_eq!(job.await.unwrap(), Outcome::Right);
    // And so does the next one.
    assert_eq!(
        outcome(&cluster.address(), query(3), &[]).await,
        Outcome::Right
    );
}

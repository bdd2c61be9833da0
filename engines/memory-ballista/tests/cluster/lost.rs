//! Executors that are lost.

use std::time::{Duration, Instant};

use arrow_memory_ballista::local::LocalCluster;

use crate::support::{Outcome, TIME, outcome, query, start};

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
        let settings = [("datafusion.execution.target_partitions", "4")];
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

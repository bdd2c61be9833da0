//! Tasks that share an executor's budget.

use futures::future::join_all;

use crate::support::{Outcome, outcome, query, run, start};

/// Jobs of which one task fits on each executor at a time: they wait, and all of them are right.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_wait_for_their_minimum_instead_of_failing() {
    let executor = ["--cores=4", "--budget=64MiB", "--task-minimum=40MiB"];
    let cluster = start(&executor, &[]).await;
    let numbers = [1, 3, 6, 12];
    let scheduler = cluster.address();
    let asked = numbers.map(|number| outcome(&scheduler, query(number), &[]));
    for (number, outcome) in numbers.iter().zip(join_all(asked).await) {
        assert_eq!(outcome, Outcome::Right, "q{number}");
    }
    let all = cluster.read().await.unwrap();
    let (mut waited, mut passed_over, mut readers, mut peaks) = (0, 0, 0, Vec::new());
    for executor in &all {
        let tree = executor.tree.as_ref().unwrap();
        waited += tree.status.waited;
        passed_over += executor.told.placed.left_out;
        peaks.push(tree.status.peak);
        assert_eq!(tree.status.allocated, 0, "{tree:?}");
        assert_eq!((tree.status.running, tree.status.waiting), (0, 0));
        for job in &tree.jobs {
            let is_writer =
                |name: &str| name.starts_with("ShuffleWriter") || name.starts_with("SortShuffle");
            let mut operators = job.operators.iter();
            assert!(
                operators.any(|operator| is_writer(&operator.operator)),
                "{job:?}"
            );
            let mut operators = job.operators.iter();
            readers += usize::from(operators.any(|one| one.operator.contains("ShuffleReader")));
        }
    }
    assert!(readers > 0, "no shuffle reader has books: {all:?}");
    assert!(waited + passed_over > 0, "{all:?}");
    assert!(
        peaks
            .iter()
            .all(|peak| (40 << 20..=70 << 20).contains(peak)),
        "{peaks:?}"
    );
    let names: Vec<_> = all
        .iter()
        .filter_map(|one| one.tree.as_ref().ok())
        .collect();
    assert!(
        names
            .iter()
            .any(|tree| tree.jobs.iter().any(|job| job.name == "q3"))
    );

    let status = format!("--scheduler-status={}", cluster.status_address());
    let (right, text) = run(&["status", &status]);
    assert!(
        right && text.contains("cluster: 2 executors,") && text.contains("`q3`"),
        "{text}"
    );
    let (right, json) = run(&["status", &status, "--json"]);
    assert!(right && json.starts_with('['), "{json}");
    for (_, ended) in cluster.end().unwrap() {
        assert!(ended.success());
    }
}

/// A session's limit is refused where the executor's budget would do, and the refusal names the job's level.
#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_limit_holds_for_its_jobs_only() {
    let cluster = start(&["--budget=1GiB"], &[]).await;
    let settings = [
        ("arrow_memory.job_limit", "1048576"),
        ("arrow_memory.task_minimum", "0"),
        ("datafusion.optimizer.prefer_hash_join", "true"),
    ];
    let scheduler = cluster.address();
    let (limited, free) = tokio::join!(
        outcome(&scheduler, query(18), &settings),
        outcome(&scheduler, query(6), &[])
    );
    assert_eq!(free, Outcome::Right);
    let Outcome::Failed(text) = limited else {
        panic!("{limited:?}");
    };
    assert!(text.contains("1.0 MiB") && text.contains("task "), "{text}");
}

/// A refusal is handed back to the scheduler that many times, and then fails the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_task_is_tried_elsewhere_before_the_job_fails() {
    let cluster = start(&["--budget=1GiB"], &["--task-failures=4"]).await;
    let settings = [
        ("arrow_memory.job_limit", "262144"),
        ("arrow_memory.task_minimum", "0"),
        ("arrow_memory.retries", "2"),
    ];
    let refused = outcome(&cluster.address(), query(3), &settings).await;
    let Outcome::Failed(text) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        text.contains("262144") || text.contains("256.0 KiB"),
        "{text}"
    );
    // The last numbers may be a second old.
    tokio::time::sleep(arrow_memory_ballista::EACH * 2).await;
    let all = cluster.read().await.unwrap();
    let refused: Vec<_> = all.iter().map(|one| one.told.status.refused).collect();
    let handed_back: Vec<_> = all.iter().map(|one| one.told.status.handed_back).collect();
    assert!(
        refused.iter().all(|&refused| refused > 0),
        "tried on one only: {refused:?}"
    );
    assert!(handed_back.iter().sum::<u64>() >= 2, "{handed_back:?}");
    assert_eq!(
        outcome(&cluster.address(), query(6), &[]).await,
        Outcome::Right
    );
}

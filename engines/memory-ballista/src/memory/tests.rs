use arrow_memory_datafusion::RootAllocator;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use futures::FutureExt;

use super::*;

const MIB: usize = 1 << 20;

fn options(task_minimum: usize) -> JobOptions {
    JobOptions {
        task_minimum,
        ..JobOptions::default()
    }
}

fn memory(limit: usize) -> (RootAllocator, BallistaMemory) {
    let root = RootAllocator::new(limit);
    let memory = BallistaMemory::builder(&root).build();
    (root, memory)
}

#[tokio::test]
async fn a_task_waits_for_its_minimum_and_borrows_beyond_it() {
    let (root, memory) = memory(64 * MIB);
    let job = memory.job("j", "", options(40 * MIB)).unwrap();
    let first = job
        .admit((1, 0), &options(40 * MIB))
        .await
        .unwrap()
        .unwrap();
    let context = Arc::new(TaskContext::default());
    let own = first.context("Writer#0", &context);
    let reservation = MemoryConsumer::new("Writer[0]").register(own.memory_pool());
    reservation.try_grow(60 * MIB).unwrap();

    let settings = options(40 * MIB);
    let mut second = Box::pin(job.admit((1, 1), &settings));
    assert!((&mut second).now_or_never().is_none());
    let status = memory.status();
    assert_eq!((status.running, status.waiting, status.waited), (1, 1, 1));
    let operators = memory.tree().jobs[0].operators.clone();
    assert_eq!(operators[0].operator, "Writer#0");
    assert_eq!(operators[0].charged, 60 * MIB);

    drop(reservation);
    drop(own);
    drop(first);
    drop(second.await.unwrap().unwrap());
    let status = memory.status();
    assert_eq!((status.running, status.waiting, status.waited), (0, 0, 1));
    assert_eq!(root.allocated_memory(), 0);
    let job = &memory.tree().jobs[0];
    assert_eq!((job.ended, job.operators[0].peak), (2, 60 * MIB));
}

#[tokio::test]
async fn a_task_that_is_cancelled_while_it_waits_holds_nothing() {
    let (root, memory) = memory(64 * MIB);
    let job = memory.job("j", "", options(0)).unwrap();
    let first = job
        .admit((1, 0), &options(40 * MIB))
        .await
        .unwrap()
        .unwrap();
    let settings = options(40 * MIB);
    let mut second = Box::pin(job.admit((1, 1), &settings));
    assert!((&mut second).now_or_never().is_none());
    drop(second);
    assert_eq!(memory.status().waiting, 0);
    drop(first);
    assert_eq!(root.allocated_memory(), 0);
    // Its limit is too low for this one, now and later.
    job.set_limit(MIB);
    let error = job
        .admit((1, 2), &options(2 * MIB))
        .await
        .unwrap()
        .err()
        .unwrap();
    assert!(
        matches!(error, arrow_memory_datafusion::AdmitError::TooLarge { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline() {
    let (_root, memory) = memory(64 * MIB);
    let job = memory.job("j", "", options(0)).unwrap();
    let _first = job
        .admit((1, 0), &options(64 * MIB))
        .await
        .unwrap()
        .unwrap();
    let settings = JobOptions {
        task_wait: Some(Duration::from_millis(20)),
        ..options(MIB)
    };
    let error = job.admit((1, 1), &settings).await.unwrap().err().unwrap();
    assert!(
        matches!(error, arrow_memory_datafusion::AdmitError::Timeout { .. }),
        "{error}"
    );
    assert!(memory.tree().jobs[0].waited_seconds >= 0.02);
}

#[tokio::test]
async fn a_jobs_limit_holds_for_all_its_tasks_and_lasts_between_them() {
    let (_root, memory) = memory(64 * MIB);
    let limited = JobOptions {
        limit: Some(8 * MIB),
        ..JobOptions::default()
    };
    for stage in 1..3 {
        let job = memory.job("j", "q", limited).unwrap();
        let task = job.admit((stage, 0), &limited).await.unwrap().unwrap();
        let own = task.context("Writer#0", &Arc::new(TaskContext::default()));
        let reservation = MemoryConsumer::new("Writer[0]").register(own.memory_pool());
        reservation.try_grow(7 * MIB).unwrap();
        let refused = reservation.try_grow(2 * MIB).unwrap_err().to_string();
        assert!(
            refused.contains("job=j") || refused.contains('j'),
            "{refused}"
        );
    }
    let jobs = memory.tree().jobs;
    assert_eq!((jobs.len(), jobs[0].limit), (1, Some(8 * MIB)));
    assert_eq!((&*jobs[0].name, jobs[0].ended), ("q", 2));
    assert_eq!(jobs[0].operators.len(), 2);
}

#[tokio::test]
async fn a_refused_task_is_handed_back_that_many_times() {
    let (_root, memory) = memory(MIB);
    let job = memory.job("j", "", options(0)).unwrap();
    let handed_back: Vec<_> = (0..4).map(|attempt| job.refused(attempt, 2)).collect();
    assert_eq!(handed_back, [true, true, false, false]);
    assert!(!job.refused(0, 0));
    let status = memory.status();
    assert_eq!((status.refused, status.handed_back), (5, 2));
}

#[tokio::test]
async fn a_wait_for_the_jobs_own_limit_is_not_the_executors() {
    let (_root, memory) = memory(64 * MIB);
    let limited = JobOptions {
        limit: Some(8 * MIB),
        ..options(8 * MIB)
    };
    let job = memory.job("j", "", limited).unwrap();
    let first = job.admit((1, 0), &limited).await.unwrap().unwrap();
    let mut second = Box::pin(job.admit((1, 1), &limited));
    assert!((&mut second).now_or_never().is_none());
    assert_eq!(memory.status().waiting, 0);
    assert_eq!(memory.tree().jobs[0].waiting, 1);
    drop(first);
    drop(second.await.unwrap().unwrap());
    assert_eq!(memory.tree().jobs[0].waiting, 0);
}

#[tokio::test]
async fn tasks_that_wait_are_handed_back_when_the_executor_stops() {
    let (root, memory) = memory(64 * MIB);
    let job = memory.job("j", "", options(0)).unwrap();
    let first = job
        .admit((1, 0), &options(64 * MIB))
        .await
        .unwrap()
        .unwrap();
    let settings = options(MIB);
    let mut second = Box::pin(job.admit((1, 1), &settings));
    assert!((&mut second).now_or_never().is_none());
    memory.close_admission();
    assert!(second.await.is_none());
    assert!(job.admit((1, 2), &settings).await.is_none());
    assert_eq!(memory.status().waiting, 0);
    drop(first);
    assert_eq!(root.allocated_memory(), 0);
}

#[tokio::test]
async fn jobs_without_tasks_are_not_kept_without_number() {
    let (root, memory) = memory(MIB);
    let kept = memory.job("kept", "", options(0)).unwrap();
    for number in 0..3 * MANY {
        memory
            .job(&format!("job {number}"), "", options(0))
            .unwrap();
    }
    let jobs = memory.tree().jobs;
    assert!(jobs.len() <= MANY + 2, "{}", jobs.len());
    assert!(jobs.iter().any(|job| job.job == "kept"));
    assert_eq!(root.child_allocators().len(), jobs.len());
    drop(kept);
}

#[tokio::test]
async fn a_tree_of_100_000_operators_is_cut() {
    let (_root, memory) = memory(usize::MAX);
    let context = Arc::new(TaskContext::default());
    let mut alive = Vec::new();
    let mut tasks = Vec::new();
    for number in 0..200 {
        let job = memory
            .job(&format!("job {number}"), "", options(0))
            .unwrap();
        let task = job.admit((1, 0), &options(0)).await.unwrap().unwrap();
        for operator in 0..500 {
            let own = task.context(&format!("Operator#{operator}"), &context);
            let reservation = MemoryConsumer::new("x").register(own.memory_pool());
            reservation.grow(1000 + number);
            alive.push((own, reservation));
        }
        tasks.push(task);
    }
    let begun = std::time::Instant::now();
    let tree = memory.tree();
    let text = serde_json::to_string(&tree).unwrap();
    let took = begun.elapsed();
    assert!(text.len() < 4 * MIB, "{}", text.len());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let listed: usize = tree.jobs.iter().map(|job| 1 + job.operators.len()).sum();
    assert_eq!(listed, LISTED);
    let charged = tree.jobs.iter().flat_map(|job| &job.operators);
    let charged: usize = charged.map(|operator| operator.charged).sum();
    assert_eq!(charged + tree.omitted.charged, tree.status.allocated);
    let again: ExecutorTree = serde_json::from_str(&text).unwrap();
    assert_eq!(again, tree);
}

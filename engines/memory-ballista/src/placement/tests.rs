use ballista_core::serde::scheduler::ExecutorSpecification;
use ballista_scheduler::cluster::memory::InMemoryClusterState;

use super::*;

const MIB: usize = 1 << 20;

async fn placement(executors: &[&str]) -> Placement {
    let placement = Placement::over(Arc::new(InMemoryClusterState::default()));
    for executor in executors {
        register(&placement, executor).await;
    }
    placement
}

async fn register(placement: &Placement, executor: &str) {
    let metadata = ExecutorMetadata {
        id: executor.to_owned(),
        host: "localhost".to_owned(),
        port: 1,
        grpc_port: 2,
        specification: ExecutorSpecification::default(),
        os_info: Default::default(),
    };
    let data = ExecutorData {
        executor_id: executor.to_owned(),
        total_vcores: 4,
        available_vcores: 4,
    };
    let registered = placement.register_executor(metadata, data).await;
    registered.expect("it is new");
}

fn status(executor: &str, allocated: usize) -> ExecutorStatus {
    ExecutorStatus {
        running: 1,
        address: "elsewhere:7".to_owned(),
        executor: executor.to_owned(),
        limit: Some(64 * MIB),
        allocated,
        task_minimum: 16 * MIB,
        ..ExecutorStatus::default()
    }
}

/// Notes what a choice has bound.
fn bound(placement: &Placement, executor: &str, tasks: usize) {
    let mut all = placement.known();
    let known = all.get_mut(executor).expect("it is registered");
    known.cores += u32::try_from(tasks).unwrap();
    known.given += tasks;
}

fn chosen(placement: &Placement, executors: &[&str]) -> Vec<String> {
    let all = executors.iter().map(|one| (*one).to_owned()).collect();
    let mut chosen: Vec<_> = placement.with_room(all).into_iter().collect();
    chosen.sort();
    chosen
}

#[tokio::test]
async fn executors_without_room_are_left_out_until_they_have_some() {
    let placement = placement(&["a", "b", "silent"]).await;
    let all = ["a", "b", "silent"];
    assert_eq!(chosen(&placement, &all), all);
    for executor in ["a", "b"] {
        assert!(placement.told(status(executor, 0)).await);
        bound(&placement, executor, 1);
    }
    assert_eq!(chosen(&placement, &all), all);
    // Its minimum does not fit any more.
    assert!(placement.told(status("a", 49 * MIB)).await);
    assert_eq!(chosen(&placement, &all), ["b", "silent"]);
    assert_eq!(placement.take_revived(), None);
    assert!(placement.told(status("a", 48 * MIB)).await);
    assert_eq!(placement.take_revived().as_deref(), Some("a"));
    assert_eq!(placement.take_revived(), None);
    assert_eq!(chosen(&placement, &all), all);
    let told = placement.executors();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].placed.left_out, 1);
    assert_eq!(
        told[0].status.address, "localhost:7",
        "the host is the registered one"
    );
}

#[tokio::test]
async fn tasks_that_were_given_since_the_last_numbers_count() {
    let placement = placement(&["a"]).await;
    assert!(placement.told(status("a", 0)).await);
    for given in 0..4 {
        assert_eq!(chosen(&placement, &["a"]), ["a"], "{given}");
        bound(&placement, "a", 1);
    }
    assert!(chosen(&placement, &["a"]).is_empty());
    // Now they are in its numbers.
    assert!(placement.told(status("a", 32 * MIB)).await);
    assert_eq!(chosen(&placement, &["a"]), ["a"]);
}

#[tokio::test]
async fn one_where_tasks_wait_is_left_out_and_an_idle_one_never_is() {
    let placement = placement(&["a"]).await;
    let mut waits = status("a", 0);
    waits.waiting = 1;
    assert!(placement.told(waits.clone()).await);
    bound(&placement, "a", 2);
    assert!(chosen(&placement, &["a"]).is_empty());
    placement
        .unbind_tasks(vec![("a".to_owned(), 2)])
        .await
        .unwrap();
    assert!(placement.told(waits).await);
    assert_eq!(chosen(&placement, &["a"]), ["a"]);
    // What does not fit there fits nowhere.
    assert!(placement.told(status("a", 64 * MIB)).await);
    assert_eq!(chosen(&placement, &["a"]), ["a"]);
    // Ballista says that a task runs, and the executor knows of none.
    bound(&placement, "a", 1);
    assert!(chosen(&placement, &["a"]).is_empty());
    let mut idle = status("a", 64 * MIB);
    idle.running = 0;
    assert!(placement.told(idle).await);
    assert_eq!(chosen(&placement, &["a"]), ["a"]);
}

#[tokio::test]
async fn one_that_has_handed_a_task_back_is_avoided_for_a_while() {
    let placement = placement(&["a"]).await;
    assert!(placement.told(status("a", 0)).await);
    let mut refused = status("a", 0);
    refused.handed_back = 1;
    assert!(placement.told(refused.clone()).await);
    assert!(chosen(&placement, &["a"]).is_empty());
    tokio::time::sleep(AVOIDED).await;
    assert_eq!(placement.take_revived().as_deref(), Some("a"));
    // The same number is no further refusal.
    assert!(placement.told(refused).await);
    assert_eq!(chosen(&placement, &["a"]), ["a"]);
}

#[tokio::test]
async fn numbers_of_those_who_are_not_registered_are_not_kept() {
    let placement = placement(&["a"]).await;
    assert!(!placement.told(status("b", 0)).await);
    assert!(placement.told(status("a", 0)).await);
    bound(&placement, "a", 1);
    placement.remove_executor("a").await.unwrap();
    assert!(placement.executors().is_empty());
    assert!(!placement.told(status("a", 0)).await);
    // What it did before is forgotten when it comes again.
    register(&placement, "a").await;
    assert_eq!(placement.known()["a"].cores, 0);
}

#[test]
fn cores_of_one_that_runs_nothing_for_long_are_given_back() {
    let mut known = Known {
        cores: 3,
        ..Known::default()
    };
    let begun = Instant::now();
    assert_eq!(known.lost_cores(true, begun), 0);
    assert_eq!(known.lost_cores(true, begun + IDLE / 2), 0);
    // It has run something: the time begins anew.
    assert_eq!(known.lost_cores(false, begun + IDLE), 0);
    assert_eq!(known.lost_cores(true, begun + IDLE), 0);
    assert_eq!(known.lost_cores(true, begun + IDLE * 2), 3);
    assert_eq!(known.lost_cores(true, begun + IDLE * 4), 0);
}

#[tokio::test]
async fn without_jobs_nothing_is_bound() {
    let placement = placement(&["a"]).await;
    let bound = placement
        .bind_schedulable_tasks(TaskDistributionPolicy::RoundRobin, Arc::default(), None)
        .await;
    assert!(bound.unwrap().is_empty());
}

//! DataFusion's sqllogictest files under the tree.

use std::path::PathBuf;
use std::sync::Arc;

use engine_tests::configuration::{trees, unbounded};
use engine_tests::slt::{EXCLUDED, compare, enter, files, needs_data, run, selection};

use crate::alone;

const MIB: usize = 1 << 20;

async fn check(files: Vec<PathBuf>, limits: &[Option<usize>]) {
    enter();
    let count = files.len();
    // Nobody admits these queries: the runner of sqllogictest only knows sessions.
    let configuration = Arc::new(trees().swap_remove(0));
    let mut complaints = Vec::new();
    for &limit in limits {
        let (failed, notes) = compare(files.clone(), Arc::clone(&configuration), limit).await;
        let limit = limit.map_or("no limit".to_owned(), |limit| {
            format!("{} MiB", limit / MIB)
        });
        println!("{count} files, {limit}: {} failures", failed.len());
        notes.iter().for_each(|note| println!("  {note}"));
        complaints.extend(
            failed
                .into_iter()
                .map(|failure| format!("{limit}: {failure}")),
        );
    }
    assert!(
        complaints.is_empty(),
        "{} failures:\n{}",
        complaints.len(),
        complaints.join("\n\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_whose_operators_hold_memory_have_the_same_results_without_a_limit() {
    let _alone = alone().await;

    check(selection(), &[None]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_whose_operators_hold_memory_have_the_same_results_or_refusals_at_16_mib() {
    let _alone = alone().await;

    check(selection(), &[Some(16 * MIB)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `.ci/run engines_full` runs it"]
async fn all_files_have_the_same_results_or_refusals() {
    let _alone = alone().await;

    check(files(), &[None, Some(64 * MIB), Some(16 * MIB)]).await;
}

/// A file in the list that runs, and a record that fails without a reason, would hide what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `.ci/run engines_full` runs it"]
async fn what_is_excluded_fails_in_datafusions_own_pool() {
    let _alone = alone().await;
    enter();
    let of = async |file: PathBuf| {
        let run = tokio::spawn(async move { run(&file, &unbounded().limited(None), false).await });
        // A file whose set-up panics fails.
        run.await.map_or(Some("a panic".to_owned()), |run| {
            let failed = run.unwrap().failed;
            failed.into_values().next()
        })
    };
    let mut dishonest = Vec::new();

    for excluded in EXCLUDED.iter().filter(|excluded| excluded.fails) {
        if of(excluded.path.into()).await.is_none() {
            dishonest.push(format!("{} runs", excluded.path));
        }
    }
    for file in files().into_iter().filter(|file| !needs_data(file)) {
        let name = file.display().to_string();
        dishonest.extend(of(file).await.map(|failure| format!("{name}: {failure}")));
    }

    assert!(dishonest.is_empty(), "{}", dishonest.join("\n\n"));
}

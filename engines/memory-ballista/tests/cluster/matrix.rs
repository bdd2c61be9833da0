//! All queries of TPC-H with Ballista's pools and with the tree, without a limit and at one, with both kinds of joins.

use std::fmt::Write;

use arrow_memory_ballista::local::LocalCluster;

use arrow_memory_ballista::OnRefusal;

use crate::support::{Outcome, QUERIES, judged, start};

/// The cores and the budgets of each executor at which both are compared. Nothing reaches the first budget. With four cores,
/// Ballista's pools are a quarter of the budget for each partition of a task, whether others run or not.
const EXECUTORS: [(&str, &str); 5] = [
    ("1", UNLIMITED),
    ("1", "20MiB"),
    ("1", "12MiB"),
    ("1", "8MiB"),
    ("4", "32MiB"),
];

const UNLIMITED: &str = "64GiB";

/// What runs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Ballista with its own pools.
    Stock,
    /// The tree.
    Tree,
    /// The tree, and clients that plan jobs again that were refused memory.
    Again,
}

/// The outcomes of all queries.
struct Run {
    /// The cores, the budget, the joins, and what runs.
    title: String,
    limited: bool,
    outcomes: Vec<Outcome>,
    /// Of each executor.
    resident_peaks: Vec<usize>,
}

async fn run_of(kind: Kind, hash: bool, (cores, budget): (&str, &str)) -> Run {
    let stock = kind == Kind::Stock;
    let on_refusal = match kind {
        Kind::Again => OnRefusal::PlanAgain,
        _ => OnRefusal::Fail,
    };
    let options = [format!("--budget={budget}"), format!("--cores={cores}")];
    let mut executor: Vec<_> = options.iter().map(String::as_str).collect();
    executor.extend(["--task-minimum=4MiB", "--retries=3"]);
    if stock {
        executor.push("--stock");
    }
    let joins = [(
        "datafusion.optimizer.prefer_hash_join",
        if hash { "true" } else { "false" },
    )];
    let mut cluster = start(&executor, &[]).await;
    let mut outcomes = Vec::new();
    let mut peaks = vec![0; 2];
    for query in QUERIES.iter() {
        let outcome = judged(&cluster.address(), query, &joins, on_refusal).await;
        eprintln!("{executor:?} {joins:?} q{}: {outcome:?}", query.number);
        note_peaks(&cluster, &mut peaks).await;
        if outcome == Outcome::Hung {
            cluster = start(&executor, &[]).await;
        }
        outcomes.push(outcome);
    }
    Run {
        title: format!(
            "{cores} | {budget} | {} | {}",
            if hash { "hash" } else { "merge" },
            match kind {
                Kind::Stock => "Ballista",
                Kind::Tree => "tree",
                Kind::Again => "tree, planned again",
            }
        ),
        limited: budget != UNLIMITED,
        outcomes,
        resident_peaks: peaks,
    }
}

async fn note_peaks(cluster: &LocalCluster, peaks: &mut [usize]) {
    let all = cluster.read().await.expect("the scheduler answers");
    for (peak, executor) in peaks.iter_mut().zip(&all) {
        let status = executor.tree.as_ref().map(|tree| &tree.status);
        let resident = status.ok().and_then(|status| status.resident_peak);
        *peak = resident.unwrap_or(0).max(*peak);
    }
}

fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| cores | budget | joins | what | right of 22 | not right | resident peak of each executor, MiB |\n\
         |---|---|---|---|---|---|---|",
    );
    for run in runs {
        let pairs = QUERIES.iter().zip(&run.outcomes);
        let failed = pairs.filter(|(_, outcome)| **outcome != Outcome::Right);
        let failed = failed.map(|(query, outcome)| format!("q{} {}", query.number, outcome.mark()));
        let peaks = run
            .resident_peaks
            .iter()
            .map(|peak| (peak >> 20).to_string());
        let _ = write!(
            text,
            "\n| {} | {} | {} | {} |",
            run.title,
            run.right(),
            failed.collect::<Vec<_>>().join(", "),
            peaks.collect::<Vec<_>>().join(", ")
        );
    }
    text
}

impl Run {
    fn right(&self) -> usize {
        let right = self.outcomes.iter().filter(|one| **one == Outcome::Right);
        right.count()
    }
}

/// Run by name, since it takes minutes: `.ci/run ballista`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn all_queries_stock_and_under_the_tree() {
    let mut runs = Vec::new();
    for executor in EXECUTORS {
        for hash in [false, true] {
            for kind in [Kind::Stock, Kind::Tree, Kind::Again] {
                runs.push(run_of(kind, hash, executor).await);
            }
        }
    }
    println!("{}", table(&runs));
    for three in runs.chunks(3) {
        let [stock, tree, again] = three else {
            unreachable!("they are three of each")
        };
        for run in [tree, again] {
            let wrong = |one: &&Outcome| matches!(one, Outcome::Wrong(_) | Outcome::Hung);
            assert_eq!(run.outcomes.iter().find(wrong), None, "{}", run.title);
        }
        assert!(
            tree.right() >= stock.right(),
            "{} and {}",
            tree.title,
            stock.title
        );
        assert_eq!(again.right(), QUERIES.len(), "{}", again.title);
        assert!(
            tree.limited || tree.right() == QUERIES.len(),
            "{}",
            tree.title
        );
    }
}

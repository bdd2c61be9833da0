//! All queries of TPC-H with Ballista's pools and with the tree, without a limit and at one, with both kinds of joins.

use std::fmt::Write;

use arrow_memory_ballista::local::LocalCluster;

use arrow_memory_ballista::OnRefusal;

use crate::support::{Outcome, QUERIES, judged, start};

/// The budgets of each executor at which both are compared. Nothing reaches the first one.
const BUDGETS: [&str; 4] = [UNLIMITED, "20MiB", "12MiB", "8MiB"];

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

struct Column {
    title: String,
    outcomes: Vec<Outcome>,
    /// Of each executor.
    resident_peaks: Vec<usize>,
}

async fn column(kind: Kind, hash: bool, budget: &str) -> Column {
    let stock = kind == Kind::Stock;
    let on_refusal = match kind {
        Kind::Again => OnRefusal::PlanAgain,
        _ => OnRefusal::Fail,
    };
    let budget = format!("--budget={budget}");
    let mut executor = vec![&*budget, "--task-minimum=4MiB", "--retries=3"];
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
    Column {
        title: format!(
            "{}, {}, {}",
            match kind {
                Kind::Stock => "Ballista",
                Kind::Tree => "tree",
                Kind::Again => "tree, planned again",
            },
            if hash { "hash" } else { "merge" },
            budget.trim_start_matches("--budget=")
        ),
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

fn table(columns: &[Column]) -> String {
    let mut text = String::from("| |");
    for column in columns {
        let _ = write!(text, " {} |", column.title);
    }
    let _ = write!(text, "\n|---|{}", "---|".repeat(columns.len()));
    let mut row = |name: &str, cells: Vec<String>| {
        let _ = write!(text, "\n| {name} | {} |", cells.join(" | "));
    };
    for (index, query) in QUERIES.iter().enumerate() {
        let cells = columns
            .iter()
            .map(|column| column.outcomes[index].mark().to_owned());
        row(&format!("q{}", query.number), cells.collect());
    }
    let right = |column: &Column| {
        let right = column.outcomes.iter().filter(|one| **one == Outcome::Right);
        format!("**{}**", right.count())
    };
    row("right", columns.iter().map(right).collect());
    let peaks = |column: &Column| {
        let peaks = column
            .resident_peaks
            .iter()
            .map(|peak| (peak >> 20).to_string());
        peaks.collect::<Vec<_>>().join(", ")
    };
    row(
        "resident peak of each executor, MiB",
        columns.iter().map(peaks).collect(),
    );
    text
}

/// Run by name, since it takes minutes: `.ci/run ballista`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn all_queries_stock_and_under_the_tree() {
    let mut columns = Vec::new();
    for budget in BUDGETS {
        for hash in [false, true] {
            for kind in [Kind::Stock, Kind::Tree, Kind::Again] {
                columns.push(column(kind, hash, budget).await);
            }
        }
    }
    println!("{}", table(&columns));
    for three in columns.chunks(3) {
        let [stock, tree, again] = three else {
            unreachable!("they are three of each")
        };
        let right = |column: &Column| {
            column
                .outcomes
                .iter()
                .filter(|one| **one == Outcome::Right)
                .count()
        };
        for column in [tree, again] {
            let wrong = column
                .outcomes
                .iter()
                .find(|one| matches!(one, Outcome::Wrong(_) | Outcome::Hung));
            assert_eq!(wrong, None, "{}", column.title);
        }
        assert!(
            right(tree) >= right(stock),
            "{} and {}",
            tree.title,
            stock.title
        );
        assert_eq!(right(again), QUERIES.len(), "{}", again.title);
        if tree.title.ends_with(UNLIMITED) {
            assert_eq!(right(tree), QUERIES.len(), "{}", tree.title);
        }
    }
}

//! All queries of TPC-H with Ballista's pools and with the tree, without a limit and at one, with both kinds of joins.

use std::fmt::Write;

use arrow_memory_ballista::local::LocalCluster;

use crate::support::{Outcome, QUERIES, outcome, start};

/// The budget of each executor at which both are compared.
const LIMIT: &str = "48MiB";

/// A budget that nothing reaches.
const UNLIMITED: &str = "64GiB";

struct Column {
    title: String,
    outcomes: Vec<Outcome>,
    /// Of each executor.
    resident_peaks: Vec<usize>,
}

async fn column(stock: bool, hash: bool, budget: &str) -> Column {
    let budget = format!("--budget={budget}");
    let mut executor = vec![&*budget, "--task-minimum=8MiB", "--retries=3"];
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
        let outcome = outcome(&cluster.address(), query, &joins).await;
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
            if stock { "Ballista" } else { "tree" },
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
    for budget in [UNLIMITED, LIMIT] {
        for hash in [false, true] {
            for stock in [true, false] {
                columns.push(column(stock, hash, budget).await);
            }
        }
    }
    println!("{}", table(&columns));
    for pair in columns.chunks(2) {
        let [stock, tree] = pair else {
            unreachable!("they are pairs")
        };
        let right = |column: &Column| {
            column
                .outcomes
                .iter()
                .filter(|one| **one == Outcome::Right)
                .count()
        };
        let wrong = tree
            .outcomes
            .iter()
            .find(|one| matches!(one, Outcome::Wrong(_) | Outcome::Hung));
        assert_eq!(wrong, None, "{}", tree.title);
        assert!(
            right(tree) >= right(stock),
            "{} and {}",
            tree.title,
            stock.title
        );
        if tree.title.ends_with(UNLIMITED) {
            assert_eq!(right(tree), QUERIES.len(), "{}", tree.title);
        }
    }
}

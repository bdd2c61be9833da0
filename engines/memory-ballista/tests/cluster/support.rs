//! Clusters, and what comes out of queries on them.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use arrow_memory_ballista::local::{LocalCluster, LocalOptions};
use arrow_memory_ballista::{OnRefusal, collect, connect};
use datafusion::error::Result;
use engine_tests::outcome::Rows;
use engine_tests::tpch::{ANSWERS_SCALE, Query, queries, register, tables};

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_arrow-memory-ballista");

/// How long a query may take.
pub(crate) const TIME: Duration = Duration::from_secs(120);

/// The queries, which are read once.
pub(crate) static QUERIES: LazyLock<Vec<Query>> = LazyLock::new(queries);

/// Returns the query of that number.
pub(crate) fn query(number: usize) -> &'static Query {
    &QUERIES[number - 1]
}

/// Returns a cluster's options: two executors of one core, if `executor` says nothing else.
pub(crate) fn options(executor: &[&str], scheduler: &[&str]) -> LocalOptions {
    let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let mut executor = own(executor);
    if !executor.iter().any(|option| option.starts_with("--cores")) {
        executor.push("--cores=1".to_owned());
    }
    LocalOptions {
        program: PROGRAM.into(),
        executors: 2,
        executor,
        scheduler: own(scheduler),
        token_file: None,
    }
}

/// Starts a cluster.
pub(crate) async fn start(executor: &[&str], scheduler: &[&str]) -> LocalCluster {
    let options = options(executor, scheduler);
    LocalCluster::start(&options)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What came out of a query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Right,
    Wrong(String),
    Failed(String),
    Hung,
}

impl Outcome {
    /// A letter for tables.
    pub(crate) fn mark(&self) -> &'static str {
        match self {
            Self::Right => "",
            Self::Wrong(_) => "wrong",
            Self::Failed(_) => "failed",
            Self::Hung => "hung",
        }
    }
}

/// Runs a query on the scheduler's cluster in a session with those settings, and compares its answer.
pub(crate) async fn outcome(scheduler: &str, query: &Query, settings: &[(&str, &str)]) -> Outcome {
    judged(scheduler, query, settings, OnRefusal::Fail).await
}

/// Does the same, and says what becomes of a job that was refused memory.
pub(crate) async fn judged(
    scheduler: &str,
    query: &Query,
    settings: &[(&str, &str)],
    on_refusal: OnRefusal,
) -> Outcome {
    let rows = rows(scheduler, query, settings, on_refusal);
    let rows = tokio::time::timeout(TIME, rows).await;
    match rows {
        Err(_) => Outcome::Hung,
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Ok(Ok(rows)) => match rows.differ_from_lines(&query.answer) {
            Some(difference) => Outcome::Wrong(difference),
            None => Outcome::Right,
        },
    }
}

async fn rows(
    scheduler: &str,
    query: &Query,
    settings: &[(&str, &str)],
    on_refusal: OnRefusal,
) -> Result<Rows> {
    let name = format!("q{}", query.number);
    // Few partitions: on one core, more of them are slower.
    let mut all = vec![
        ("ballista.job.name", &*name),
        ("datafusion.execution.target_partitions", "2"),
    ];
    all.extend_from_slice(settings);
    let session = connect(scheduler, all).await?;
    register(&session, folder()).await?;
    let frame = session.sql(&query.sql).await?;
    let schema = frame.schema().inner().clone();
    Rows::read(schema, collect(frame, on_refusal).await?)
}

/// Returns the folder with TPC-H's tables at the scale of the answers.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<std::path::PathBuf> =
        LazyLock::new(|| tables(ANSWERS_SCALE).expect("the tables are written"));
    &FOLDER
}

/// Runs the program, and returns whether it succeeded, and what it said.
pub(crate) fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .output()
        .expect("it runs");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

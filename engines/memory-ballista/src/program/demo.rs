//! The role `demo`: a cluster on this machine, under limits that fit a third of its queries at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_memory_ballista::local::{LocalCluster, LocalOptions};
use arrow_memory_ballista::{ClusterExecutor, connect};
use bytesize::ByteSize;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::future::join_all;
use tempfile::TempDir;

use super::cli::Demo;
use super::client::readable;
use super::status::{Size, tree};
use super::tpch::{self, QUERIES, Query, TABLES};

/// How long all queries may take together.
const TIME: Duration = Duration::from_secs(480);

/// The smallest budget with which all queries can be right.
const SMALLEST: ByteSize = ByteSize::mib(32);

/// How many executors there are. Each gets a third of the queries' tasks at a time.
const EXECUTORS: usize = 2;

/// Runs it, or ends all processes and removes all files when it is interrupted.
pub(crate) async fn run(options: Demo) -> std::result::Result<(), String> {
    tokio::select! {
        done = shown(options) => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    }
}

async fn shown(options: Demo) -> std::result::Result<(), String> {
    if options.budget < SMALLEST || options.scale <= 0.0 {
        return Err("--budget must be 32MiB at least, and --scale more than 0".to_owned());
    }
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let folder = TempDir::new().map_err(|error| failed("no temporary folder", &error))?;
    tpch::generate(folder.path(), options.scale).map_err(|error| failed("no data", &error))?;
    println!(
        "TPC-H at scale {}: {} tables are written.",
        options.scale,
        TABLES.len()
    );
    let expected = answers(folder.path()).await;
    let expected = expected.map_err(|error| failed("without Ballista", &error))?;
    println!(
        "{} queries were answered without Ballista, to compare.\n",
        QUERIES.len()
    );

    let budget = options.budget;
    // Three quarters of a budget: one task runs on each executor at a time.
    let minimum = budget.as_u64() / 4 * 3;
    let local = local(budget, minimum).map_err(|error| failed("no program", &error))?;
    let cluster = LocalCluster::start(&local)
        .await
        .map_err(|error| error.to_string())?;
    println!(
        "A scheduler and {EXECUTORS} executors run, with {budget} each, of which a task gets {} before it starts.\n\
         {} queries begin at once, and {EXECUTORS} of them fit.\n",
        Size(usize::try_from(minimum).unwrap_or(usize::MAX)),
        QUERIES.len()
    );
    let outcome = ask(&cluster, folder.path(), &expected).await;
    let all = cluster.read().await;
    match &all {
        Ok(all) => println!("\n{}\n{}", tree(all), summary(all)),
        Err(error) => println!("\n{error}"),
    }
    let ended = cluster
        .end()
        .map_err(|error| failed("a process did not end", &error))?;
    for (name, status) in &ended {
        println!("{name} has ended: {status}");
    }
    if let Some((name, _)) = ended.iter().find(|(_, status)| !status.success()) {
        return Err(format!("{name} did not end as it should"));
    }
    outcome
}

/// Returns what the cluster is made of.
fn local(budget: ByteSize, minimum: u64) -> std::io::Result<LocalOptions> {
    Ok(LocalOptions {
        program: std::env::current_exe()?,
        executors: EXECUTORS,
        executor: vec![
            format!("--budget={}", budget.as_u64()),
            format!("--task-minimum={minimum}"),
            "--cores=4".to_owned(),
            "--retries=3".to_owned(),
            "--heartbeat=5".to_owned(),
        ],
        scheduler: vec!["--executor-timeout=30".to_owned()],
        token_file: None,
    })
}

/// Says what waited, what spilled, and what was placed where.
fn summary(all: &[ClusterExecutor]) -> String {
    let trees = || all.iter().filter_map(|one| one.tree.as_ref().ok());
    let waited: u64 = trees().map(|tree| tree.status.waited).sum();
    let operators = trees()
        .flat_map(|tree| &tree.jobs)
        .flat_map(|job| &job.operators);
    let spilled: usize = operators.map(|operator| operator.spilled).sum();
    let placed = all.iter().map(|one| {
        let (placed, executor) = (&one.told.placed, &one.told.status.executor);
        format!(
            "{} on {executor}, which was passed over {} times for want of room",
            placed.tasks, placed.left_out
        )
    });
    format!(
        "In all: {waited} tasks waited for their minimum, {} were spilled; tasks were placed {}.\n\
         A process has more resident than its budget: the program, decoded pages, results on their way, what malloc keeps.\n",
        Size(spilled),
        placed.collect::<Vec<_>>().join(", ")
    )
}

/// Returns the answers of one session of DataFusion.
async fn answers(folder: &Path) -> Result<Vec<BTreeSet<String>>> {
    let session = SessionContext::new();
    register(&session, folder).await?;
    let mut answers = Vec::new();
    for (_, sql) in QUERIES {
        answers.push(rows(&session, sql).await?);
    }
    Ok(answers)
}

async fn register(session: &SessionContext, folder: &Path) -> Result<()> {
    for table in TABLES {
        let file = tpch::file(folder, table);
        let options = ParquetReadOptions::default();
        session
            .register_parquet(table, file.to_string_lossy(), options)
            .await?;
    }
    Ok(())
}

/// Returns the rows of an answer, without their order. No row of these queries comes twice.
async fn rows(session: &SessionContext, sql: &str) -> Result<BTreeSet<String>> {
    let batches = session.sql(sql).await?.collect().await?;
    let text = pretty_format_batches(&batches)?.to_string();
    let lines = text.lines().filter(|line| line.starts_with('|'));
    // The widths of columns go by the batches.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(lines.map(words).collect())
}

/// Runs all queries at once, and says which of them were right.
async fn ask(
    cluster: &LocalCluster,
    folder: &Path,
    expected: &[BTreeSet<String>],
) -> std::result::Result<(), String> {
    let begun = Instant::now();
    let queries = QUERIES
        .iter()
        .zip(expected)
        .map(|(query, expected)| async move {
            let answer = tokio::time::timeout(TIME, answer(cluster, folder, query)).await;
            let (name, _) = query;
            let (right, what) = match answer {
                Err(_) => (false, "did not end".to_owned()),
                Ok(Err(error)) => {
                    let text = readable(&error);
                    (
                        false,
                        format!("failed: {}", text.lines().next().unwrap_or_default()),
                    )
                }
                Ok(Ok(rows)) if rows == *expected => (true, "right".to_owned()),
                Ok(Ok(_)) => (false, "wrong".to_owned()),
            };
            println!(
                "{name:>4} after {:>5.1} s: {what}",
                begun.elapsed().as_secs_f64()
            );
            right
        });
    let right = join_all(queries).await;
    match right.iter().filter(|right| !**right).count() {
        0 => Ok(()),
        wrong => Err(format!(
            "{wrong} of {} queries were not answered right",
            right.len()
        )),
    }
}

async fn answer(
    cluster: &LocalCluster,
    folder: &Path,
    (name, sql): &Query,
) -> Result<BTreeSet<String>> {
    let settings = [
        ("ballista.job.name", *name),
        // Two partitions for each task, so that tasks of several queries would fit the cores.
        ("datafusion.execution.target_partitions", "4"),
        // Joins that sort, and so can spill, also of small tables.
        ("ballista.optimizer.broadcast_join_threshold_bytes", "0"),
        ("ballista.optimizer.broadcast_join_threshold_rows", "0"),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold",
            "0",
        ),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold_rows",
            "0",
        ),
    ];
    let session = connect(&cluster.address(), settings).await?;
    register(&session, folder).await?;
    rows(&session, sql).await
}

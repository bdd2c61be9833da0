//! DataFusion with each way to limit its memory, measured on TPC-H: what a limit costs, what completes under it, and what
//! the heap of the process really reaches. Each subcommand prints Markdown.
//!
//! ```sh
//! cd engines
//! cargo run --release -p engine-tests --example engines -- overhead                 # 25 minutes on two cores
//! cargo run --release -p engine-tests --example engines -- completion               # 30 minutes
//! cargo run --release -p engine-tests --example engines -- memory                   # the second table of `completion`
//! cargo run --release -p engine-tests --example engines -- concurrent               # 10 minutes
//! cargo run --release -p engine-tests --example engines -- completion --limits 64MiB --queries 1,3-5 --configurations 'Fair;tree'
//! ```
//!
//! Nothing else may run meanwhile. The program's heap is counted by its global allocator, except in `overhead`. With the
//! feature `attributed`, `arrow-memory-global` wraps that allocator.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use engine_tests::configuration::{Configuration, pools, trees, unbounded};
use engine_tests::heap::Counting;
use engine_tests::outcome::Rows;
use engine_tests::tpch::{self, Joins, Query};
use engine_tests::{Limited, Outcome};

mod concurrent;
mod numbers;
mod overhead;
mod sweep;
mod table;

#[cfg(not(feature = "attributed"))]
#[global_allocator]
static HEAP: Counting = Counting::new();

#[cfg(feature = "attributed")]
#[global_allocator]
static ATTRIBUTED: arrow_memory_global::Attributed<Counting> =
    arrow_memory_global::Attributed::new(Counting::new());

/// Returns the allocator that counts.
fn heap() -> &'static Counting {
    #[cfg(not(feature = "attributed"))]
    return &HEAP;
    #[cfg(feature = "attributed")]
    return ATTRIBUTED.inner();
}

#[derive(Parser)]
#[command(about = "DataFusion with each way to limit its memory, measured on TPC-H")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The time of each query without a limit, beside DataFusion's pool without one
    Overhead {
        #[command(flatten)]
        what: What,
        /// Rounds, after one that is not counted
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// What completes under limits: how many queries, how fast, with how much spilled
    Completion {
        #[command(flatten)]
        what: What,
        #[arg(long, value_delimiter = ',', value_parser = numbers::bytes,
              default_value = "1GiB,512MiB,256MiB,128MiB,64MiB,32MiB")]
        limits: Vec<usize>,
    },
    /// The peak of the process's heap, beside the limit
    Memory {
        #[command(flatten)]
        what: What,
        #[arg(long, value_delimiter = ',', value_parser = numbers::bytes,
              default_value = "1GiB,512MiB,256MiB,128MiB,64MiB,32MiB")]
        limits: Vec<usize>,
    },
    /// Several queries at once under one limit
    Concurrent {
        #[command(flatten)]
        what: What,
        #[arg(long, value_delimiter = ',', value_parser = numbers::bytes, default_value = "512MiB,128MiB")]
        limits: Vec<usize>,
        /// Queries that run at a time
        #[arg(long, default_value_t = 4)]
        at_once: usize,
        /// How often each query is run
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
}

/// What is measured.
#[derive(Args)]
struct What {
    /// Numbers of queries, and ranges, as in 1,3-5
    #[arg(long, value_delimiter = ',', value_parser = numbers::range, default_value = "1-22")]
    queries: Vec<(usize, usize)>,
    /// Names of configurations with semicolons between them; all by default
    #[arg(long, value_delimiter = ';')]
    configurations: Vec<String>,
    /// Scale of the data
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Partitions of a query
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// The joins that the optimizer prefers
    #[arg(long, value_enum, default_value_t = Preferred::Hash)]
    joins: Preferred,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preferred {
    Hash,
    SortMerge,
}

/// What is measured, with the data there.
struct Bench {
    queries: Vec<Query>,
    configurations: Vec<Configuration>,
    folder: PathBuf,
    partitions: usize,
    joins: Joins,
}

impl Bench {
    fn new(what: &What) -> Result<Self> {
        let mut queries = tpch::queries();
        let chosen = |number| {
            what.queries
                .iter()
                .any(|&(from, to)| (from..=to).contains(&number))
        };
        queries.retain(|query| chosen(query.number));
        let mut configurations = vec![unbounded()];
        configurations.extend(pools().into_iter().chain(trees()));
        let named = |name: &str| {
            what.configurations
                .iter()
                .any(|one| one.eq_ignore_ascii_case(name))
        };
        configurations.retain(|one| what.configurations.is_empty() || named(one.name));
        eprintln!("data of scale {}", what.scale);
        Ok(Self {
            queries,
            configurations,
            folder: tpch::tables(what.scale)?,
            partitions: what.partitions,
            joins: match what.joins {
                Preferred::Hash => Joins::Hash,
                Preferred::SortMerge => Joins::SortMerge,
            },
        })
    }

    async fn session(&self, limited: &Limited) -> Result<SessionContext> {
        let session = limited.session(tpch::config(self.partitions, self.joins));
        tpch::register(&session, &self.folder).await?;
        Ok(session)
    }

    /// Returns the answers of DataFusion's pool without a limit, and how long each took.
    async fn answers(&self) -> Result<Vec<(Rows, Duration)>> {
        let limited = unbounded().limited(None);
        let session = self.session(&limited).await?;
        let mut answers = Vec::new();
        for query in &self.queries {
            eprintln!("answer of q{}", query.number);
            // The first run reads the files into the system's cache. The fastest one counts.
            let (mut rows, mut fastest) = (None, Duration::MAX);
            for _ in 0..3 {
                let begun = Instant::now();
                let executed = limited.execute(&session, &query.sql, "answer", Rows::read);
                let executed = executed.await?;
                fastest = fastest.min(begun.elapsed());
                rows = Some(executed.value);
            }
            answers.extend(rows.map(|rows| (rows, fastest)));
        }
        Ok(answers)
    }
}

/// Runs a query, judges it by the answer, and returns how long it took.
async fn judged(
    limited: &Limited,
    session: &SessionContext,
    query: &Query,
    answer: &(Rows, Duration),
) -> (Outcome, Duration) {
    let deadline = Duration::from_secs(30).max(answer.1 * 20);
    let name = format!("q{}", query.number);
    let begun = Instant::now();
    let run = limited.execute(session, &query.sql, &name, Rows::read);
    let run = engine_tests::watch::watch(run, deadline).await;
    let elapsed = begun.elapsed();
    (
        Outcome::of(run, |rows| rows.differ_from(&answer.0)),
        elapsed,
    )
}

/// Begins to count the heap once the data is there: what generates it keeps hundreds of megabytes.
fn counted(what: &What) -> Result<Bench> {
    let bench = Bench::new(what)?;
    heap().begin();
    Ok(bench)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Overhead { what, rounds } => overhead::run(&Bench::new(&what)?, rounds).await,
        Command::Completion { what, limits } => sweep::completion(&counted(&what)?, &limits).await,
        Command::Memory { what, limits } => sweep::memory(&counted(&what)?, &limits).await,
        Command::Concurrent {
            what,
            limits,
            at_once,
            rounds,
        } => concurrent::run(counted(&what)?, &limits, at_once, rounds).await,
    }
}

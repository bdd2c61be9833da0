//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use arrow_memory_ballista::RETRIES;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, value_parser};

/// Runs Ballista with its executors' memory in a tree: a limit for each job, a minimum for each task, and one place that shows
/// who uses what.
#[derive(Debug, Parser)]
#[command(name = "arrow-memory-ballista", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Role,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Schedules jobs, and places tasks on executors that have room.
    Scheduler(Scheduler),
    /// Runs tasks within a budget.
    Executor(Executor),
    /// Runs a query on a cluster, and prints its rows.
    Client(Client),
    /// Prints who uses what in the whole cluster.
    Status(Status),
    /// Ends a job. Ballista does not say whether there is one of that identifier.
    Cancel(Cancel),
    /// Starts a scheduler and two executors here, runs queries of TPC-H, and shows what waited and what spilled.
    Demo(Demo),
}

impl Role {
    /// Returns what is logged if `RUST_LOG` says nothing.
    pub(crate) fn log(&self) -> &'static str {
        match self {
            // Ballista warns of each spill.
            Self::Scheduler(_) | Self::Executor(_) => "warn,ballista_core::execution_plans=error",
            // An error is printed, and need not be logged, too.
            _ => "off",
        }
    }
}

/// The endpoint of a scheduler or an executor.
#[derive(Args, Debug)]
pub(crate) struct Endpoint {
    /// The address that the endpoint listens on. Beyond loopback it needs --token-file.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) status_bind: IpAddr,
    /// The file with the token that requests must have, on all machines the same: at least 16 letters and digits.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Scheduler {
    /// The address that it listens on for clients and executors. Ballista does not ask them who they are.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// The port for clients and executors.
    #[arg(long, default_value_t = 50050)]
    pub(crate) port: u16,
    /// The name or address under which executors reach it.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) external_host: String,
    /// The port of the endpoint that executors tell their numbers, and that `status` asks.
    #[arg(long, default_value_t = 50060)]
    pub(crate) status_port: u16,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// After so many seconds without a heartbeat an executor counts as lost, and its tasks run elsewhere.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = value_parser!(u64).range(1..))]
    pub(crate) executor_timeout: u64,
    /// How often a task may fail, refusals that were handed back included, before its job does.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = value_parser!(u16).range(1..))]
    pub(crate) task_failures: u16,
    /// How often a stage may be run again, because results of it were lost with an executor, before its job fails.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = value_parser!(u16).range(1..))]
    pub(crate) stage_failures: u16,
    /// Ends when the standard input does.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Executor {
    /// Host and port of the scheduler.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    pub(crate) scheduler: String,
    /// Host and port of the scheduler's endpoint.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50060")]
    pub(crate) scheduler_status: String,
    /// Its name in the cluster, which must be unique. By default it is made up.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The address that it listens on for the scheduler and other executors. Ballista does not ask them who they are.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// The name or address under which others reach it.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) external_host: String,
    /// The port from which others read its results.
    #[arg(long, default_value_t = 50051)]
    pub(crate) port: u16,
    /// The port for the scheduler.
    #[arg(long, default_value_t = 50052)]
    pub(crate) grpc_port: u16,
    /// The port of the endpoint.
    #[arg(long, default_value_t = 50053)]
    pub(crate) status_port: u16,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The folder for results and for what is spilled. It must be the executor's own: whatever is in it is removed when the
    /// executor stops. By default it is a temporary one.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) work_dir: Option<PathBuf>,
    /// How many partitions run at a time. By default as many as there are cores.
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u16).range(1..))]
    pub(crate) cores: Option<u16>,
    /// What all tasks together may use. By default it is 70 % of what the machine or the cgroup has.
    #[arg(long, value_name = "SIZE")]
    pub(crate) budget: Option<ByteSize>,
    /// What a job may use here, and the largest limit that a session may set for its jobs.
    #[arg(long, value_name = "SIZE")]
    pub(crate) job_limit: Option<ByteSize>,
    /// What is set aside for a task before it starts. A task waits until it fits.
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(crate) task_minimum: ByteSize,
    /// The largest minimum that a session may set for its tasks. By default it is the budget divided by the cores, or the
    /// minimum if that is larger.
    #[arg(long, value_name = "SIZE")]
    pub(crate) task_minimum_max: Option<ByteSize>,
    /// How often a task that was refused memory is handed back, over all executors, to be tried again.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = value_parser!(u16).range(..=RETRIES as i64))]
    pub(crate) retries: u16,
    /// How long a task waits for its minimum before it counts as refused. By default it waits until it is cancelled.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) task_wait: Option<u64>,
    /// How often it tells the scheduler that it is alive.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
    pub(crate) heartbeat: u64,
    /// How long it waits for the scheduler at its start.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) connect_wait: u64,
    /// Runs tasks as Ballista does without the tree, with the same budget: to compare.
    #[arg(long)]
    pub(crate) stock: bool,
    /// Ends when the standard input does.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Client {
    /// The query.
    pub(crate) sql: String,
    /// Host and port of the scheduler.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    pub(crate) scheduler: String,
    /// A table of the query: its name, and a file or a folder of Parquet files that all executors see.
    #[arg(long = "table", value_name = "NAME=PATH")]
    pub(crate) tables: Vec<String>,
    /// A setting of the session, such as arrow_memory.job_limit=256MiB, ballista.job.name=nightly or
    /// datafusion.optimizer.prefer_hash_join=true.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Submits a job that was refused memory once more, with joins and sorts that need less and spill.
    #[arg(long)]
    pub(crate) plan_again: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Host and port of the scheduler's endpoint.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50060")]
    pub(crate) scheduler_status: String,
    /// The file with the token of the cluster.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints it again each so many seconds, until it is interrupted.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) watch: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Cancel {
    /// The job's identifier, as `status` prints it.
    pub(crate) job: String,
    /// Host and port of the scheduler.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    pub(crate) scheduler: String,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// The scale of TPC-H's data: 1 is about a gigabyte as text.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) scale: f64,
    /// The budget of each of the two executors, 32MiB at least: each sort sets 10 MiB aside.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(crate) budget: ByteSize,
}

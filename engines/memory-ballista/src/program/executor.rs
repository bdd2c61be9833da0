//! The role `executor`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow_memory_ballista as memory;
use arrow_memory_ballista::{
    BallistaMemory, Clients, EACH, Endpoint, JobOptions, RootAllocator, Token, session_config,
};
use arrow_memory_host::HostLimit;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::ids::new_instance_id;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use bytesize::ByteSize;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::cli::Executor;
use super::{host_and_port, reach, stopped, token, until_stdin_closes};

/// The part of the machine's memory that is the budget if none is given, as in Ballista.
const SHARE: f64 = 0.7;

/// How often results of jobs that nobody asks for any more are looked for. They are removed after a week, as in Ballista, and
/// when the executor stops.
const CLEANED: Duration = Duration::from_secs(1800);

/// How long connections to other executors are kept, as in Ballista.
const CLIENTS: Duration = Duration::from_secs(30);

pub(crate) async fn run(options: Executor) -> Result<(), String> {
    let token = token(&options.endpoint)?;
    let id = options.id.clone().unwrap_or_else(new_instance_id);
    let budget = budget(&options)?;
    let status_address = SocketAddr::new(options.endpoint.status_bind, options.status_port);
    let scheduler = Scheduler {
        address: options.scheduler_status.clone(),
        token: token.clone(),
    };
    let executor = executor(&options, &id, budget, &scheduler)?;
    let memory = executor.memory.clone();
    let endpoint = Endpoint::executor(executor.clone(), status_address, token).await;
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    check_ports(&options).await?;
    wait_for_scheduler(&options).await?;
    let folder = match &options.work_dir {
        Some(_) => None,
        None => Some(temporary_folder()?),
    };
    let temporary = folder.as_ref().map(TempDir::path);
    let work_dir = options
        .work_dir
        .as_deref()
        .or(temporary)
        .unwrap_or(Path::new("."));
    let config = ExecutorProcessConfig {
        executor_id: id,
        work_dir: Some(work_dir.display().to_string()),
        ..config(&options, &memory, budget)?
    };
    let (id, address) = (executor.id.escape_debug(), status_address);
    eprintln!(
        "executor {id}: {} for tasks; http://{address}/tree shows them",
        ByteSize(budget as u64)
    );
    let asked = Arc::new(AtomicBool::new(false));
    tokio::spawn(close_admission_when_stopped(memory, Arc::clone(&asked)));
    tokio::select! {
        ended = start_executor_process(Arc::new(config)) => match ended {
            // It logs why, for instance that a port was taken meanwhile.
            Ok(()) if !asked.load(Ordering::Relaxed) => Err("the executor has ended by itself".to_owned()),
            ended => ended.map_err(|error| error.to_string()),
        },
        () = endpoint.serve() => Ok(()),
        error = scheduler.keep_telling(&executor) => Err(error),
        () = until_stdin_closes(options.until_stdin_closes) => Ok(()),
    }
}

/// Returns the executor's memory, and where it can be asked for it.
fn executor(
    options: &Executor,
    id: &str,
    budget: usize,
    scheduler: &Scheduler,
) -> Result<memory::Executor, String> {
    let root = RootAllocator::builder().name(id);
    // Ballista's own pools are limited; this tree only shows the process.
    let root = match options.stock {
        true => root,
        false => root.limit(budget),
    };
    let root = root.build().map_err(|error| error.to_string())?;
    let id = id.to_owned();
    // The scheduler knows the host.
    let address = format!("{}:{}", options.external_host, options.status_port);
    let of = move |memory| memory::Executor {
        id: id.clone(),
        address: address.clone(),
        memory,
    };
    let (told, scheduler) = (of.clone(), scheduler.clone());
    let memory = BallistaMemory::builder(&root)
        .job_options(job_options(options, budget))
        .before_handing_back(move |memory| {
            let (executor, scheduler) = (told(memory), scheduler.clone());
            Box::pin(async move { scheduler.tell(&executor).await })
        })
        .build();
    Ok(of(memory))
}

fn budget(options: &Executor) -> Result<usize, String> {
    let budget = match options.budget {
        Some(budget) => bytes(budget)?,
        None => {
            let limit = HostLimit::read();
            let limit = limit.map_err(|error| {
                format!("cannot tell how much memory there is ({error}): use --budget SIZE")
            })?;
            limit.fraction(SHARE).bytes()
        }
    };
    let minimum = options.task_minimum.as_u64();
    let job_limit = options.job_limit.map_or(u64::MAX, |limit| limit.as_u64());
    let most = job_limit.min(budget as u64);
    if minimum > most || budget == 0 {
        let (minimum, most) = (options.task_minimum, ByteSize(most));
        return Err(format!(
            "no task could start: --task-minimum is {minimum}, and --budget and --job-limit allow {most}"
        ));
    }
    Ok(budget)
}

fn bytes(size: ByteSize) -> Result<usize, String> {
    usize::try_from(size.as_u64()).map_err(|_| format!("{size} is more than can be addressed"))
}

fn job_options(options: &Executor, budget: usize) -> JobOptions {
    let mut job = JobOptions::default();
    let largest = options
        .task_minimum_max
        .and_then(|largest| bytes(largest).ok());
    job.task_minimum_max = Some(largest.unwrap_or(budget / cores(options)));
    job.limit = options.job_limit.and_then(|limit| bytes(limit).ok());
    job.task_minimum = bytes(options.task_minimum).unwrap_or(usize::MAX);
    job.retries = options.retries.into();
    job.task_wait = options.task_wait.map(Duration::from_secs);
    job
}

fn config(
    options: &Executor,
    memory: &BallistaMemory,
    budget: usize,
) -> Result<ExecutorProcessConfig, String> {
    let (host, port) = host_and_port("--scheduler", &options.scheduler)?;
    let mut config = ExecutorProcessConfig {
        // It is made part of an address as text.
        bind_host: match options.bind {
            IpAddr::V4(bind) => bind.to_string(),
            IpAddr::V6(bind) => format!("[{bind}]"),
        },
        vcores: cores(options),
        job_data_clean_up_interval_seconds: CLEANED.as_secs(),
        external_host: Some(options.external_host.clone()),
        port: options.port,
        grpc_port: options.grpc_port,
        scheduler_host: host.to_owned(),
        scheduler_port: port,
        // It is there. Ballista would try for ever.
        scheduler_connect_timeout_seconds: 0,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_heartbeat_interval_seconds: options.heartbeat,
        override_config_producer: Some(Arc::new(session_config)),
        ..ExecutorProcessConfig::default()
    };
    if options.stock {
        config.memory_pool_size = Some(budget as u64);
        return Ok(config);
    }
    // Any other value would give each task a pool of Ballista's.
    config.memory_pool_size = Some(0);
    let clients = Clients::new(CLIENTS);
    config.override_execution_engine = Some(memory.engine(Some(Arc::new(clients))));
    Ok(config)
}

/// Returns how many partitions run at a time.
fn cores(options: &Executor) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    options.cores.map_or_else(all, usize::from)
}

/// Has tasks that wait handed back once this process is asked to stop. Ballista, which hears of it, too, then waits until the
/// others have ended.
async fn close_admission_when_stopped(memory: BallistaMemory, asked: Arc<AtomicBool>) {
    stopped().await;
    // Relaxed: the process ends much later.
    asked.store(true, Ordering::Relaxed);
    memory.close_admission();
}

fn temporary_folder() -> Result<TempDir, String> {
    let folder = tempfile::Builder::new()
        .prefix("arrow-memory-ballista-")
        .tempdir();
    folder.map_err(|error| format!("no temporary folder: {error}"))
}

/// Looks whether the ports are free. Ballista finds that out once the scheduler has given it tasks.
async fn check_ports(options: &Executor) -> Result<(), String> {
    for (flag, port) in [("--port", options.port), ("--grpc-port", options.grpc_port)] {
        let address = SocketAddr::new(options.bind, port);
        let bound = TcpListener::bind(address).await;
        bound.map_err(|error| format!("{flag}: cannot listen on {address}: {error}"))?;
    }
    Ok(())
}

/// Waits until something listens where the scheduler should be.
async fn wait_for_scheduler(options: &Executor) -> Result<(), String> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let Err(error) = reach("--scheduler", &options.scheduler).await else {
            return Ok(());
        };
        if begun.elapsed() >= Duration::from_secs(options.connect_wait) {
            return Err(error);
        }
        if !said {
            eprintln!("waiting for the scheduler: {error}");
            said = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Where the executor's numbers go.
#[derive(Clone)]
struct Scheduler {
    address: String,
    token: Option<Token>,
}

/// How long it may take to tell the scheduler of a refusal.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an answer begins with if the token is missing or wrong.
const UNAUTHORIZED: &str = ": 401 ";

/// After so many reports in a row that did not arrive, the log has the reason.
const FAILED: u32 = 5;

/// The shortest time between two reports.
const REST: Duration = Duration::from_millis(20);

impl Scheduler {
    /// Tells the numbers once, if that takes no longer than a second.
    async fn tell(&self, executor: &memory::Executor) {
        let told = executor.tell(&self.address, self.token.as_ref());
        // If it does not arrive, the task may come back here.
        let _ = tokio::time::timeout(PATIENCE, told).await;
    }

    /// Tells the numbers each second and when a task has ended, and logs once if that fails for a while. It ends with an error
    /// if the token is wrong: then nobody would see the executor.
    async fn keep_telling(&self, executor: &memory::Executor) -> String {
        let mut failed = 0_u32;
        loop {
            match executor.tell(&self.address, self.token.as_ref()).await {
                Ok(()) => failed = 0,
                Err(error) if error.contains(UNAUTHORIZED) => return error,
                Err(error) => {
                    failed = failed.saturating_add(1);
                    // At the start it may not be registered yet.
                    if failed == FAILED {
                        log::warn!("the scheduler does not get this executor's numbers: {error}");
                    }
                }
            }
            tokio::time::sleep(REST).await;
            // Room is news. The rest is not urgent.
            let _ = tokio::time::timeout(EACH, executor.memory.task_ended()).await;
        }
    }
}

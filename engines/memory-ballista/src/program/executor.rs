//! The role `executor`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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

use super::cli::Executor;
use super::{token, until_stdin_closes};

/// The part of the machine's memory that is the budget if none is given, as in Ballista.
const SHARE: f64 = 0.7;

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
    let address = format!("{}:{}", options.external_host, options.status_port);
    let tell = scheduler.clone();
    let (told_id, told_address) = (id.clone(), address.clone());
    let root = RootAllocator::builder().name(&id);
    // Ballista's own pools are limited; this tree only shows the process.
    let root = if options.stock {
        root
    } else {
        root.limit(budget)
    };
    let root = root.build().map_err(|error| error.to_string())?;
    let memory = BallistaMemory::builder(&root)
        .job_options(job_options(&options))
        .before_handing_back(move |memory| {
            let executor = memory::Executor {
                id: told_id.clone(),
                address: told_address.clone(),
                memory,
            };
            let scheduler = tell.clone();
            Box::pin(async move { scheduler.tell(&executor).await })
        })
        .build();
    let executor = memory::Executor {
        id: id.clone(),
        address,
        memory: memory.clone(),
    };
    let endpoint = Endpoint::executor(executor.clone(), status_address, token).await;
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let folder = TempDir::new().map_err(|error| error.to_string())?;
    let work_dir = options.work_dir.as_deref().unwrap_or(folder.path());
    let config = ExecutorProcessConfig {
        executor_id: id,
        work_dir: Some(work_dir.display().to_string()),
        ..config(&options, &memory, budget)?
    };
    tokio::select! {
        ended = start_executor_process(Arc::new(config)) => ended.map_err(|error| error.to_string()),
        () = endpoint.serve() => Ok(()),
        () = scheduler.keep_telling(&executor) => Ok(()),
        () = until_stdin_closes(options.until_stdin_closes) => Ok(()),
    }
}

fn budget(options: &Executor) -> Result<usize, String> {
    if let Some(budget) = options.budget {
        return bytes(budget);
    }
    let limit = HostLimit::read();
    let limit = limit.map_err(|error| {
        format!("cannot tell how much memory there is ({error}): use --budget SIZE")
    })?;
    Ok(limit.fraction(SHARE).bytes())
}

fn bytes(size: ByteSize) -> Result<usize, String> {
    usize::try_from(size.as_u64()).map_err(|_| format!("{size} is more than can be addressed"))
}

fn job_options(options: &Executor) -> JobOptions {
    let mut job = JobOptions::default();
    job.limit = options.job_limit.and_then(|limit| bytes(limit).ok());
    job.task_minimum = bytes(options.task_minimum).unwrap_or(usize::MAX);
    job.retries = options.retries;
    job.task_wait = options.task_wait.map(Duration::from_secs);
    job
}

fn config(
    options: &Executor,
    memory: &BallistaMemory,
    budget: usize,
) -> Result<ExecutorProcessConfig, String> {
    let (host, port) = options
        .scheduler
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| format!("--scheduler {}: it is no HOST:PORT", options.scheduler))?;
    let mut config = ExecutorProcessConfig {
        bind_host: options.bind.to_string(),
        external_host: Some(options.external_host.clone()),
        port: options.port,
        grpc_port: options.grpc_port,
        scheduler_host: host,
        scheduler_port: port,
        scheduler_connect_timeout_seconds: 30,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_heartbeat_interval_seconds: options.heartbeat,
        override_config_producer: Some(Arc::new(session_config)),
        ..ExecutorProcessConfig::default()
    };
    if let Some(cores) = options.cores {
        config.vcores = cores;
    }
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

/// Where the executor's numbers go.
#[derive(Clone)]
struct Scheduler {
    address: String,
    token: Option<Token>,
}

/// How long it may take to tell the scheduler of a refusal.
const PATIENCE: Duration = Duration::from_secs(1);

/// The shortest time between two reports.
const REST: Duration = Duration::from_millis(20);

impl Scheduler {
    /// Tells the numbers once, if that takes no longer than a second.
    async fn tell(&self, executor: &memory::Executor) {
        let told = executor.tell(&self.address, self.token.as_ref());
        // If it does not arrive, the task may come back here.
        let _ = tokio::time::timeout(PATIENCE, told).await;
    }

    /// Tells the numbers each second and when a task has ended, and logs when that begins or ceases to fail.
    async fn keep_telling(&self, executor: &memory::Executor) {
        let mut failed = false;
        loop {
            match executor.tell(&self.address, self.token.as_ref()).await {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    // At the start it may not be registered yet.
                    log::warn!("the scheduler does not get this executor's numbers: {error}");
                    failed = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(REST).await;
            // Room is news. The rest is not urgent.
            let _ = tokio::time::timeout(EACH, executor.memory.task_ended()).await;
        }
    }
}

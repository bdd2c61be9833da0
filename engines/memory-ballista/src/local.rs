//! A cluster of processes of the program `arrow-memory-ballista` on this machine, over loopback: for demos and tests.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{ClusterExecutor, cluster};
use crate::http::Token;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The program.
    pub program: PathBuf,
    /// How many executors there are.
    pub executors: usize,
    /// Options of each executor, beside its ports, its folder and the scheduler's addresses.
    pub executor: Vec<String>,
    /// Options of the scheduler, beside its ports.
    pub scheduler: Vec<String>,
    /// The file with the token of the endpoints.
    pub token_file: Option<PathBuf>,
}

/// A scheduler and its executors. Dropping it ends all of them.
#[derive(Debug)]
pub struct LocalCluster {
    // The executors end first.
    executors: Vec<Process>,
    scheduler: Process,
    port: u16,
    status_port: u16,
    token: Option<Token>,
    folder: TempDir,
}

/// How long processes may take to begin.
const START: Duration = Duration::from_secs(60);

/// How long a process may take to end, before it is killed.
const END: Duration = Duration::from_secs(10);

/// A process of the program. It ends when its input is closed, so also if this process dies.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl LocalOptions {
    fn token_argument(&self) -> Option<String> {
        let file = self.token_file.as_ref()?;
        Some(format!("--token-file={}", file.display()))
    }
}

impl LocalCluster {
    /// Starts the processes, and waits until all executors have told the scheduler their numbers.
    ///
    /// # Errors
    ///
    /// What went wrong, with the end of the log of the process; no process is left then.
    pub async fn start(options: &LocalOptions) -> io::Result<Self> {
        // Ports are chosen before they are bound, and may be taken in between.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(options).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::Other.into()))
    }

    async fn try_start(options: &LocalOptions) -> io::Result<Self> {
        let token = options.token_file.as_deref().map(Token::read).transpose();
        let token = token.map_err(io::Error::other)?;
        let folder = TempDir::new()?;
        let [port, status_port] = free_ports()?;
        let mut arguments = vec![
            "scheduler".to_owned(),
            format!("--port={port}"),
            format!("--status-port={status_port}"),
        ];
        arguments.extend(options.token_argument());
        arguments.extend_from_slice(&options.scheduler);
        let scheduler = Process::start(&options.program, "scheduler", &arguments, folder.path())?;
        let mut cluster = Self {
            executors: Vec::new(),
            scheduler,
            port,
            status_port,
            token,
            folder,
        };
        cluster.wait_for(0).await?;
        for number in 1..=options.executors {
            cluster.start_executor(number, options)?;
        }
        cluster.wait_for(options.executors).await?;
        Ok(cluster)
    }

    fn start_executor(&mut self, number: usize, options: &LocalOptions) -> io::Result<()> {
        let name = format!("executor-{number}");
        let work = self.folder.path().join(&name);
        fs::create_dir(&work)?;
        let [port, grpc, status] = free_ports()?;
        let mut arguments = vec![
            "executor".to_owned(),
            format!("--id={name}"),
            format!("--port={port}"),
            format!("--grpc-port={grpc}"),
            format!("--status-port={status}"),
            format!("--scheduler={}", self.address()),
            format!("--scheduler-status={}", self.status_address()),
            format!("--work-dir={}", work.display()),
        ];
        arguments.extend(options.token_argument());
        arguments.extend_from_slice(&options.executor);
        let process = Process::start(&options.program, &name, &arguments, self.folder.path())?;
        self.executors.push(process);
        Ok(())
    }

    /// Waits until the scheduler answers and knows that many executors.
    async fn wait_for(&mut self, executors: usize) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            for process in self.executors.iter_mut().chain([&mut self.scheduler]) {
                if let Some(status) = process.child.try_wait()? {
                    return Err(process.failed(&format!("ended at its start: {status}")));
                }
            }
            let last = match self.read().await {
                Ok(all) if all.len() >= executors => return Ok(()),
                Ok(all) => format!("{} of {executors} executors have begun", all.len()),
                Err(error) => error,
            };
            if begun.elapsed() > START {
                return Err(self.scheduler.failed(&last));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns host and port of the scheduler.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns host and port of the scheduler's endpoint.
    pub fn status_address(&self) -> String {
        format!("127.0.0.1:{}", self.status_port)
    }

    /// Returns the executors with their trees.
    ///
    /// # Errors
    ///
    /// Those of [`cluster`].
    pub async fn read(&self) -> Result<Vec<ClusterExecutor>, String> {
        cluster(&self.status_address(), self.token.as_ref()).await
    }

    /// Returns the executors' processes.
    pub fn executors(&mut self) -> &mut [Process] {
        &mut self.executors
    }

    /// Returns what the scheduler has written.
    pub fn log(&self) -> String {
        self.scheduler.log()
    }

    /// Ends all processes, and returns how each has ended.
    ///
    /// # Errors
    ///
    /// If the system cannot say how.
    pub fn end(mut self) -> io::Result<Vec<(String, ExitStatus)>> {
        let all = self.executors.iter_mut().chain([&mut self.scheduler]);
        all.map(|process| Ok((process.name.clone(), process.end()?)))
            .collect()
    }
}

impl Process {
    fn start(program: &Path, name: &str, arguments: &[String], folder: &Path) -> io::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = Command::new(program)
            .args(arguments)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it, by `SIGKILL` where there are signals.
    ///
    /// # Errors
    ///
    /// If it has ended before.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Closes its input, and waits until it has ended. After 10 s it is killed.
    fn end(&mut self) -> io::Result<ExitStatus> {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < END {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()
    }

    /// Returns an error with the end of the log.
    fn failed(&self, what: &str) -> io::Error {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n");
        io::Error::other(format!("{}: {what}\n{end}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // If it has ended, there is nothing to end.
        let _ = self.end();
    }
}

/// Returns ports that nothing listens on now.
fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    let mut listeners = Vec::new();
    for _ in 0..COUNT {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

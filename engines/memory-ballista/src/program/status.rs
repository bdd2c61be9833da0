//! The role `status`: the tree of the whole cluster.

use std::fmt::Write;
use std::time::Duration;

use arrow_memory_ballista::{
    ClusterExecutor, ExecutorStatus, ExecutorTree, JobStatus, Token, cluster,
};
use bytesize::ByteSize;

use super::cli::Status;
use super::{host_and_port, print};

/// So many operators of a job are printed, those with the largest peaks.
const OPERATORS: usize = 8;

pub(crate) async fn run(options: Status) -> Result<(), String> {
    host_and_port("--scheduler-status", &options.scheduler_status)?;
    let token = options.token_file.as_deref().map(Token::read).transpose()?;
    loop {
        let executors = cluster(&options.scheduler_status, token.as_ref()).await?;
        if options.json {
            let text = serde_json::to_string(&executors).map_err(|error| error.to_string())?;
            print(&format!("{text}\n"))?;
        } else {
            print(&tree(&executors))?;
        }
        let Some(seconds) = options.watch else {
            return Ok(());
        };
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
        print("\n")?;
    }
}

/// Returns the tree as text: the cluster, its executors, their jobs, and the jobs' operators.
pub(crate) fn tree(executors: &[ClusterExecutor]) -> String {
    let mut text = String::new();
    let numbers: Vec<_> = executors.iter().map(status).collect();
    let total = |all: &mut dyn Iterator<Item = usize>| all.fold(0, usize::saturating_add);
    let sum =
        |field: fn(&ExecutorStatus) -> usize| total(&mut numbers.iter().map(|one| field(one)));
    let limits: Option<Vec<_>> = numbers.iter().map(|one| one.limit).collect();
    let limit = of(limits.map(|limits| total(&mut limits.into_iter())));
    let (running, waiting): (usize, usize) = (sum(|one| one.running), sum(|one| one.waiting));
    let _ = writeln!(
        text,
        "cluster: {}, {} {limit}; tasks: {running} run, {waiting} wait",
        match executors.len() {
            1 => "1 executor".to_owned(),
            number => format!("{number} executors"),
        },
        Size(sum(|one| one.allocated))
    );
    for executor in executors {
        add_executor(&mut text, executor);
    }
    text
}

/// Returns the newest numbers of an executor: those of its answer, or else what it told the scheduler.
fn status(executor: &ClusterExecutor) -> &ExecutorStatus {
    let answered = executor.tree.as_ref().map(|tree| &tree.status);
    answered.unwrap_or(&executor.told.status)
}

fn add_executor(text: &mut String, executor: &ClusterExecutor) {
    let (status, placed) = (status(executor), &executor.told.placed);
    let _ = write!(
        text,
        "  {}: {} {}, peak {}",
        status.executor.escape_debug(),
        Size(status.allocated),
        of(status.limit),
        Size(status.peak)
    );
    if let Some(peak) = status.resident_peak {
        let _ = write!(text, ", resident peak {}", Size(peak));
    }
    let _ = writeln!(
        text,
        "\n    tasks: {} placed here, {} times passed over for want of room, {} waited, {} refused, {} handed back",
        placed.tasks, placed.left_out, status.waited, status.refused, status.handed_back
    );
    match &executor.tree {
        Err(error) => {
            let _ = writeln!(text, "    no answer: {}", error.escape_debug());
        }
        Ok(tree) => add_jobs(text, tree),
    }
}

fn add_jobs(text: &mut String, tree: &ExecutorTree) {
    for job in &tree.jobs {
        add_job(text, job);
    }
    let omitted = &tree.omitted;
    if omitted.jobs + omitted.operators > 0 {
        let _ = writeln!(
            text,
            "    and {} jobs and {} operators more, with {}",
            omitted.jobs,
            omitted.operators,
            Size(omitted.charged)
        );
    }
}

fn add_job(text: &mut String, job: &JobStatus) {
    let _ = writeln!(
        text,
        "    job {}{}: {} {}, peak {}; tasks: {} run, {} wait, {} ended, {} refused; waited {:.1} s",
        job.job.escape_debug(),
        name(job),
        Size(job.allocated),
        of(job.limit),
        Size(job.peak),
        job.running,
        job.waiting,
        job.ended,
        job.refused,
        job.waited_seconds
    );
    for operator in job.operators.iter().take(OPERATORS) {
        let place = format!(
            "stage {} {}",
            operator.stage,
            operator.operator.escape_debug()
        );
        let _ = write!(
            text,
            "      {place:<44} {:>10}  peak {:>10}",
            Size(operator.charged).to_string(),
            Size(operator.peak).to_string()
        );
        if operator.spilled > 0 {
            let _ = write!(text, "  spilled {}", Size(operator.spilled));
        }
        if operator.refused > 0 {
            let _ = write!(text, "  refused {}", operator.refused);
        }
        text.push('\n');
    }
    let others = job.operators.len().saturating_sub(OPERATORS);
    if others > 0 {
        let _ = writeln!(text, "      and {others} operators more");
    }
}

fn name(job: &JobStatus) -> String {
    match &*job.name {
        "" => String::new(),
        name => format!(" `{}`", name.escape_debug()),
    }
}

/// Returns `of 64.0 MiB`, or nothing if there is no limit.
fn of(limit: Option<usize>) -> String {
    limit.map_or("without a limit".to_owned(), |limit| {
        format!("of {}", Size(limit))
    })
}

/// A size in bytes, for people.
pub(crate) struct Size(pub(crate) usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        ByteSize(self.0 as u64).fmt(f)
    }
}

//! A job on an executor: its tasks that run and wait, and what is known of those that have ended.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use arrow_memory_datafusion::{AdmitError, DataFusionMemory, QueryMemory, QueryReport};
use datafusion::execution::TaskContext;
use datafusion::physical_optimizer::PhysicalOptimizerRule;

use crate::counts::Counts;
use crate::options::JobOptions;
use crate::status::{JobStatus, OperatorStatus, finite};

/// A job on this executor.
pub(crate) struct Job {
    id: String,
    /// The name that its session gave it.
    name: String,
    memory: DataFusionMemory,
    counts: Arc<Counts>,
    running: AtomicUsize,
    waiting: AtomicUsize,
    books: Mutex<Books>,
}

/// What is known of a job's tasks that have ended.
struct Books {
    ended: usize,
    refused: usize,
    waited: Duration,
    /// By stage and name. There are as many as the plans of the job have.
    operators: Operators,
    /// The tasks that run, by a number that each gets.
    tasks: HashMap<u64, Weak<QueryMemory>>,
    /// How many tasks have begun.
    begun: u64,
    /// When the last task ended.
    last: Instant,
}

type Operators = HashMap<(usize, String), OperatorStatus>;

/// What the names of tasks in the tree begin with.
const TASK: &str = "task ";

impl Job {
    pub(crate) fn new(
        (id, name): (&str, &str),
        memory: DataFusionMemory,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            memory,
            counts,
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            books: Mutex::new(Books {
                ended: 0,
                refused: 0,
                waited: Duration::ZERO,
                operators: HashMap::new(),
                tasks: HashMap::new(),
                begun: 0,
                last: Instant::now(),
            }),
        }
    }

    pub(crate) fn set_limit(&self, bytes: usize) {
        let allocator = self.memory.allocator();
        if allocator.limit() != bytes {
            allocator.set_limit(bytes);
        }
    }

    /// Returns the rule that lets the operators of a plan be charged.
    pub(crate) fn rule(&self) -> Arc<dyn PhysicalOptimizerRule + Send + Sync> {
        self.memory.rule()
    }

    /// Returns how long the job has had no task; `None` if it has one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let tasks = self.running.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed);
        (tasks == 0).then(|| self.books().last.elapsed())
    }

    /// Lets the job's allocator leave the tree.
    pub(crate) fn retire(&self) {
        self.memory.allocator().retire();
    }

    /// Waits until the task's minimum fits, and sets it aside. Dropping the future ends the wait. `None`: the executor admits no
    /// more tasks.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        (stage, task): (usize, usize),
        options: &JobOptions,
    ) -> Option<Result<Task, AdmitError>> {
        let name = format!("{TASK}{stage}.{task}");
        let mut query = self.memory.query(&name).reservation(options.task_minimum);
        if let Some(wait) = options.task_wait {
            query = query.deadline(wait);
        }
        let begun = Instant::now();
        let mut admission = pin!(query.admit());
        let first = poll_fn(|context| Poll::Ready(admission.as_mut().poll(context))).await;
        let admitted = match first {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => {
                // Relaxed: a number for reports.
                self.counts.waited.fetch_add(1, Ordering::Relaxed);
                let waiting = Counted::waiting(self, options.task_minimum);
                let admitted = tokio::select! {
                    admitted = admission => Some(admitted),
                    () = self.counts.closed() => None,
                };
                drop(waiting);
                self.books().waited += begun.elapsed();
                admitted?
            }
        };
        Some(admitted.map(|query| Task::new(query, self)))
    }

    /// Notes that a task was refused memory, and says whether it is to be handed back: that many times at most, if the work
    /// has failed `attempt` times before.
    pub(crate) fn refused(&self, attempt: usize, retries: usize) -> bool {
        self.books().refused += 1;
        let again = attempt < retries;
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        self.counts
            .handed_back
            .fetch_add(again.into(), Ordering::Relaxed);
        again
    }

    /// Adds to what an operator of a stage has spilled.
    pub(crate) fn spilled(&self, stage: usize, operator: &str, bytes: usize) {
        let mut books = self.books();
        self::operator(&mut books.operators, stage, operator).spilled += bytes;
    }

    pub(crate) fn status(&self) -> JobStatus {
        let allocator = self.memory.allocator();
        let (allocated, peak) = (
            allocator.allocated_memory(),
            allocator.peak_memory_allocation(),
        );
        let books = self.books();
        let running: Vec<_> = books.tasks.values().filter_map(Weak::upgrade).collect();
        let mut status = JobStatus {
            job: self.id.clone(),
            name: self.name.clone(),
            limit: finite(allocator.limit()),
            allocated,
            peak,
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            ended: books.ended,
            refused: books.refused,
            waited_seconds: books.waited.as_secs_f64(),
            operators: Vec::new(),
        };
        let mut operators = books.operators.clone();
        drop(books);
        for task in running {
            add(&mut operators, &task.report(), true);
        }
        status.operators = operators.into_values().collect();
        status.operators.sort_by(|a, b| {
            let place = |operator: &OperatorStatus| (operator.stage, operator.operator.clone());
            b.peak.cmp(&a.peak).then_with(|| place(a).cmp(&place(b)))
        });
        status
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.id).finish()
    }
}

fn operator<'a>(operators: &'a mut Operators, stage: usize, name: &str) -> &'a mut OperatorStatus {
    let new = || OperatorStatus {
        stage,
        operator: name.to_owned(),
        ..OperatorStatus::default()
    };
    operators
        .entry((stage, name.to_owned()))
        .or_insert_with(new)
}

/// Adds the operators of a task, with what they are charged now if it runs.
fn add(operators: &mut Operators, task: &QueryReport, runs: bool) {
    let Some(stage) = stage_of(&task.name) else {
        return;
    };
    for reported in &task.operators {
        operator(operators, stage, &reported.name).add(&OperatorStatus {
            charged: if runs { reported.charged } else { 0 },
            peak: reported.peak,
            spilled: reported.spilled_bytes,
            refused: reported.refused,
            ..OperatorStatus::default()
        });
    }
}

fn stage_of(task: &str) -> Option<usize> {
    let (stage, _) = task.strip_prefix(TASK)?.split_once('.')?;
    stage.parse().ok()
}

/// A task that was admitted. Dropping it gives its reservation back, and grants nothing more. What is still held, by the plan or
/// by what was spawned for it, stays charged until it is dropped.
pub(crate) struct Task {
    query: Arc<QueryMemory>,
    number: u64,
    running: Counted,
}

impl Task {
    fn new(query: QueryMemory, job: &Arc<Job>) -> Self {
        let query = Arc::new(query);
        let running = Counted::running(job);
        let mut books = job.books();
        books.begun += 1;
        let number = books.begun;
        books.tasks.insert(number, Arc::downgrade(&query));
        drop(books);
        Self {
            query,
            number,
            running,
        }
    }

    /// Returns the context of the node at the top of the stage.
    pub(crate) fn context(&self, operator: &str, context: &Arc<TaskContext>) -> TaskContext {
        self.query.operator_context(operator, context)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let report = self.query.report();
        let mut books = self.running.job.books();
        books.ended += 1;
        let removed = books.tasks.remove(&self.number);
        add(&mut books.operators, &report, false);
        drop(books);
        drop(removed);
    }
}

/// One of the tasks that run or wait.
struct Counted {
    job: Arc<Job>,
    waits: bool,
    /// Whether the executor counts it, too. One that waits for its own job's limit is not in the way of others.
    of_executor: bool,
}

impl Counted {
    fn running(job: &Arc<Job>) -> Self {
        Self::new(job, false, true)
    }

    fn waiting(job: &Arc<Job>, minimum: usize) -> Self {
        let allocator = job.memory.allocator();
        let left = allocator
            .limit()
            .saturating_sub(allocator.allocated_memory());
        Self::new(job, true, left >= minimum)
    }

    fn new(job: &Arc<Job>, waits: bool, of_executor: bool) -> Self {
        let counted = Self {
            job: Arc::clone(job),
            waits,
            of_executor,
        };
        for count in counted.counts() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        counted
    }

    fn counts(&self) -> impl Iterator<Item = &AtomicUsize> {
        let (of_job, of_executor) = match self.waits {
            true => (&self.job.waiting, &self.job.counts.waiting),
            false => (&self.job.running, &self.job.counts.running),
        };
        [of_job]
            .into_iter()
            .chain(self.of_executor.then_some(of_executor))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.job.books().last = Instant::now();
        for count in self.counts() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.waits {
            self.job.counts.ended.notify_one();
        }
    }
}

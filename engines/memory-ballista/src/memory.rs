//! The tree of an executor: the root, its jobs, and their tasks.
//!
//! No lock of this module is held while an allocator or a query is made, asked or dropped.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_memory_datafusion::{BufferAllocator, DataFusionMemory, DataFusionMemoryBuilder};
use datafusion::error::{DataFusionError, Result};
use futures::future::BoxFuture;

use crate::counts::Counts;
use crate::job::Job;
use crate::options::JobOptions;
use crate::process::Resident;
use crate::status::{ExecutorStatus, ExecutorTree, finite};

/// An executor's memory in an allocator's tree: the allocator, below it one for each job, and below that one for each task,
/// which has one for each operator. Clones are handles of the same.
#[derive(Clone)]
pub struct BallistaMemory {
    pub(crate) shared: Arc<Shared>,
}

/// Sets up a [`BallistaMemory`].
#[must_use = "a builder does nothing until `build`"]
pub struct BallistaMemoryBuilder {
    allocator: BufferAllocator,
    options: JobOptions,
    configure: Configure,
    tell: Tell,
}

type Configure = Arc<dyn Fn(DataFusionMemoryBuilder) -> DataFusionMemoryBuilder + Send + Sync>;
type Tell = Arc<dyn Fn(BallistaMemory) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) struct Shared {
    allocator: BufferAllocator,
    options: JobOptions,
    configure: Configure,
    tell: Tell,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    pub(crate) counts: Arc<Counts>,
}

/// How long a job without tasks is kept, so that its limit and its numbers last from one stage to the next.
const KEPT: Duration = Duration::from_secs(60);

/// So many jobs without tasks are kept, or fewer.
const MANY: usize = 100;

/// So many jobs and operators are listed in a tree, or fewer.
const LISTED: usize = 10_000;

impl BallistaMemoryBuilder {
    /// Sets what the executor allows, and what holds for sessions that set nothing.
    pub fn job_options(mut self, options: JobOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets what is counted, and how operators share: it is called for each job with a builder for the job's allocator.
    pub fn configure(
        mut self,
        configure: impl Fn(DataFusionMemoryBuilder) -> DataFusionMemoryBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Arc::new(configure);
        self
    }

    /// Sets what is awaited before a task that was refused memory is handed back: to tell the scheduler, so that it places
    /// the task elsewhere. It should end within a second.
    pub fn before_handing_back(
        mut self,
        tell: impl Fn(BallistaMemory) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        self.tell = Arc::new(tell);
        self
    }

    /// Builds it.
    pub fn build(self) -> BallistaMemory {
        BallistaMemory {
            shared: Arc::new(Shared {
                allocator: self.allocator,
                options: self.options,
                configure: self.configure,
                tell: self.tell,
                jobs: Mutex::default(),
                counts: Arc::default(),
            }),
        }
    }
}

impl BallistaMemory {
    /// Returns a builder of what puts an executor under an allocator, whose limit then holds for all its tasks together.
    pub fn builder(allocator: &BufferAllocator) -> BallistaMemoryBuilder {
        BallistaMemoryBuilder {
            allocator: allocator.clone(),
            options: JobOptions::default(),
            configure: Arc::new(|builder| builder),
            tell: Arc::new(|_| Box::pin(std::future::ready(()))),
        }
    }

    /// Returns the executor's allocator.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.shared.allocator
    }

    /// Returns the executor's numbers. The identifier and the address are empty: this does not know them.
    pub fn status(&self) -> ExecutorStatus {
        self.forget();
        let Shared {
            allocator,
            options,
            counts,
            ..
        } = &*self.shared;
        let resident = Resident::read();
        ExecutorStatus {
            limit: finite(allocator.limit()),
            allocated: allocator.allocated_memory(),
            peak: allocator.peak_memory_allocation(),
            task_minimum: options.task_minimum,
            running: counts.running.load(Ordering::Relaxed),
            waiting: counts.waiting.load(Ordering::Relaxed),
            waited: counts.waited.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            handed_back: counts.handed_back.load(Ordering::Relaxed),
            resident: resident.now,
            resident_peak: resident.peak,
            ..ExecutorStatus::default()
        }
    }

    /// Returns the executor's numbers, its jobs and their operators, at most 10,000 of them: first the jobs with the largest
    /// peaks. They are read one after another. It costs about as much as printing the tree.
    pub fn tree(&self) -> ExecutorTree {
        let status = self.status();
        let mut jobs: Vec<_> = self.jobs().iter().map(|job| job.status()).collect();
        jobs.sort_by(|a, b| b.peak.cmp(&a.peak).then_with(|| a.job.cmp(&b.job)));
        let mut tree = ExecutorTree {
            status,
            jobs,
            ..ExecutorTree::default()
        };
        tree.bound(LISTED);
        tree
    }

    /// Has tasks that wait for their minimum, and those that come later and would have to, handed back to the scheduler: for an
    /// executor that is to stop, which Ballista lets finish its tasks first.
    pub fn close_admission(&self) {
        self.shared.counts.closed.send_replace(true);
    }

    /// Ends when a task has ended since the last call, so that there is room that others should know of.
    pub async fn task_ended(&self) {
        self.shared.counts.ended.notified().await;
    }

    /// Returns the job, which begins if it is not known. A job that is known gets the limit that is asked for.
    pub(crate) fn job(&self, id: &str, name: &str, options: JobOptions) -> Result<Arc<Job>> {
        let known = self.lock().get(id).cloned();
        let job = match known {
            Some(job) => job,
            None => {
                let made = Arc::new(self.new_job(id, name)?);
                // Another task may have been faster. What was made here is dropped after the lock.
                let mut jobs = self.lock();
                let kept = Arc::clone(jobs.entry(id.to_owned()).or_insert_with(|| made.clone()));
                drop(jobs);
                kept
            }
        };
        job.set_limit(options.limit.unwrap_or(usize::MAX));
        self.forget();
        Ok(job)
    }

    fn new_job(&self, id: &str, name: &str) -> Result<Job> {
        let child = self.shared.allocator.child(id).group("job").build();
        let allocator =
            child.map_err(|error| DataFusionError::ResourcesExhausted(format!("{error:#}")))?;
        let memory = (self.shared.configure)(DataFusionMemory::builder(&allocator)).build();
        Ok(Job::new(
            (id, name),
            memory,
            Arc::clone(&self.shared.counts),
        ))
    }

    /// Returns the options of jobs of sessions that set nothing.
    pub(crate) fn options(&self) -> JobOptions {
        self.shared.options
    }

    /// Ends when the scheduler knows that a task was refused.
    pub(crate) async fn tell(&self) {
        (self.shared.tell)(self.clone()).await;
    }

    fn jobs(&self) -> Vec<Arc<Job>> {
        self.lock().values().cloned().collect()
    }

    /// Forgets jobs that have had no task for a while, and the oldest of those that have none, if they are many.
    fn forget(&self) {
        let mut forgotten = Vec::new();
        let mut jobs = self.lock();
        let idle = |job: &Arc<Job>| (Arc::strong_count(job) == 1).then(|| job.idle()).flatten();
        forgotten.extend(jobs.extract_if(|_, job| idle(job).is_some_and(|idle| idle > KEPT)));
        let mut left: Vec<_> = jobs
            .iter()
            .filter_map(|(name, job)| Some((idle(job)?, name.clone())))
            .collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        for (_, name) in left.iter().take(left.len().saturating_sub(MANY)) {
            forgotten.extend(jobs.remove_entry(name));
        }
        drop(jobs);
        for (_, job) in forgotten {
            job.retire();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BallistaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BallistaMemory")
            .field(&self.shared.allocator)
            .finish()
    }
}

impl fmt::Debug for BallistaMemoryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BallistaMemoryBuilder")
            .field("allocator", &self.allocator)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

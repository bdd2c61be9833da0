//! A node at the root of a physical plan that gives the plan's execution a query of its own.
//!
//! A server that only calls `ctx.sql(..)` has nobody to admit its queries. So the last rule of the session's physical
//! optimizer puts this node on top of each plan. When the node is executed in a context that is not a query's yet, it
//! makes a query, and executes the plan below in a context with that query's pool. The query ends with the last of
//! the streams.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use datafusion_common::arrow::datatypes::SchemaRef;
use datafusion_common::arrow::record_batch::RecordBatch;
use datafusion_common::error::{DataFusionError, Result};
use datafusion_execution::memory_pool::MemoryLimit;
use datafusion_execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::Stream;
use futures::stream::AbortHandle;

use super::context::with_runtime;
use super::{QueryPool, runtime};
use crate::queries::Queries;
use crate::query::Query;
use crate::text::Size;

/// Begins a query for each execution of a plan that no query runs yet.
pub(super) struct Begins {
    queries: Arc<Queries>,
    /// The queries of the executions that are under way, by their contexts. Partitions of one execution share one.
    runs: Mutex<Vec<Execution>>,
}

/// One execution of a plan, as the plan knows it.
struct Execution {
    context: Weak<TaskContext>,
    run: Weak<Run>,
    /// Partitions that were not executed yet. They may be long after the streams of the others have ended.
    left: usize,
    /// Keeps the run until all are.
    kept: Option<Arc<Run>>,
}

/// One execution of the plan. Its streams keep it.
struct Run {
    context: Arc<TaskContext>,
    number: u64,
    query: Arc<Query>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.query.ended(self.number);
        self.query.end("its last stream was dropped");
    }
}

impl Begins {
    pub(super) fn new(queries: &Arc<Queries>) -> Self {
        Self {
            queries: Arc::clone(queries),
            runs: Mutex::default(),
        }
    }

    pub(super) fn execute(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if QueryPool::of_context(&context).is_some() {
            return plan.execute(partition, context);
        }
        let run = self.run(plan, &context)?;
        let inner = plan.execute(partition, Arc::clone(&run.context))?;
        Ok(Box::pin(RunStream { inner, _run: run }))
    }

    /// Returns the run of that context. The first partition that is executed begins it.
    fn run(&self, plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Arc<Run>> {
        if let Some(run) = self.known(context) {
            return Ok(run);
        }
        let begun = Arc::new(self.begin(context)?);
        // Another partition may have been faster. Then this run ends after the lock was released.
        let faster = {
            let mut runs = self.runs();
            let found = find(&mut runs, context);
            if found.is_none() {
                let left = plan
                    .output_partitioning()
                    .partition_count()
                    .saturating_sub(1);
                runs.push(Execution {
                    context: Arc::downgrade(context),
                    run: Arc::downgrade(&begun),
                    left,
                    kept: (left > 0).then(|| Arc::clone(&begun)),
                });
            }
            found
        };
        Ok(faster.map_or(begun, |(run, _kept)| run))
    }

    fn known(&self, context: &Arc<TaskContext>) -> Option<Arc<Run>> {
        let mut runs = self.runs();
        let gone = |one: &mut Execution| one.context.strong_count() == 0;
        let gone: Vec<_> = runs.extract_if(.., gone).collect();
        let found = find(&mut runs, context);
        drop(runs);
        drop(gone);
        Some(found?.0)
    }

    fn runs(&self) -> MutexGuard<'_, Vec<Execution>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, context: &TaskContext) -> Result<Run> {
        let limit = self.limit(context)?;
        let query = self.queries.begin(context.task_id().as_deref(), limit);
        let query =
            query.map_err(|error| DataFusionError::ResourcesExhausted(format!("{error:#}")))?;
        // A query that has just begun has not ended. Nobody has a handle that could cancel it.
        let number = query.open(AbortHandle::new_pair().0).unwrap_or(0);
        let runtime = runtime(&context.runtime_env(), &query);
        Ok(Run {
            context: Arc::new(with_runtime(context, runtime)),
            number,
            query,
        })
    }

    /// Returns the limit of a query of that context. After `SET datafusion.runtime.memory_limit` the session has a pool of
    /// DataFusion's with the limit that was set.
    fn limit(&self, context: &TaskContext) -> Result<usize> {
        let options = self.queries.options();
        let pool = context.memory_pool();
        let set = match pool.memory_limit() {
            MemoryLimit::Finite(set) if !pool.is::<QueryPool>() => set,
            _ => return Ok(options.query_limit),
        };
        let largest = options.allow_set.unwrap_or(options.query_limit);
        if set <= largest {
            return Ok(set);
        }
        let (set, largest) = (Size(set), Size(largest));
        Err(DataFusionError::Configuration(format!(
            "datafusion.runtime.memory_limit was set to {set}, and this server allows queries at most {largest}: \
             set a lower limit, or RESET datafusion.runtime.memory_limit"
        )))
    }
}

/// Returns the run of a context, for one more of its partitions, and what kept it if that was the last one: to be dropped
/// without the lock. A context's address is not in use twice: the weak reference keeps it.
fn find(
    runs: &mut [Execution],
    context: &Arc<TaskContext>,
) -> Option<(Arc<Run>, Option<Arc<Run>>)> {
    let same = |one: &&mut Execution| one.context.as_ptr() == Arc::as_ptr(context);
    let mut of_context = runs.iter_mut().filter(same);
    of_context.find_map(|execution| {
        let run = execution.run.upgrade()?;
        execution.left = execution.left.saturating_sub(1);
        let kept = (execution.left == 0).then(|| execution.kept.take());
        Some((run, kept.flatten()))
    })
}

/// A stream of results that keeps its run. The fields are dropped in their order: first the operators.
struct RunStream {
    inner: SendableRecordBatchStream,
    _run: Arc<Run>,
}

impl Stream for RunStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(context)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl RecordBatchStream for RunStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

impl fmt::Debug for Begins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.queries.fmt(f)
    }
}

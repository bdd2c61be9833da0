//! The handle of a query that was admitted.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::BufferAllocator;
#[cfg(feature = "session")]
use datafusion::prelude::DataFrame;
#[cfg(feature = "session")]
use datafusion_common::arrow::record_batch::RecordBatch;
use datafusion_common::error::Result;
use datafusion_execution::runtime_env::RuntimeEnv;
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::ExecutionPlan;

use crate::error::StillHeld;
use crate::port;
use crate::query::Query;
#[cfg(feature = "session")]
use crate::replan;
use crate::report::QueryReport;

/// A query that was admitted. Dropping it cancels the query.
pub struct QueryMemory {
    query: Arc<Query>,
}

/// How long [`QueryMemory::finish`] waits.
const FINISH: Duration = Duration::from_secs(10);
/// The first and the longest pause between two looks at a query that is to finish.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

impl QueryMemory {
    pub(crate) fn new(query: Arc<Query>) -> Self {
        Self { query }
    }

    /// Runs a data frame within this query, and returns all its batches.
    ///
    /// The batches stay charged to the query's allocator `result` until they are dropped, unless what is charged is only
    /// what operators declare ([`Charge`](crate::Charge)).
    ///
    /// # Errors
    ///
    /// Those of DataFusion; [`ResourcesExhausted`](datafusion_common::error::DataFusionError::ResourcesExhausted) if an
    /// operator that cannot spill, or not enough, was refused memory; an execution error once the query was cancelled
    /// or has finished.
    ///
    /// # Panics
    ///
    /// If it is [planned again](crate::OnRefusal::PlanAgain) outside of a tokio runtime whose timer is on.
    #[cfg(feature = "session")]
    #[cfg_attr(docsrs, doc(cfg(feature = "session")))]
    pub async fn collect(&self, frame: DataFrame) -> Result<Vec<RecordBatch>> {
        replan::collected(frame, &self.query).await
    }

    /// Runs a data frame within this query, and returns its batches as they come. The stream does not keep the query:
    /// if this handle is dropped, the stream ends with an error.
    ///
    /// # Errors
    ///
    /// Those of [`collect`](Self::collect), while the frame is planned.
    ///
    /// # Panics
    ///
    /// The stream panics as [`collect`](Self::collect) does.
    #[cfg(feature = "session")]
    #[cfg_attr(docsrs, doc(cfg(feature = "session")))]
    pub async fn execute_stream(&self, frame: DataFrame) -> Result<SendableRecordBatchStream> {
        replan::streamed(frame, &self.query).await
    }

    /// Runs a physical plan within this query. Its partitions are merged into one stream.
    ///
    /// # Errors
    ///
    /// Those of [`collect`](Self::collect), while the plan is set up.
    pub fn execute_plan(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: TaskContext,
    ) -> Result<SendableRecordBatchStream> {
        port::execute(plan, context, &self.query)
    }

    /// Returns the same context with the query's pool, for plans that you execute yourself. Cancelling the query ends their
    /// streams when they are polled next, if the plan has the wrappers of
    /// [`DataFusionMemory::rule`](crate::DataFusionMemory::rule). Without them nothing more is granted to them.
    pub fn task_context(&self, context: TaskContext) -> TaskContext {
        port::task_context(context, &self.query)
    }

    /// Returns the same context with the pool of one operator of the query, for a node outside of the plan that you execute
    /// yourself, such as one that sends or writes what the plan gives. Whatever it declares belongs to that operator,
    /// and so do the batches that it reads from a plan with the wrappers of
    /// [`DataFusionMemory::rule`](crate::DataFusionMemory::rule): it is charged for the larger of both, and not for their
    /// sum. Each call with the same name returns a context of the same operator.
    pub fn operator_context(&self, operator: &str, context: &Arc<TaskContext>) -> TaskContext {
        port::operator_context(context, &self.query, operator)
    }

    /// Returns a runtime with the query's pool that shares everything else with `runtime`.
    pub fn runtime(&self, runtime: &RuntimeEnv) -> Arc<RuntimeEnv> {
        port::runtime(runtime, &self.query)
    }

    /// Returns the state of the query.
    pub fn report(&self) -> QueryReport {
        QueryReport::of(&self.query)
    }

    /// Returns the query's allocator.
    pub fn allocator(&self) -> &BufferAllocator {
        self.query.allocator()
    }

    /// Sets the query's limit in bytes. A lower one revokes nothing: requests are refused until the query is below it.
    pub fn set_limit(&self, bytes: usize) {
        self.query.allocator().set_limit(bytes);
    }

    /// Ends the query: its streams end with an error that has the reason, and nothing more is granted. What they hold is
    /// given back when they are polled next, or dropped. Tasks that DataFusion has spawned end when they next yield: an
    /// operator in a long computation, such as a nested-loop join, goes on with it and keeps its memory until then. So call
    /// [`finish`](Self::finish) again if it fails.
    pub fn cancel(&self, reason: &str) {
        self.query.end(&format!("it was cancelled: {reason}"));
    }

    /// Waits until the query declares and holds nothing and has no open stream, at most 10 seconds, then ends it. Heap that
    /// its operators have left in caches, which `arrow-memory-global` knows of, does not count.
    ///
    /// # Errors
    ///
    /// [`StillHeld`] with the operators that hold something. The query goes on then: drop what keeps it, or
    /// [`cancel`](Self::cancel) it, and call this again.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime whose timer is on.
    pub async fn finish(&self) -> Result<QueryReport, StillHeld> {
        self.finish_within(FINISH).await
    }

    /// Does the same as [`finish`](Self::finish) with another deadline.
    ///
    /// # Errors
    ///
    /// Those of [`finish`](Self::finish).
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime whose timer is on.
    pub async fn finish_within(&self, deadline: Duration) -> Result<QueryReport, StillHeld> {
        let begun = Instant::now();
        let (mut pause, longest) = PAUSES;
        // Tasks that were aborted drop what they hold when a worker comes to them, and tell nobody: so this looks.
        while self.query.open_streams() > 0 || self.query.outstanding() > 0 {
            let waited = begun.elapsed();
            let Some(left) = deadline.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(StillHeld {
                    report: self.report(),
                    waited,
                });
            };
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(longest);
        }
        let report = self.report();
        self.query.end("it has finished");
        Ok(report)
    }
}

impl Drop for QueryMemory {
    fn drop(&mut self) {
        self.query.end("its `QueryMemory` was dropped");
    }
}

impl fmt::Debug for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryMemory")
            .field("allocator", self.query.allocator())
            .finish_non_exhaustive()
    }
}

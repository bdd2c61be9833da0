//! All that touches the parts of DataFusion that change from one major version to the next: this file is for 55.
//!
//! It relies on the following. A registration keeps the pool object that it was made with, so that the pool tells
//! which query a consumer belongs to. A [`RuntimeEnv`] is a struct of public `Arc`s, so that one for a query shares
//! everything but the pool. An operator spills if it is refused with a bare [`DataFusionError::ResourcesExhausted`],
//! and fails if that is wrapped. The pool never reads a reservation's size: whether it changes before or after the
//! call of the pool has differed between versions.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_memory_core::BufferAllocator;
#[cfg(feature = "session")]
use datafusion::execution::SessionStateBuilder;
use datafusion_common::arrow::datatypes::SchemaRef;
use datafusion_common::arrow::record_batch::RecordBatch;
use datafusion_common::error::{DataFusionError, Result};
use datafusion_execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion_execution::runtime_env::RuntimeEnv;
use datafusion_execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::{ExecutionPlan, execute_stream};
use futures::Stream;
use futures::stream::{AbortHandle, Abortable};

use crate::operator::{Consumer, Operator, Seen};
use crate::policy::{bound, levels};
use crate::query::Query;
use crate::text::Size;

mod batches;
mod context;
mod root;
mod rule;
mod wrapper;

pub(crate) use rule::QueryRule;

// ---- the pool -------------------------------------------------------------------------------

/// DataFusion's interface to the books of a query.
#[derive(Debug)]
pub(crate) struct QueryPool {
    query: Arc<Query>,
    /// Whom its consumers belong to. `None`: to the operators of their names.
    operator: Option<Arc<Operator>>,
    /// Whether there is a disk to spill to.
    disk: bool,
    /// The context that the one with this pool is a part of, if that lacks the session's functions.
    whole: Option<Arc<TaskContext>>,
}

impl QueryPool {
    /// Returns the pool of a query, in which there is a disk to spill to or not.
    pub(crate) fn of(query: &Arc<Query>, disk: bool) -> Arc<dyn MemoryPool> {
        Arc::new(Self {
            query: Arc::clone(query),
            operator: None,
            disk,
            whole: None,
        })
    }

    /// Returns the pool of a context in which a query runs.
    fn of_context(context: &TaskContext) -> Option<&Self> {
        let pool = context.memory_pool().downcast_ref::<Self>();
        pool.filter(|pool| !pool.query.is_shared())
    }

    fn consumer(&self, consumer: &MemoryConsumer) -> Arc<Consumer> {
        let name = consumer.name();
        // In this version, those register as if they could not, and do spill when they are refused; these register as if
        // they could, and fail when they are.
        let can_spill = (consumer.can_spill() || name.starts_with("SMJStream"))
            && !name.starts_with("OrderedFinal");
        let seen = Seen {
            id: consumer.id(),
            name,
            can_spill: can_spill && self.disk,
            frees_by_spilling: !name.starts_with("RepartitionExec"),
        };
        self.query.consumer(seen, self.operator.as_ref())
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "arrow-memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.consumer(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.query.unregister(consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.consumer(reservation.consumer()).grow(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.consumer(reservation.consumer()).shrink(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = self.consumer(reservation.consumer());
        let grown = self.query.try_grow(&consumer, additional);
        grown.map_err(DataFusionError::ResourcesExhausted)
    }

    fn reserved(&self) -> usize {
        self.query.allocator().allocated_memory()
    }

    fn memory_limit(&self) -> MemoryLimit {
        match smallest_limit(self.query.allocator()) {
            Some(limit) => MemoryLimit::Finite(limit),
            None => MemoryLimit::Infinite,
        }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allocator = self.query.allocator();
        write!(
            f,
            "arrow-memory({}, used: {}, limit: ",
            allocator.info(),
            Size(self.reserved())
        )?;
        match smallest_limit(allocator) {
            Some(limit) => write!(f, "{})", Size(limit)),
            None => f.write_str("none)"),
        }
    }
}

/// Returns the smallest limit between an allocator and its root.
fn smallest_limit(allocator: &BufferAllocator) -> Option<usize> {
    levels(allocator)
        .map(|level| bound(&level))
        .min()
        .filter(|&limit| limit <= isize::MAX as usize)
}

// ---- a query's own runtime ------------------------------------------------------------------

/// Returns a runtime that has the query's pool, and shares everything else with `runtime`.
pub(crate) fn runtime(runtime: &RuntimeEnv, query: &Arc<Query>) -> Arc<RuntimeEnv> {
    let disk = runtime.disk_manager.tmp_files_enabled();
    Arc::new(RuntimeEnv {
        memory_pool: QueryPool::of(query, disk),
        ..runtime.clone()
    })
}

/// Returns the same context, in which operators register with the query's pool.
pub(crate) fn task_context(context: TaskContext, query: &Arc<Query>) -> TaskContext {
    let runtime = runtime(&context.runtime_env(), query);
    context.with_runtime(runtime)
}

/// Returns the same context, in which everything belongs to one operator of the query.
pub(crate) fn operator_context(
    context: &Arc<TaskContext>,
    query: &Arc<Query>,
    operator: &str,
) -> TaskContext {
    let operator = query.operator(None, operator);
    context::of_operator(context, query, &operator, context::Functions::Needed)
}

#[cfg(feature = "session")]
/// Gives a session the pool of `shared`, and the rule that gives each of its queries a pool of its own.
pub(crate) fn configure(
    mut builder: SessionStateBuilder,
    shared: &Arc<Query>,
    rule: Arc<QueryRule>,
) -> SessionStateBuilder {
    let own = builder.runtime_env().take().unwrap_or_default();
    builder
        .with_runtime_env(runtime(&own, shared))
        .with_physical_optimizer_rule(rule)
}

// ---- streams --------------------------------------------------------------------------------

/// Executes a plan within a query: with wrappers, and in `context` with the query's pool.
pub(crate) fn execute(
    plan: Arc<dyn ExecutionPlan>,
    context: TaskContext,
    query: &Arc<Query>,
) -> Result<SendableRecordBatchStream> {
    let plan = rule::counted(plan, query.options())?;
    let context = task_context(context, query);
    let (abort, registration) = AbortHandle::new_pair();
    let number = query.open(abort).map_err(|reason| ended(query, &reason))?;
    // From here on its drop closes the stream, also if `execute_stream` fails or panics.
    let mut stream = QueryStream {
        schema: plan.schema(),
        inner: None,
        number,
        query: Arc::clone(query),
    };
    let results = execute_stream(plan, Arc::new(context))?;
    stream.inner = Some(Abortable::new(results, registration));
    Ok(Box::pin(stream))
}

fn ended(query: &Query, reason: &str) -> DataFusionError {
    DataFusionError::Execution(format!(
        "query `{}` has ended: {reason}",
        query.allocator().info()
    ))
}

/// The results of a query. Once the query is cancelled it ends with an error, and drops the operators.
struct QueryStream {
    schema: SchemaRef,
    inner: Option<Abortable<SendableRecordBatchStream>>,
    number: u64,
    query: Arc<Query>,
}

impl QueryStream {
    /// Drops the operators.
    fn end(&mut self) {
        self.inner = None;
        self.query.ended(self.number);
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let next = Pin::new(&mut *inner).poll_next(context);
        if !matches!(next, Poll::Ready(None)) {
            return next;
        }
        let aborted = inner.is_aborted();
        self.end();
        let reason = self.query.end_reason().filter(|_| aborted);
        Poll::Ready(reason.map(|reason| Err(ended(&self.query, &reason))))
    }
}

impl RecordBatchStream for QueryStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for QueryStream {
    fn drop(&mut self) {
        self.end();
    }
}

//! All that touches the parts of DataFusion that change from one major version to the next: this file is for 55.
//!
//! It relies on the following. A registration keeps the pool object that it was made with, so that the pool tells
//! which query a consumer belongs to. A [`RuntimeEnv`] is a struct of public `Arc`s, so that one for a query shares
//! everything but the pool. An operator spills if it is refused with a bare [`DataFusionError::ResourcesExhausted`],
//! and fails if that is wrapped. The pool never reads a reservation's size: whether it changes before or after the
//! call of the pool has differed between versions.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arrow_memory_core::BufferAllocator;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{
    RecordBatchStream, SendableRecordBatchStream, SessionStateBuilder, TaskContext,
};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::Stream;
use futures::stream::{AbortHandle, Abortable};

use crate::open::{Open, Spills};
use crate::query::{Query, Seen};
use crate::refusal;
use crate::text::Size;

mod root;

pub(crate) use root::QueryRule;

// ---- the pool -------------------------------------------------------------------------------

/// DataFusion's interface to the books of a query.
#[derive(Debug)]
pub(crate) struct QueryPool {
    query: Arc<Query>,
}

impl QueryPool {
    pub(crate) fn of(query: &Arc<Query>) -> Arc<dyn MemoryPool> {
        Arc::new(Self {
            query: Arc::clone(query),
        })
    }
}

fn seen(consumer: &MemoryConsumer) -> Seen<'_> {
    Seen {
        id: consumer.id(),
        name: consumer.name(),
        can_spill: consumer.can_spill(),
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "arrow-memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.query.consumer(seen(consumer));
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.query.unregister(consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.query
            .consumer(seen(reservation.consumer()))
            .grow(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.query
            .consumer(seen(reservation.consumer()))
            .shrink(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = self.query.consumer(seen(reservation.consumer()));
        consumer.try_grow(additional).map_err(|error| {
            let text = refusal::text(&self.query, &consumer, additional, &error);
            DataFusionError::ResourcesExhausted(text)
        })
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
    let levels = std::iter::successors(Some(allocator.clone()), BufferAllocator::parent_allocator);
    levels
        .map(|level| level.limit())
        .min()
        .filter(|&limit| limit <= isize::MAX as usize)
}

// ---- a query's own runtime ------------------------------------------------------------------

/// Returns a runtime that has the query's pool, and shares everything else with `runtime`.
pub(crate) fn runtime(runtime: &RuntimeEnv, query: &Arc<Query>) -> Arc<RuntimeEnv> {
    Arc::new(RuntimeEnv {
        memory_pool: QueryPool::of(query),
        ..runtime.clone()
    })
}

/// Returns the same context, in which operators register with the query's pool.
pub(crate) fn task_context(context: TaskContext, query: &Arc<Query>) -> TaskContext {
    let runtime = runtime(&context.runtime_env(), query);
    context.with_runtime(runtime)
}

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

struct RunningPlan(Weak<dyn ExecutionPlan>);

impl Spills for RunningPlan {
    fn spilled(&self) -> Option<usize> {
        Some(spilled(&self.0.upgrade()?))
    }
}

/// Returns what a query keeps of a stream, or of several that one handle ends.
fn open(plan: &Arc<dyn ExecutionPlan>, abort: AbortHandle) -> Open {
    Open {
        abort,
        plan: Arc::new(RunningPlan(Arc::downgrade(plan))),
    }
}

fn spilled(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let (mut bytes, mut plans) = (0, vec![plan]);
    while let Some(plan) = plans.pop() {
        bytes += plan
            .metrics()
            .and_then(|metrics| metrics.spilled_bytes())
            .unwrap_or(0);
        plans.extend(plan.children());
    }
    bytes
}

/// Executes a plan in `context`, which has the query's pool.
pub(crate) fn execute(
    plan: Arc<dyn ExecutionPlan>,
    context: TaskContext,
    query: &Arc<Query>,
) -> Result<SendableRecordBatchStream> {
    let (abort, registration) = AbortHandle::new_pair();
    let number = query
        .open(open(&plan, abort))
        .map_err(|reason| ended(query, &reason))?;
    // From here on its drop closes the stream, also if `execute_stream` fails or panics.
    let mut stream = QueryStream {
        schema: plan.schema(),
        inner: None,
        plan: Some(Arc::clone(&plan)),
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
    plan: Option<Arc<dyn ExecutionPlan>>,
    number: u64,
    query: Arc<Query>,
}

impl QueryStream {
    /// Drops the operators, then notes what they have spilled.
    fn end(&mut self) {
        self.inner = None;
        if let Some(plan) = self.plan.take() {
            let spilled = spilled(&plan);
            drop(plan);
            self.query.ended(self.number, spilled);
        }
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

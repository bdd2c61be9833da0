//! The batches of an operator, charged to whoever holds them.
//!
//! Each wrapped operator executes what is below it in a context with a pool of its own. So a wrapper finds in the context
//! that it is executed in the pool of the operator above it: it knows both ends, and hands each batch from its own
//! operator to that one. The context of a plan's root has the query's pool; what comes out there is the result's.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use arrow_memory_arrow::Shares;
use datafusion_common::arrow::array::{Array, ArrayData};
use datafusion_common::arrow::datatypes::SchemaRef;
use datafusion_common::arrow::record_batch::RecordBatch;
use datafusion_common::error::{DataFusionError, Result};
use datafusion_execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::metrics::{Count, Gauge, Metric, MetricValue, MetricsSet, Time};
use futures::Stream;

use super::QueryPool;
use super::context::{Functions, of_operator};
use crate::operator::{Operator, Spills};
use crate::query::Query;

/// What a wrapper knows of its operator, and of the executions that are under way.
pub(super) struct Batches {
    /// Unique in the process. Copies of the plan with other children or a fresh state have the same.
    node: u64,
    /// The operator's name and its number in the plan.
    name: Box<str>,
    gives: Gives,
    /// For a context that the operator was executed in, the one with its own pool. Neither is kept by this.
    contexts: Mutex<Vec<(Weak<TaskContext>, Weak<TaskContext>)>>,
    /// The operator in the query that ran last. It stays for its metrics.
    last: Mutex<Option<Arc<Operator>>>,
}

/// Whose memory the batches are that an operator gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    /// Its own, or its inputs': it is charged for what it has handed on and still has.
    Own,
    /// That of a table that is kept in memory, which is nobody's in the query.
    Lent,
    /// Its own, or somebody else's: of a node that is not DataFusion's. What is still had when the receiver has dropped it
    /// is not charged, since it may be in a cache.
    Unknown,
}

impl Batches {
    pub(super) fn new(node: u64, name: Box<str>, gives: Gives) -> Self {
        Self {
            node,
            name,
            gives,
            contexts: Mutex::default(),
            last: Mutex::default(),
        }
    }

    pub(super) fn execute(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(pool) = QueryPool::of_context(&context) else {
            return plan.execute(partition, context);
        };
        let query = Arc::clone(&pool.query);
        let to = pool.operator.clone().unwrap_or_else(|| query.result());
        let from = query.operator(Some(self.node), &self.name);
        let before = self.last().replace(Arc::clone(&from));
        drop(before);
        let functions = Functions::of(plan.as_ref());
        let own = self.own_context(&context, &query, &from, functions);
        if self.gives == Gives::Lent {
            // A leaf: it keeps the table, and nothing of the plan.
            query.lent().keep(Arc::new(Arc::clone(plan)));
        }
        let known = plan.metrics().map_or(0, |metrics| metrics.iter().count());
        let stream = from.run(|| plan.execute(partition, own))?;
        // Counters of this stream, without the plan: that may keep what its operators have built.
        let metrics = plan.metrics().unwrap_or_default();
        let new = metrics.iter().skip(known);
        let of_stream = new.filter(|metric| metric.partition() == Some(partition));
        let counters = of_stream.filter_map(|metric| match metric.value() {
            MetricValue::SpilledBytes(count) => Some(count.clone()),
            _ => None,
        });
        let shares = Arc::new(Shares::new());
        from.returns(Arc::new(Spilled(counters.collect())), &shares);
        to.begins_to_read(partition);
        Ok(Box::pin(HandOver {
            stream: Some(stream),
            schema: plan.schema(),
            partition,
            gives: self.gives,
            from,
            to,
            query,
            shares,
        }))
    }

    /// Returns the context with the operator's own pool. All partitions that are executed in one context share one.
    fn own_context(
        &self,
        context: &Arc<TaskContext>,
        query: &Arc<Query>,
        operator: &Arc<Operator>,
        functions: Functions,
    ) -> Arc<TaskContext> {
        let find = |contexts: &[(Weak<TaskContext>, Weak<TaskContext>)]| {
            // An address is not in use twice: the weak reference keeps it.
            let mut same = contexts
                .iter()
                .filter(|(theirs, _)| theirs.as_ptr() == Arc::as_ptr(context));
            same.find_map(|(_, own)| own.upgrade())
        };
        if let Some(own) = find(&self.contexts()) {
            return own;
        }
        let made = Arc::new(of_operator(context, query, operator, functions));
        let mut contexts = self.contexts();
        contexts.retain(|(_, own)| own.strong_count() > 0);
        // Another partition may have been faster. What was made here is dropped after the lock.
        let own = find(&contexts).unwrap_or_else(|| {
            contexts.push((Arc::downgrade(context), Arc::downgrade(&made)));
            Arc::clone(&made)
        });
        drop(contexts);
        own
    }

    /// Adds what the operator held in the last query that it ran in. All partitions share these numbers, so that they
    /// belong to none.
    pub(super) fn add_metrics(&self, metrics: &mut MetricsSet) {
        let Some(operator) = self.last().clone() else {
            return;
        };
        let name = Cow::Borrowed;
        let peak = |name, bytes| {
            let gauge = Gauge::new();
            gauge.set(bytes);
            MetricValue::PeakMemoryUsage { name, gauge }
        };
        let count = |name, number| {
            let count = Count::new();
            count.add(number);
            MetricValue::Count { name, count }
        };
        let numbers = operator.numbers();
        let waited = Time::new();
        // It takes no time for a nanosecond.
        if !numbers.waited.is_zero() {
            waited.add_duration(numbers.waited);
        }
        for value in [
            peak(name("mem_peak"), numbers.peak),
            peak(name("mem_held_peak"), numbers.held_peak),
            count(name("mem_refused"), saturated(numbers.refused)),
            count(name("mem_revoked"), saturated(numbers.revoked)),
            count(name("mem_forced_bytes"), saturated(numbers.forced_bytes)),
            MetricValue::Time {
                name: name("mem_wait"),
                time: waited,
            },
        ] {
            metrics.push(Arc::new(Metric::new(value, None)));
        }
    }

    fn contexts(&self) -> std::sync::MutexGuard<'_, Vec<(Weak<TaskContext>, Weak<TaskContext>)>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Arc<Operator>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batches").field(&self.name).finish()
    }
}

/// The counters of what a stream spills.
struct Spilled(Vec<Count>);

impl Spills for Spilled {
    fn spilled(&self) -> usize {
        self.0.iter().map(Count::value).sum()
    }
}

/// The stream of an operator's batches, each of which goes to the operator that holds it next.
struct HandOver {
    stream: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    partition: usize,
    gives: Gives,
    from: Arc<Operator>,
    to: Arc<Operator>,
    query: Arc<Query>,
    /// What the receiver shares with the operator.
    shares: Arc<Shares>,
}

impl HandOver {
    /// Drops what is below, once.
    fn end(&mut self) {
        if self.stream.take().is_some() {
            self.shares.clear();
            self.from.has_returned();
            self.to.has_read(self.partition);
        }
    }

    fn hand_over(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.gives == Gives::Lent {
            for column in batch.columns() {
                self.query.lent().add(starts(&column.to_data()));
            }
            return Ok(batch);
        }
        let shares = (self.gives == Gives::Own).then_some(&*self.shares);
        let handed = self.query.hand_over(batch, &self.from, &self.to, shares);
        handed.map_err(DataFusionError::ResourcesExhausted)
    }
}

/// How many allocations are looked at after each poll, to see whether the operator still has them.
const SWEPT: usize = 256;

/// Returns where the allocations of an array start.
fn starts(data: &ArrayData) -> Vec<NonNull<u8>> {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    let buffers = data.buffers().iter().chain(nulls);
    let own = buffers.map(|buffer| buffer.data_ptr());
    own.chain(data.child_data().iter().flat_map(starts))
        .collect()
}

impl Stream for HandOver {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.stream.is_some() && this.query.has_ended() {
            // What was spawned for it, and nobody aborts, ends here.
            this.end();
            let reason = this.query.end_reason().unwrap_or_default();
            return Poll::Ready(Some(Err(super::ended(&this.query, &reason))));
        }
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        let polled = this.from.run(|| stream.as_mut().poll_next(context));
        let polled = match polled {
            Poll::Ready(Some(Ok(batch))) => Poll::Ready(Some(this.hand_over(batch))),
            Poll::Ready(None) => {
                this.end();
                return Poll::Ready(None);
            }
            other => other,
        };
        // Only its own code drops what it keeps, and most of that runs when it is polled.
        this.from.sweep(SWEPT);
        this.shares.sweep();
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.as_ref().map_or((0, Some(0)), Stream::size_hint)
    }
}

impl RecordBatchStream for HandOver {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.end();
    }
}

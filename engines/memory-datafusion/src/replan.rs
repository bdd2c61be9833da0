//! Queries that are planned again, with joins that spill, once they were refused memory.
//!
//! A hash join cannot spill. A sort-merge join can, and takes longer. So a query begins with the plan that is fast, and if
//! that is refused before it has returned anything, it begins anew with the one that needs less.
//!
//! The compiler compiles the body of an async function anew in each crate that awaits it, and DataFusion's bodies are large.
//! The functions here are neither async nor generic, so that what they await is compiled once, in this crate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::DataFrame;
use datafusion_common::arrow::record_batch::RecordBatch;
use datafusion_common::error::{DataFusionError, Result};
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_execution::SendableRecordBatchStream;
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, StreamExt, TryStreamExt};
use futures::{FutureExt, TryFutureExt, future, stream};

use crate::options::OnRefusal;
use crate::policy::{bound, levels};
use crate::port;
use crate::query::Query;

/// What the second plan waits for at most, so that the first one has given back what it had.
const SETTLING: Duration = Duration::from_secs(1);

/// Plans a frame, and executes it within a query.
pub(crate) fn executed<'a>(
    frame: &'a DataFrame,
    query: &'a Arc<Query>,
) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
    async move {
        let plan = frame.create_physical_plan().await?;
        port::execute(plan, frame.task_ctx(), query)
    }
    .boxed()
}

/// Executes a frame, and returns all its batches. A query that may be planned again drops those of the first plan.
pub(crate) fn collected<'a>(
    frame: DataFrame,
    query: &'a Arc<Query>,
) -> BoxFuture<'a, Result<Vec<RecordBatch>>> {
    async move {
        // From the beginning: `finish` may look between the two plans.
        let _open = may_be_planned_again(&frame, query).then(|| Open::new(query));
        let collected = match executed(&frame, query).await {
            Ok(batches) => batches.try_collect().await,
            Err(error) => Err(error),
        };
        match collected {
            Err(error) if may_begin_anew(&error, &frame, query) => {
                executed_again(frame, query).await?.try_collect().await
            }
            collected => collected,
        }
    }
    .boxed()
}

/// Executes a frame, and returns its batches as they come. A query that may be planned again is, if it was refused before
/// its first batch.
pub(crate) fn streamed<'a>(
    frame: DataFrame,
    query: &'a Arc<Query>,
) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
    async move {
        let first = executed(&frame, query).await?;
        if !may_be_planned_again(&frame, query) {
            return Ok(first);
        }
        let schema = first.schema();
        let batches = begun(first, frame, Arc::clone(query)).try_flatten_stream();
        let batches = RecordBatchStreamAdapter::new(schema, batches);
        Ok(Box::pin(batches) as SendableRecordBatchStream)
    }
    .boxed()
}

/// Waits for the first batch, and returns it with those that follow, or those of the second plan.
fn begun(
    mut batches: SendableRecordBatchStream,
    frame: DataFrame,
    query: Arc<Query>,
) -> BoxFuture<'static, Result<SendableRecordBatchStream>> {
    async move {
        let first = match batches.next().await {
            Some(Err(error)) if may_begin_anew(&error, &frame, &query) => {
                let open = Open::new(&query);
                drop(batches);
                let again = executed_again(frame, &query).await;
                drop(open);
                return again;
            }
            Some(first) => first,
            None => return Ok(batches),
        };
        let schema = batches.schema();
        let batches = stream::once(future::ready(first)).chain(batches);
        let batches = RecordBatchStreamAdapter::new(schema, batches);
        Ok(Box::pin(batches) as SendableRecordBatchStream)
    }
    .boxed()
}

/// A stream that counts as open between two plans, so that the query does not finish.
struct Open {
    query: Arc<Query>,
    number: Option<u64>,
}

impl Open {
    fn new(query: &Arc<Query>) -> Self {
        let (handle, _) = AbortHandle::new_pair();
        Self {
            // A query that has ended says so when the second plan is executed.
            number: query.open(handle).ok(),
            query: Arc::clone(query),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.query.ended(number);
        }
    }
}

fn executed_again<'a>(
    frame: DataFrame,
    query: &'a Arc<Query>,
) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
    async move {
        // Relaxed: a number for reports.
        query.planned_again.fetch_add(1, Ordering::Relaxed);
        // Tasks of the first plan drop what they hold when a worker comes to them, and tell nobody: so this looks.
        let deadline = Instant::now() + SETTLING;
        while query.holds_beside_results()
            && query.end_reason().is_none()
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let limit =
            levels(query.allocator()).fold(usize::MAX, |limit, level| limit.min(bound(&level)));
        executed(&with_plan_that_spills(frame, limit)?, query).await
    }
    .boxed()
}

/// Returns the frame with settings under which it is planned with sort-merge joins, which spill, and with sorts that begin
/// within a limit of that many bytes: what [`OnRefusal::PlanAgain`] executes after a refusal. For engines that execute
/// frames elsewhere.
///
/// # Errors
///
/// [`DataFusionError::NotImplemented`] if the frame does not just read: what it has written would be written twice. So with a
/// node of an extension, of which nobody knows what it does.
#[cfg_attr(docsrs, doc(cfg(feature = "session")))]
pub fn plan_to_spill(frame: DataFrame, limit: usize) -> Result<DataFrame> {
    if count(frame.logical_plan(), may_write)? > 0 {
        let text = "a plan that may write is not executed twice";
        return Err(DataFusionError::NotImplemented(text.to_owned()));
    }
    with_plan_that_spills(frame, limit)
}

fn with_plan_that_spills(frame: DataFrame, limit: usize) -> Result<DataFrame> {
    let (mut state, plan) = frame.into_parts();
    let options = state.config_mut().options_mut();
    options.optimizer.prefer_hash_join = false;
    // A plan of one partition has hash joins only.
    options.optimizer.repartition_joins = true;
    options.execution.target_partitions = options.execution.target_partitions.max(2);
    // A join sorts both of its inputs, and each sort sets this aside for its merge: a third of the limit for all.
    let sorts = 2 * joins(&plan)? * options.execution.target_partitions;
    let aside = &mut options.execution.sort_spill_reservation_bytes;
    *aside = (*aside).min(limit / (3 * sorts.max(1)));
    Ok(DataFrame::new(state, plan))
}

/// Whether a query that failed begins anew.
fn may_begin_anew(error: &DataFusionError, frame: &DataFrame, query: &Query) -> bool {
    let refused = matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
    refused && query.end_reason().is_none() && may_be_planned_again(frame, query)
}

/// Whether that is wanted, and the frame has a join, and does nothing but return batches.
fn may_be_planned_again(frame: &DataFrame, query: &Query) -> bool {
    let plan = frame.logical_plan();
    query.options().on_refusal == OnRefusal::PlanAgain
        && joins(plan).is_ok_and(|joins| joins > 0)
        && count(plan, may_write).is_ok_and(|nodes| nodes == 0)
}

/// Whether a node may write. Nobody knows what one that is not DataFusion's does.
fn may_write(node: &LogicalPlan) -> bool {
    matches!(
        node,
        LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Extension(_)
    )
}

/// Returns the number of joins, before the optimizer makes some of subqueries.
fn joins(plan: &LogicalPlan) -> Result<usize> {
    let is_subquery = |node: &LogicalPlan| matches!(node, LogicalPlan::Subquery(_));
    count(plan, |node| {
        matches!(node, LogicalPlan::Join(_)) || is_subquery(node)
    })
}

/// Counts nodes of a plan and of its subqueries.
fn count(plan: &LogicalPlan, is_one: impl Fn(&LogicalPlan) -> bool) -> Result<usize> {
    let mut nodes = 0;
    plan.apply_with_subqueries(|node| {
        nodes += usize::from(is_one(node));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(nodes)
}

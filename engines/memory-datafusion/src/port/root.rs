//! A node at the root of a physical plan that gives the plan's execution a query of its own.
//!
//! A server that only calls `ctx.sql(..)` has nobody to admit its queries. So the last rule of the session's physical
//! optimizer puts this node on top of each plan. When the node is executed in a context that is not a query's yet, it
//! makes a query, and executes the plan below in a context with that query's pool. The query ends with the last of
//! the streams.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, InvariantLevel, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements,
    PlanProperties, StatisticsArgs,
};
use futures::Stream;
use futures::stream::AbortHandle;

use super::{QueryPool, open, runtime};
use crate::queries::Queries;
use crate::query::Query;

/// The rule that puts a [`QueryRoot`] on top of each plan. It must be the last one.
#[derive(Debug)]
pub(crate) struct QueryRule(pub(crate) Arc<Queries>);

impl PhysicalOptimizerRule for QueryRule {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if (plan.as_ref() as &dyn Any).is::<QueryRoot>() {
            return Ok(plan);
        }
        Ok(QueryRoot::over(plan, &self.0))
    }

    fn name(&self) -> &str {
        "arrow_memory_query"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The node at the root of a plan. It looks like the node below it in every respect but the pool.
///
/// Methods that optimizer rules call are delegated as far as a plan at its root may be asked for them. The others
/// (pushing filters, sorts and projections down) keep their defaults, which change nothing: this rule is the last one.
#[derive(Debug)]
struct QueryRoot {
    inner: Arc<dyn ExecutionPlan>,
    queries: Arc<Queries>,
    /// The queries of the executions that are under way, by their contexts. Partitions of one execution share one.
    runs: Mutex<Vec<(Weak<TaskContext>, Weak<Run>)>>,
}

/// One execution of the plan. Its streams keep it.
struct Run {
    context: Arc<TaskContext>,
    query: Arc<Query>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.query.end("its last stream was dropped");
    }
}

impl QueryRoot {
    fn over(inner: Arc<dyn ExecutionPlan>, queries: &Arc<Queries>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self {
            inner,
            queries: Arc::clone(queries),
            runs: Mutex::default(),
        })
    }

    fn again(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Self::over(inner, &self.queries)
    }

    /// Returns the run of that context. The first partition that is executed begins it.
    fn run(&self, context: &Arc<TaskContext>) -> Result<Arc<Run>> {
        if let Some(run) = self.known(context) {
            return Ok(run);
        }
        let begun = Arc::new(self.begin(context)?);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|(context, _)| context.strong_count() > 0);
        // Another partition may have been faster. Then this run ends after the lock was released.
        let faster = find(&runs, context);
        if faster.is_none() {
            runs.push((Arc::downgrade(context), Arc::downgrade(&begun)));
        }
        drop(runs);
        Ok(faster.unwrap_or(begun))
    }

    fn known(&self, context: &Arc<TaskContext>) -> Option<Arc<Run>> {
        find(
            &self.runs.lock().unwrap_or_else(PoisonError::into_inner),
            context,
        )
    }

    fn begin(&self, context: &TaskContext) -> Result<Run> {
        // After `SET datafusion.runtime.memory_limit` the session has a pool of DataFusion's with that limit.
        let pool = context.memory_pool();
        let set = match pool.memory_limit() {
            MemoryLimit::Finite(limit) if !pool.is::<QueryPool>() => Some(limit),
            _ => None,
        };
        let query = self.queries.begin(context.task_id().as_deref(), set);
        let query =
            query.map_err(|error| DataFusionError::ResourcesExhausted(format!("{error:#}")))?;
        // A query that has just begun has not ended. Nobody has a handle that could cancel it.
        let _number = query.open(open(&self.inner, AbortHandle::new_pair().0));
        let runtime = runtime(&context.runtime_env(), &query);
        Ok(Run {
            context: Arc::new(with_runtime(context, runtime)),
            query,
        })
    }
}

/// Returns the run that belongs to a context. Its address is not in use twice: the weak reference keeps it.
fn find(runs: &[(Weak<TaskContext>, Weak<Run>)], context: &Arc<TaskContext>) -> Option<Arc<Run>> {
    let mut of_context = runs
        .iter()
        .filter(|(known, _)| known.as_ptr() == Arc::as_ptr(context));
    of_context.find_map(|(_, run)| run.upgrade())
}

/// A context can only be copied by naming its parts.
fn with_runtime(context: &TaskContext, runtime: Arc<RuntimeEnv>) -> TaskContext {
    TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone(),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        runtime,
    )
}

impl DisplayAs for QueryRoot {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for QueryRoot {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn check_invariants(&self, check: InvariantLevel) -> Result<()> {
        self.inner.check_invariants(check)
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(Arc::clone(&self.inner).replace_children(children, options)?))
    }

    #[expect(deprecated, reason = "still required")]
    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(Arc::clone(&self.inner).with_new_children(children)?))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.again(Arc::clone(&self.inner).reset_state()?))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.again(self.inner.with_new_state(state)?))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.again(self.inner.with_fetch(limit)?))
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        config: &ConfigOptions,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let repartitioned = self.inner.repartitioned(target_partitions, config)?;
        Ok(repartitioned.map(|plan| self.again(plan)))
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.again(self.inner.with_preserve_order(preserve_order)?))
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        self.inner.input_distribution_requirements()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.inner.required_input_ordering()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.inner.maintains_input_order()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.inner.benefits_from_input_partitioning()
    }

    fn supports_limit_pushdown(&self) -> bool {
        self.inner.supports_limit_pushdown()
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        self.inner.cardinality_effect()
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner.dynamic_expressions_produced()
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        self.inner.statistics_from_inputs(inputs, args)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.inner.child_stats_requests(partition)
    }

    #[expect(
        deprecated,
        reason = "callers of the old method get the statistics of the plan, too"
    )]
    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let pool = context.memory_pool().downcast_ref::<QueryPool>();
        if pool.is_some_and(|pool| !pool.query.is_shared()) {
            return self.inner.execute(partition, context);
        }
        let run = self.run(&context)?;
        let inner = self.inner.execute(partition, Arc::clone(&run.context))?;
        Ok(Box::pin(RunStream { inner, _run: run }))
    }
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

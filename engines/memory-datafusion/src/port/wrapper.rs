//! A node of a physical plan that looks like the node below it in every respect but the memory.
//!
//! `EXPLAIN` does not show it, `downcast_ref` sees through it, and each method that a node has is the inner node's: a lint
//! sees to it that none is left at its default.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use datafusion_common::Statistics;
use datafusion_common::arrow::datatypes::SchemaRef;
use datafusion_common::config::ConfigOptions;
use datafusion_common::error::Result;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_physical_expr::{
    Distribution, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion_physical_plan::execution_plan::{
    CardinalityEffect, InvariantLevel, ReplaceChildrenOptions,
};
use datafusion_physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion_physical_plan::metrics::MetricsSet;
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion_physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements,
    PlanProperties, StatisticsArgs,
};

use super::batches::Batches;
use super::root::Begins;

/// What a wrapper does when it is executed.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// At the root of a plan: begins a query if none runs it.
    Begins(Arc<Begins>),
    /// Over an operator: gives it an allocator, and hands the batches that it returns to whoever holds them next.
    Counts(Arc<Batches>),
}

/// A node around another one.
#[derive(Debug)]
pub(super) struct Wrapper {
    inner: Arc<dyn ExecutionPlan>,
    role: Role,
}

impl Wrapper {
    pub(super) fn over(inner: Arc<dyn ExecutionPlan>, role: Role) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { inner, role })
    }

    /// Returns the role of a node that is a wrapper.
    pub(super) fn role_of(plan: &dyn ExecutionPlan) -> Option<&Role> {
        let wrapper = (plan as &dyn Any).downcast_ref::<Self>()?;
        Some(&wrapper.role)
    }

    fn again(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Self::over(inner, self.role.clone())
    }
}

impl DisplayAs for Wrapper {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

#[deny(clippy::missing_trait_methods)]
impl ExecutionPlan for Wrapper {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn static_name() -> &'static str {
        "Wrapper"
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

    #[expect(deprecated, reason = "plans of users may still have it")]
    fn with_new_children_and_same_properties(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner);
        Ok(self.again(inner.with_new_children_and_same_properties(children)?))
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
        // A node without metrics stays without: some who read them pair them with nodes by position.
        let mut metrics = self.inner.metrics()?;
        if let Role::Counts(batches) = &self.role {
            batches.add_metrics(&mut metrics);
        }
        Some(metrics)
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

    #[expect(deprecated, reason = "plans of users may still have it")]
    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.inner.required_input_distribution()
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

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let swapped = self.inner.try_swapping_with_projection(projection)?;
        Ok(swapped.map(|plan| self.again(plan)))
    }

    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        self.inner
            .gather_filters_for_pushdown(phase, parent_filters, config)
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let mut pushed =
            self.inner
                .handle_child_pushdown_result(phase, child_pushdown_result, config)?;
        pushed.updated_node = pushed.updated_node.map(|plan| self.again(plan));
        Ok(pushed)
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let pushed = self.inner.try_pushdown_sort(order)?;
        Ok(match pushed {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact {
                inner: self.again(inner),
            },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact {
                inner: self.again(inner),
            },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
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

    #[cfg(feature = "proto")]
    fn try_to_proto(
        &self,
        context: &datafusion_physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<datafusion_proto_models::protobuf::PhysicalPlanNode>> {
        self.inner.try_to_proto(context)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        match &self.role {
            Role::Begins(begins) => begins.execute(&self.inner, partition, context),
            Role::Counts(batches) => batches.execute(&self.inner, partition, context),
        }
    }
}

//! Copies of a context with another pool.
//!
//! A context can only be copied by naming its parts, among them maps of hundreds of functions, which takes tens of
//! microseconds: as long as some operators run. DataFusion's own operators never look for a function while they are
//! executed. So their contexts are without functions, and know the whole context for whoever is executed below them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion_execution::TaskContext;
use datafusion_execution::runtime_env::RuntimeEnv;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::aggregates::AggregateExec;
use datafusion_physical_plan::analyze::AnalyzeExec;
use datafusion_physical_plan::async_func::AsyncFuncExec;
use datafusion_physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion_physical_plan::coop::CooperativeExec;
use datafusion_physical_plan::filter::FilterExec;
use datafusion_physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion_physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::recursive_query::RecursiveQueryExec;
use datafusion_physical_plan::repartition::RepartitionExec;
use datafusion_physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion_physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion_physical_plan::sorts::sort::SortExec;
use datafusion_physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion_physical_plan::union::{InterleaveExec, UnionExec};
use datafusion_physical_plan::unnest::UnnestExec;
use datafusion_physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

use super::QueryPool;
use crate::operator::Operator;
use crate::query::Query;

/// Returns the same context with another runtime.
pub(super) fn with_runtime(context: &TaskContext, runtime: Arc<RuntimeEnv>) -> TaskContext {
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

/// Returns the context of an operator, with a pool of its own, for one that is executed in `context`.
pub(super) fn of_operator(
    context: &Arc<TaskContext>,
    query: &Arc<Query>,
    operator: &Arc<Operator>,
    functions: Functions,
) -> TaskContext {
    let pool = QueryPool::of_context(context);
    let whole = pool.and_then(|pool| pool.whole.as_ref()).unwrap_or(context);
    let runtime = context.runtime_env();
    let runtime = |whole: Option<&Arc<TaskContext>>| {
        let pool = QueryPool {
            query: Arc::clone(query),
            operator: Some(Arc::clone(operator)),
            disk: runtime.disk_manager.tmp_files_enabled(),
            whole: whole.cloned(),
        };
        Arc::new(RuntimeEnv {
            memory_pool: Arc::new(pool),
            ..runtime.as_ref().clone()
        })
    };
    match functions {
        Functions::Needed => with_runtime(whole, runtime(None)),
        Functions::Unused => TaskContext::new(
            context.task_id(),
            context.session_id(),
            context.session_config().clone(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            runtime(Some(whole)),
        ),
    }
}

/// Whether an operator may look for functions in its context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Functions {
    /// It may.
    Needed,
    /// It never does.
    Unused,
}

impl Functions {
    /// Returns what a node does. One that is not known may look for them.
    pub(super) fn of(plan: &dyn ExecutionPlan) -> Self {
        match is_datafusions(plan) {
            true => Self::Unused,
            false => Self::Needed,
        }
    }
}

/// Whether a node is an operator of DataFusion's own. One that changes data of others, or that explains, is not in the
/// list.
pub(super) fn is_datafusions(plan: &dyn ExecutionPlan) -> bool {
    macro_rules! is_any {
        ($($type:ty),*) => { $(plan.is::<$type>())||* };
    }
    is_any!(
        AggregateExec,
        AnalyzeExec,
        AsyncFuncExec,
        BoundedWindowAggExec,
        CoalescePartitionsExec,
        CooperativeExec,
        CrossJoinExec,
        FilterExec,
        GlobalLimitExec,
        HashJoinExec,
        InterleaveExec,
        LocalLimitExec,
        NestedLoopJoinExec,
        PartialSortExec,
        ProjectionExec,
        RecursiveQueryExec,
        RepartitionExec,
        ScalarSubqueryExec,
        SortExec,
        SortMergeJoinExec,
        SortPreservingMergeExec,
        SymmetricHashJoinExec,
        UnionExec,
        UnnestExec,
        WindowAggExec
    )
}

//! Copies of a context with another pool.
//!
//! A context can only be copied by naming its parts, among them maps of hundreds of functions, which takes tens of
//! microseconds: as long as some operators run. DataFusion's own operators never look for a function while they are
//! executed. So their contexts are without functions, and know the whole context for whoever is executed below them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion_execution::TaskContext;
use datafusion_execution::runtime_env::RuntimeEnv;

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
    /// Returns what an operator of that name does. Those that are not known may look for them.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "AggregateExec"
            | "BoundedWindowAggExec"
            | "CoalescePartitionsExec"
            | "CrossJoinExec"
            | "FilterExec"
            | "GlobalLimitExec"
            | "HashJoinExec"
            | "LocalLimitExec"
            | "NestedLoopJoinExec"
            | "PartialSortExec"
            | "ProjectionExec"
            | "RepartitionExec"
            | "SortExec"
            | "SortMergeJoinExec"
            | "SortPreservingMergeExec"
            | "UnionExec"
            | "WindowAggExec" => Self::Unused,
            _ => Self::Needed,
        }
    }
}

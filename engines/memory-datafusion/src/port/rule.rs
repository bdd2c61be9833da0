//! The rule that puts wrappers into each physical plan of a session: one at its root, and one over each operator that has
//! an allocator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion_common::config::ConfigOptions;
use datafusion_common::error::Result;
use datafusion_datasource::file_scan_config::FileScanConfig;
use datafusion_datasource::memory::MemorySourceConfig;
use datafusion_datasource::source::DataSourceExec;
use datafusion_physical_optimizer::PhysicalOptimizerRule;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::empty::EmptyExec;
use datafusion_physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion_physical_plan::explain::ExplainExec;
use datafusion_physical_plan::memory::LazyMemoryExec;
use datafusion_physical_plan::placeholder_row::PlaceholderRowExec;

use super::batches::{Batches, Gives};
use super::context::is_datafusions;
use super::root::Begins;
use super::wrapper::{Role, Wrapper};
use crate::options::{Charge, Granularity, Options};
use crate::queries::Queries;

/// The rule. It must be the last one.
#[derive(Debug)]
pub(crate) struct QueryRule(pub(crate) Arc<Queries>);

impl PhysicalOptimizerRule for QueryRule {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(Role::Begins(_)) = Wrapper::role_of(plan.as_ref()) {
            return Ok(plan);
        }
        let counted = counted(plan, self.0.options())?;
        let begins = Role::Begins(Arc::new(Begins::new(&self.0)));
        Ok(Wrapper::over(counted, begins))
    }

    fn name(&self) -> &str {
        "arrow_memory_query"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns the plan with a wrapper over each operator that gets an allocator, and does not have one already.
pub(crate) fn counted(
    plan: Arc<dyn ExecutionPlan>,
    options: &Options,
) -> Result<Arc<dyn ExecutionPlan>> {
    Wraps {
        all: options.granularity == Granularity::Operators && options.charge != Charge::Declared,
        number: 0,
    }
    .wrapped(plan, true)
}

/// Walks a plan, and numbers its nodes as `EXPLAIN` shows them, from 1.
struct Wraps {
    all: bool,
    number: usize,
}

impl Wraps {
    /// Returns the plan with wrappers. `holds` says whether the operator above keeps batches.
    fn wrapped(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        above_holds: bool,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if Wrapper::role_of(plan.as_ref()).is_some() {
            return Ok(plan);
        }
        self.number += 1;
        let name = format!("{}#{}", plan.name(), self.number).into();
        let holds = holds(plan.name());
        let children = plan.children();
        let wrapped = children
            .iter()
            .map(|child| self.wrapped(Arc::clone(child), holds))
            .collect::<Result<Vec<_>>>()?;
        let mut both = children.iter().zip(&wrapped);
        let changed = both.any(|(child, wrapped)| !Arc::ptr_eq(child, wrapped));
        let plan = if changed {
            let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
            plan.replace_children(wrapped, keep)?
        } else {
            plan
        };
        let gives = gives(plan.as_ref());
        // The table of a recursive query is found by its type, and replaced when the query goes round.
        let excepted = plan.name() == "WorkTableExec";
        // What comes from elsewhere is told from what the nodes above make.
        let foreign = gives != Gives::Own;
        if excepted || !(self.all || holds || above_holds || foreign) {
            return Ok(plan);
        }
        // Relaxed: only the number matters.
        let node = NODES.fetch_add(1, Ordering::Relaxed);
        let batches = Batches::new(node, name, gives);
        Ok(Wrapper::over(plan, Role::Counts(Arc::new(batches))))
    }
}

/// The number of nodes that have been wrapped in this process.
static NODES: AtomicU64 = AtomicU64::new(0);

/// Whether an operator of that name may keep batches that it was given: each one that is not known to pass them on, or to
/// return new ones of its own.
fn holds(name: &str) -> bool {
    !matches!(
        name,
        "AsyncFuncExec"
            | "CooperativeExec"
            | "DataSourceExec"
            | "EmptyExec"
            | "ExplainExec"
            | "FilterExec"
            | "GlobalLimitExec"
            | "InterleaveExec"
            | "LazyMemoryExec"
            | "LocalLimitExec"
            | "OutputRequirementExec"
            | "PlaceholderRowExec"
            | "ProjectionExec"
            | "UnionExec"
            | "UnnestExec"
            | "WorkTableExec"
    )
}

/// Whose memory the batches of a node are.
fn gives(plan: &dyn ExecutionPlan) -> Gives {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        return match scan.data_source() {
            source if source.is::<MemorySourceConfig>() => Gives::Lent,
            source if source.is::<FileScanConfig>() => Gives::Own,
            _ => Gives::Unknown,
        };
    }
    let generates = plan.is::<LazyMemoryExec>() || plan.is::<PlaceholderRowExec>();
    let empty = plan.is::<EmptyExec>() || plan.is::<ExplainExec>();
    let own = generates || empty || is_datafusions(plan);
    if own { Gives::Own } else { Gives::Unknown }
}

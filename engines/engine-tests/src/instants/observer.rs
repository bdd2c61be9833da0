//! An operator that looks at what the one below it returns.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::Stream;

use super::Crossed;

#[derive(Clone)]
pub(super) struct ObserverRule(pub(super) Arc<Crossed>);

impl fmt::Debug for ObserverRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObserverRule")
    }
}

impl PhysicalOptimizerRule for ObserverRule {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|inner| Ok(Transformed::yes(self.over(inner))))
            .data()
    }

    fn name(&self) -> &str {
        "observer"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl ObserverRule {
    fn over(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Observer {
            inner,
            rule: self.clone(),
        })
    }
}

/// Looks like the operator below it, as far as rules that come later ask.
#[derive(Debug)]
pub(super) struct Observer {
    inner: Arc<dyn ExecutionPlan>,
    rule: ObserverRule,
}

impl DisplayAs for Observer {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for Observer {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner).replace_children(children, options)?;
        Ok(self.rule.over(inner))
    }

    #[expect(deprecated, reason = "still required")]
    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner).with_new_children(children)?;
        Ok(self.rule.over(inner))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(Observed {
            inner: self.inner.execute(partition, context)?,
            crossed: Arc::clone(&self.rule.0),
        }))
    }
}

struct Observed {
    inner: SendableRecordBatchStream,
    crossed: Arc<Crossed>,
}

impl Stream for Observed {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.crossed.compare();
        let next = self.inner.as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(batch))) = &next {
            self.crossed.note(batch);
        }
        next
    }
}

impl RecordBatchStream for Observed {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

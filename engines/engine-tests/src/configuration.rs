//! Ways to limit DataFusion's memory: its own pools, and trees.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_datafusion::{
    Charge, DataFusionMemory, Granularity, OnRefusal, QueryMemory, RootAllocator,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryPool, TrackConsumersPool, UnboundedMemoryPool,
};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};

/// A way to limit DataFusion's memory.
pub struct Configuration {
    /// Its name in tables.
    pub name: &'static str,
    limited: Box<dyn Fn(Option<usize>) -> Limited + Send + Sync>,
}

impl Configuration {
    /// Names a way to limit memory. The closure is called with a limit in bytes, or with `None` for no limit.
    pub fn new(
        name: &'static str,
        limited: impl Fn(Option<usize>) -> Limited + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            limited: Box::new(limited),
        }
    }

    /// One of DataFusion's pools, or another one. Without a limit it is made for more bytes than there are.
    pub fn pool<P: MemoryPool>(
        name: &'static str,
        pool: impl Fn(usize) -> P + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, move |limit| {
            Limited::pool(Arc::new(pool(limit.unwrap_or(isize::MAX as usize))))
        })
    }

    /// A tree, whose root has the limit.
    pub fn tree(
        name: &'static str,
        memory: impl Fn(&RootAllocator) -> DataFusionMemory + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, move |limit| {
            let root = limit.map_or_else(RootAllocator::unlimited, RootAllocator::new);
            let memory = memory(&root);
            Limited::tree(root, memory)
        })
    }

    /// Begins anew under that limit.
    pub fn limited(&self, limit: Option<usize>) -> Limited {
        (self.limited)(limit)
    }
}

/// Returns DataFusion's pool without a limit, which the others are compared with.
pub fn unbounded() -> Configuration {
    Configuration::pool("Unbounded", |_| UnboundedMemoryPool::default())
}

/// Returns DataFusion's pools that have a limit.
pub fn pools() -> Vec<Configuration> {
    let top = NonZeroUsize::MIN.saturating_add(4);
    vec![
        Configuration::pool("Greedy", GreedyMemoryPool::new),
        Configuration::pool("TrackConsumers(Greedy)", move |limit| {
            TrackConsumersPool::new(GreedyMemoryPool::new(limit), top)
        }),
        Configuration::pool("Fair", FairSpillPool::new),
    ]
}

/// Returns the trees: a line for each way to build one.
pub fn trees() -> Vec<Configuration> {
    vec![
        Configuration::tree("holders", |root| DataFusionMemory::new(root)),
        Configuration::tree("declared", |root| {
            DataFusionMemory::builder(root)
                .charge(Charge::Declared)
                .build()
        }),
        Configuration::new("operators, admitted", |limit| {
            let root = limit.map_or_else(RootAllocator::unlimited, RootAllocator::new);
            let memory = DataFusionMemory::builder(&root)
                .granularity(Granularity::Operators)
                .build();
            Limited::tree(root, memory).admitted()
        }),
        Configuration::new("holders, planned again", |limit| {
            let root = limit.map_or_else(RootAllocator::unlimited, RootAllocator::new);
            let memory = DataFusionMemory::builder(&root)
                .on_refusal(OnRefusal::PlanAgain)
                .build();
            Limited::tree(root, memory).admitted()
        }),
    ]
}

/// Sessions under one limit.
pub struct Limited(Under);

enum Under {
    Pool(Arc<dyn MemoryPool>),
    Tree(Tree),
}

struct Tree {
    root: RootAllocator,
    memory: DataFusionMemory,
    admitted: bool,
}

/// What a query that ended well has left.
#[derive(Debug)]
pub struct Executed<T> {
    /// What was read from its batches.
    pub value: T,
    /// Bytes that its operators wrote to disk because memory was short.
    pub spilled: usize,
}

impl Limited {
    /// Sessions with that pool.
    pub fn pool(pool: Arc<dyn MemoryPool>) -> Self {
        Self(Under::Pool(pool))
    }

    /// Sessions below that root.
    pub fn tree(root: RootAllocator, memory: DataFusionMemory) -> Self {
        Self(Under::Tree(Tree {
            root,
            memory,
            admitted: false,
        }))
    }

    /// Admits each query and finishes it. Without this call nobody admits them, and each gets its allocator when it is
    /// executed. It changes nothing where there is no tree.
    pub fn admitted(mut self) -> Self {
        if let Under::Tree(tree) = &mut self.0 {
            tree.admitted = true;
        }
        self
    }

    /// Returns the queries of the tree, if there is one.
    pub fn memory(&self) -> Option<&DataFusionMemory> {
        match &self.0 {
            Under::Pool(_) => None,
            Under::Tree(tree) => Some(&tree.memory),
        }
    }

    /// Returns the root of the tree, if there is one.
    pub fn root(&self) -> Option<&RootAllocator> {
        match &self.0 {
            Under::Pool(_) => None,
            Under::Tree(tree) => Some(&tree.root),
        }
    }

    /// Puts the session that a builder will build under the limit.
    pub fn configure(&self, mut builder: SessionStateBuilder) -> SessionStateBuilder {
        match &self.0 {
            Under::Tree(tree) => tree.memory.configure(builder),
            Under::Pool(pool) => {
                let runtime = builder.runtime_env().take().unwrap_or_default();
                builder.with_runtime_env(Arc::new(RuntimeEnv {
                    memory_pool: Arc::clone(pool),
                    ..runtime.as_ref().clone()
                }))
            }
        }
    }

    /// Returns a session with DataFusion's default features.
    pub fn session(&self, config: SessionConfig) -> SessionContext {
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        SessionContext::new_with_state(self.configure(builder).build())
    }

    /// Runs a statement to its end and reads its batches, which are dropped before an admitted query finishes.
    ///
    /// # Errors
    ///
    /// Those of DataFusion and of `read`; an internal error if a query was not admitted, or does not finish.
    pub async fn execute<T: Send>(
        &self,
        session: &SessionContext,
        sql: &str,
        name: &str,
        read: impl Fn(SchemaRef, Vec<RecordBatch>) -> Result<T> + Send + Sync,
    ) -> Result<Executed<T>> {
        let mut value = None;
        let mut keep = |schema, batches| {
            value = Some(read(schema, batches)?);
            Ok(())
        };
        let spilled = self.run(session, sql, name, &mut keep).await?;
        let value =
            value.ok_or_else(|| DataFusionError::Internal("nothing was read".to_owned()))?;
        Ok(Executed { value, spilled })
    }

    /// Does what [`execute`](Self::execute) does. It is not generic and its future is boxed, so that DataFusion's part of
    /// it is compiled once and not in each program.
    fn run<'a>(
        &'a self,
        session: &'a SessionContext,
        sql: &'a str,
        name: &'a str,
        read: &'a mut Read<'_>,
    ) -> BoxFuture<'a, Result<usize>> {
        async move {
            let frame = crate::run::sql(session, sql).await?;
            let Under::Tree(Tree {
                memory,
                admitted: true,
                ..
            }) = &self.0
            else {
                return run(frame, read).await;
            };
            let internal = |text: String| DataFusionError::Internal(text);
            let query = memory.query(name).admit().await;
            let query = query.map_err(|error| internal(error.to_string()))?;
            let executed = within(&query, frame, read).await;
            let finished = query.finish().await;
            let report = finished.map_err(|still| internal(still.to_string()))?;
            executed.map(|()| report.spilled_bytes)
        }
        .boxed()
    }

    /// Waits until no query is alive and nothing is charged, at most `deadline`, and checks the tree's sums. It does
    /// nothing where there is no tree.
    ///
    /// An allocator that leaves the tree takes with it what is charged there by mistake. So only an admitted query, which
    /// finishes while its allocators are there, tells that its operators gave back less than they took.
    ///
    /// # Errors
    ///
    /// What is left, or which sum is wrong.
    pub async fn settled(&self, deadline: Duration) -> Result<(), String> {
        let Under::Tree(Tree { root, memory, .. }) = &self.0 else {
            return Ok(());
        };
        let begun = Instant::now();
        // Tasks that were aborted drop what they hold when a worker comes to them, and tell nobody: so this looks.
        while !memory.queries().is_empty()
            || !root.child_allocators().is_empty()
            || root.allocated_memory() > 0
        {
            if begun.elapsed() > deadline {
                return Err(format!("not empty after {deadline:?}:\n{root}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        root.verify().map_err(|error| format!("{error}\n{root}"))
    }
}

/// Reads the batches of a result.
type Read<'a> = dyn FnMut(SchemaRef, Vec<RecordBatch>) -> Result<()> + Send + 'a;
/// Runs a frame within a query.
async fn within(query: &QueryMemory, frame: DataFrame, read: &mut Read<'_>) -> Result<()> {
    let stream = query.execute_stream(frame).await?;
    let schema = stream.schema();
    read(schema, stream.try_collect().await?)
}

/// Runs a frame, and returns the bytes that were spilled.
async fn run(frame: DataFrame, read: &mut Read<'_>) -> Result<usize> {
    let context = frame.task_ctx();
    let plan = crate::run::plan(&frame).await?;
    let stream = execute_stream(Arc::clone(&plan), Arc::new(context))?;
    let schema = stream.schema();
    read(schema, stream.try_collect().await?)?;
    Ok(spilled(&plan))
}

fn spilled(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|metrics| metrics.spilled_bytes());
    let below: usize = plan.children().into_iter().map(spilled).sum();
    own.unwrap_or(0) + below
}

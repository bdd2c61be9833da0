//! Ballista's execution engine, with each task under the job's allocator.
//!
//! The scheduler's plan of a stage has a shuffle writer at its top and shuffle readers at its leaves. Ballista's own engine
//! makes both ready, and this one does the same with its public parts: it has to put the wrappers that charge batches
//! between them, and Ballista's engine would take those over readers away. A writer's kind is found by its type, so a
//! kind that a later version adds is an error here, as it is there.

use std::fmt;
use std::io;
use std::sync::Arc;

use arrow_memory_datafusion::AdmitError;
use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::client_pool::BallistaClientPool;
use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::error::BallistaError;
use ballista_core::execution_plans::{
    RangeShuffleReaderExec, RangeShuffleWriterExec, ShuffleReaderExec, ShuffleWriterExec,
    SortShuffleWriterExec,
};
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::{
    RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport,
};
use ballista_executor::execution_engine::{
    DefaultQueryStageExec, ExecutionEngine, QueryStageExecutor, ShuffleWriterVariant,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::{ConfigOptions, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;

use crate::job::Job;
use crate::memory::BallistaMemory;
use crate::options::JobOptions;

/// An execution engine that runs each task under a [`BallistaMemory`]: made by [`BallistaMemory::engine`].
pub struct MemoryEngine {
    memory: BallistaMemory,
    clients: Option<Arc<dyn BallistaClientPool>>,
}

impl BallistaMemory {
    /// Returns the engine for the executor's configuration
    /// ([`ExecutorProcessConfig::override_execution_engine`](ballista_executor::executor_process::ExecutorProcessConfig)). Its
    /// shuffle readers share the connections of `clients`. The configuration's `memory_pool_size` must be `Some(0)`: any
    /// other value gives each task a pool of Ballista's, beside which this is without effect on what operators spill.
    pub fn engine(&self, clients: Option<Arc<dyn BallistaClientPool>>) -> Arc<MemoryEngine> {
        Arc::new(MemoryEngine {
            memory: self.clone(),
            clients,
        })
    }
}

impl MemoryEngine {
    /// Returns the plan whose shuffle readers know the folder and the connections.
    fn with_readers(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        macro_rules! ready {
            ($reader:expr) => {{
                let reader = $reader.with_work_dir(work_dir.to_owned());
                let clients = self.clients.clone();
                Ok(Transformed::yes(match clients {
                    Some(clients) => Arc::new(reader.with_client_pool(clients)) as _,
                    None => Arc::new(reader) as _,
                }))
            }};
        }
        let plan = plan.transform(|node| {
            if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() {
                return ready!(reader);
            }
            if let Some(reader) = node.downcast_ref::<RangeShuffleReaderExec>() {
                return ready!(reader);
            }
            Ok(Transformed::no(node))
        })?;
        Ok(plan.data)
    }
}

impl ExecutionEngine for MemoryEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let options = self.memory.options().of(config);
        let job = self
            .memory
            .job(job_id.as_str(), &name_of(config), options)?;
        let plan = self.with_readers(plan, work_dir)?;
        let input = plan.children().first().map(|input| Arc::clone(input));
        let input = input.ok_or_else(|| no_writer(plan.as_ref()))?;
        let input = job.rule().optimize(input, &ConfigOptions::default())?;
        let stage = Stage {
            job_id,
            stage_id,
            task_id,
            work_dir: work_dir.to_owned(),
            partitions: global_output_partition_ids,
        };
        Ok(Arc::new(MemoryStage {
            inner: DefaultQueryStageExec::new(stage.writer(plan.as_ref(), input)?),
            writer: format!("{}#0", plan.name()),
            stage: stage_id,
            options,
            job,
            memory: self.memory.clone(),
        }))
    }
}

/// What a shuffle writer has to know.
struct Stage {
    job_id: JobId,
    stage_id: usize,
    task_id: usize,
    work_dir: String,
    partitions: Vec<usize>,
}

impl Stage {
    /// Returns a writer of the same kind over another input.
    fn writer(
        self,
        plan: &dyn ExecutionPlan,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<ShuffleWriterVariant> {
        let Self {
            job_id,
            stage_id,
            task_id,
            work_dir,
            partitions,
        } = self;
        if plan.is::<ShuffleWriterExec>() {
            let writer = ShuffleWriterExec::try_new(job_id, stage_id, input, work_dir)?;
            let writer = writer
                .with_task_id(task_id)
                .with_global_output_partition_ids(partitions);
            return Ok(ShuffleWriterVariant::Passthrough(writer));
        }
        if plan.is::<RangeShuffleWriterExec>() {
            let writer = RangeShuffleWriterExec::try_new(job_id, stage_id, input, work_dir)?;
            return Ok(ShuffleWriterVariant::Range(writer.with_task_id(task_id)));
        }
        let Some(sorting) = plan.downcast_ref::<SortShuffleWriterExec>() else {
            return Err(no_writer(plan));
        };
        let writer = SortShuffleWriterExec::try_new(
            job_id,
            stage_id,
            input,
            work_dir,
            sorting.shuffle_output_partitioning().clone(),
            sorting.config().clone(),
        )?;
        let writer = writer
            .with_task_id(task_id)
            .with_global_output_partition_ids(partitions);
        Ok(ShuffleWriterVariant::Sort(writer))
    }
}

fn no_writer(plan: &dyn ExecutionPlan) -> DataFusionError {
    DataFusionError::Internal(format!(
        "the plan of a stage begins with `{}`, which is no shuffle writer of Ballista 55",
        plan.name()
    ))
}

/// One task: the stage's plan for some of its partitions.
#[derive(Debug)]
struct MemoryStage {
    inner: DefaultQueryStageExec,
    /// The name of the writer among the task's operators.
    writer: String,
    stage: usize,
    options: JobOptions,
    job: Arc<Job>,
    memory: BallistaMemory,
}

impl MemoryStage {
    /// Returns what becomes of a task that was refused memory: an error that the scheduler takes as a reason to try again,
    /// after it was told, or the refusal.
    async fn refused(&self, attempt: usize, refusal: DataFusionError) -> DataFusionError {
        if !self.job.refused(attempt, self.options.retries) {
            return refusal;
        }
        self.memory.tell().await;
        self.handed_back(&refusal.strip_backtrace())
    }

    /// Returns an error that the scheduler retries: it does so with those of input and output, and no others.
    fn handed_back(&self, why: &str) -> DataFusionError {
        let text = format!("a task of stage {} was handed back: {why}", self.stage);
        DataFusionError::IoError(io::Error::new(io::ErrorKind::OutOfMemory, text))
    }

    /// Notes what the writer has spilled, which only its own metrics have.
    fn note_spills(&self) {
        let metrics = self.inner.collect_plan_metrics();
        let spilled = metrics
            .first()
            .and_then(|writer| writer.sum_by_name("spill_bytes"));
        let spilled = spilled.map_or(0, |bytes| bytes.as_usize());
        if spilled > 0 {
            self.job.spilled(self.stage, &self.writer, spilled);
        }
    }
}

#[async_trait]
impl QueryStageExecutor for MemoryStage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let place = (self.stage, task_id);
        let attempt = attempt_of(&context);
        let task = match self.job.admit(place, &self.options).await {
            Some(Ok(task)) => task,
            Some(Err(error)) => {
                let advice = match error {
                    AdmitError::TooLarge { .. } => {
                        "; raise arrow_memory.job_limit, or lower arrow_memory.task_minimum"
                    }
                    _ => "",
                };
                let refusal = DataFusionError::ResourcesExhausted(format!("{error}{advice}"));
                return Err(match error {
                    // Elsewhere there may be room.
                    AdmitError::Timeout { .. } | AdmitError::Refused { .. } => {
                        self.refused(attempt, refusal).await
                    }
                    _ => refusal,
                });
            }
            None => return Err(self.handed_back("the executor is to stop")),
        };
        let own = Arc::new(task.context(&self.writer, &context));
        drop(context);
        let written = self.inner.execute_query_stage(task_id, own).await;
        self.note_spills();
        drop(task);
        match written {
            Err(error) if is_refusal(&error) => Err(self.refused(attempt, error).await),
            written => written,
        }
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.inner.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.inner.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.inner.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.inner.collect_column_stats()
    }
}

impl fmt::Display for MemoryStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryEngine").field(&self.memory).finish()
    }
}

/// Returns the name that a session gave its jobs, or an empty one.
fn name_of(config: &SessionConfig) -> String {
    let entries = config.ballista_config().entries();
    let mut names = entries
        .into_iter()
        .filter(|entry| entry.key == BALLISTA_JOB_NAME)
        .filter_map(|entry| entry.value);
    let mut name = names.next().unwrap_or_default();
    name.truncate(name.floor_char_boundary(NAME));
    name
}

/// How many bytes of a job's name are kept.
const NAME: usize = 255;

/// Returns how often a task's work has failed before, on any executor: the number at the end of the name that Ballista gives
/// the task, `TID job/stage.attempt/task.attempt`.
fn attempt_of(context: &TaskContext) -> usize {
    let task = context.task_id();
    let attempt = task.as_deref().and_then(|task| task.rsplit_once('.'));
    attempt.map_or(0, |(_, attempt)| attempt.parse().unwrap_or(0))
}

/// Whether an error is a refusal of memory, whatever operators and Ballista's writers have put around it. A disk that is full
/// is an error of the same kind, with another text.
fn is_refusal(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) => text.contains(" was refused "),
        DataFusionError::External(inner) => match inner.downcast_ref() {
            Some(BallistaError::DataFusionError(inner)) => is_refusal(inner),
            _ => false,
        },
        _ => false,
    }
}

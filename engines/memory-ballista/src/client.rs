//! What a client does: it connects to a scheduler, and reads the tree of the whole cluster.

use arrow_memory_datafusion::{OnRefusal, plan_to_spill};
use ballista::prelude::SessionContextExt;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::{StreamExt, stream};
use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::http::{Token, request};
use crate::options::{MemoryOptions, session_config};
use crate::placement::Told;
use crate::status::ExecutorTree;

/// Returns a session whose queries run on the cluster of the scheduler at that host and port. `settings` are keys and values
/// of its configuration, those of [`MemoryOptions`](crate::MemoryOptions) among them.
///
/// # Errors
///
/// If a setting is not known, or has no such value.
pub async fn connect<'a>(
    scheduler: &str,
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<SessionContext> {
    let mut config = session_config();
    for (key, value) in settings {
        config.options_mut().set(key, value)?;
    }
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .build();
    SessionContext::remote_with_state(&format!("df://{scheduler}"), state).await
}

/// Runs a frame of such a session, and returns all its batches.
///
/// With [`OnRefusal::PlanAgain`] a job that was refused memory is submitted once more, with joins and sorts that need less and
/// spill, without broadcasts. Then its time is spent twice, and its tables are read twice. A frame that may write is not
/// repeated.
///
/// # Errors
///
/// Those of Ballista; of both jobs the second one's.
pub async fn collect(frame: DataFrame, on_refusal: OnRefusal) -> Result<Vec<RecordBatch>> {
    let (state, plan) = frame.clone().into_parts();
    let refused = match frame.collect().await {
        Err(error) if on_refusal == OnRefusal::PlanAgain && was_refused(&error) => error,
        collected => return collected,
    };
    let set = state.config().options().extensions.get::<MemoryOptions>();
    let limit = set.and_then(|set| set.job_limit).unwrap_or(LITTLE);
    let Ok(again) = plan_to_spill(DataFrame::new(state, plan), limit) else {
        return Err(refused);
    };
    let (mut state, plan) = again.into_parts();
    for key in BROADCASTS {
        state.config_mut().options_mut().set(key, "0")?;
    }
    DataFrame::new(state, plan).collect().await
}

/// Which sides of joins are sent to all tasks, where a hash table is made of them.
const BROADCASTS: [&str; 4] = [
    "ballista.optimizer.broadcast_join_threshold_bytes",
    "ballista.optimizer.broadcast_join_threshold_rows",
    "datafusion.optimizer.hash_join_single_partition_threshold",
    "datafusion.optimizer.hash_join_single_partition_threshold_rows",
];

/// The limit for which a job is planned again if its session has none: what executors have is not known to it.
const LITTLE: usize = 16 << 20;

/// Whether a job has failed because a task was refused memory. A scheduler tells clients texts only.
fn was_refused(error: &DataFusionError) -> bool {
    let text = error.to_string();
    let refused = text.contains("ResourcesExhausted") || text.contains("Resources exhausted");
    // With less it would not fit either.
    refused && !text.contains("cannot be admitted")
}

/// An executor of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterExecutor {
    /// What it told the scheduler last.
    pub told: Told,
    /// Its jobs, or why it did not answer.
    pub tree: Result<ExecutorTree, String>,
}

/// So many executors are asked at a time.
const AT_ONCE: usize = 32;

/// Returns the executors that have told the scheduler their numbers within the last minute, each with its tree. The scheduler is
/// asked at the host and port of its endpoint, and the executors at theirs, 32 at a time. An executor that does not
/// answer takes up to 10 s.
///
/// # Errors
///
/// If the scheduler does not answer, with the reason.
pub async fn cluster(
    scheduler: &str,
    token: Option<&Token>,
) -> Result<Vec<ClusterExecutor>, String> {
    let all = request(scheduler, Method::GET, "/executors", token, Vec::new()).await?;
    let mut all: Vec<Told> = read(scheduler, &all)?;
    all.retain(|told| told.seconds_ago < FORGOTTEN);
    let trees = all.into_iter().map(|told| async move {
        let address = &told.status.address;
        let tree = request(address, Method::GET, "/tree", token, Vec::new()).await;
        let tree = tree.and_then(|tree| read(address, &tree));
        ClusterExecutor { told, tree }
    });
    Ok(stream::iter(trees).buffered(AT_ONCE).collect().await)
}

/// After so many seconds without numbers an executor is not asked any more.
const FORGOTTEN: f64 = 60.0;

fn read<T: serde::de::DeserializeOwned>(address: &str, text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text)
        .map_err(|error| format!("http://{address}: the answer is not as expected: {error}"))
}

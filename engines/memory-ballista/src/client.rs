//! What a client does: it connects to a scheduler, and reads the tree of the whole cluster.

use ballista::prelude::SessionContextExt;
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::http::{Token, request};
use crate::options::session_config;
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

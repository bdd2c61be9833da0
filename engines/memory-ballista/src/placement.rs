//! The scheduler's choice of executors, narrowed to those that have room.
//!
//! Executors tell their numbers about once a second. So this is an estimate: a task that comes to an executor without room
//! waits there.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::status::ExecutorStatus;

/// A [`ClusterState`] that offers tasks only to executors that have room for them, over another one.
///
/// An executor has room if no task waits on it and its headroom covers its minimum of a task, those of tasks that it was
/// given since it told its numbers included. It also has room if no task of it is known to the scheduler: what does not
/// fit there fits nowhere. An executor that has handed a task back has none for [`AVOIDED`]. One that has told no numbers for
/// [`STALE`], or never, is left to Ballista's choice.
///
/// It works with push scheduling only. With pull scheduling executors ask for tasks, and nothing is chosen here.
pub struct Placement {
    inner: Arc<dyn ClusterState>,
    known: Mutex<HashMap<String, Known>>,
    /// Told when an executor that was left out has told that it has room.
    room: Notify,
}

/// How long an executor that has handed a task back gets none.
pub const AVOIDED: Duration = Duration::from_secs(1);

/// How long numbers of an executor count.
pub const STALE: Duration = Duration::from_secs(10);

/// What is known of an executor.
#[derive(Default)]
struct Known {
    told: Option<(ExecutorStatus, Instant)>,
    /// When it was seen that it has handed tasks back, and how many those were in all.
    handed_back: (Option<Instant>, u64),
    /// The cores of the tasks that run there.
    cores: u32,
    /// Since when it tells that it runs nothing, though the scheduler believes that it does.
    idle_since: Option<Instant>,
    /// Tasks that it was given since it told its numbers.
    given: usize,
    /// Whether it was left out of the last choice for want of room.
    left_out: bool,
    counts: Placed,
}

/// How often an executor was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Placed {
    /// Tasks that were placed on it.
    pub tasks: u64,
    /// How often it was left out for want of room, once for each time that it had none.
    pub left_out: u64,
}

/// The last numbers of an executor, and how often it was chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Told {
    /// The numbers.
    #[serde(flatten)]
    pub status: ExecutorStatus,
    /// How many seconds ago it told them.
    pub seconds_ago: f64,
    /// How often it was chosen.
    pub placed: Placed,
}

/// After an executor has said for so long that it runs nothing, its cores are free. By then what it was sent has begun, and what it
/// has done has been told.
const IDLE: Duration = Duration::from_secs(5);

impl Known {
    /// Returns the cores that are to be given back. Ballista 55 does not give back those of tasks of a stage that it has rolled
    /// back because another executor was lost: an executor of one core would never get a task again.
    fn lost_cores(&mut self, idle: bool, now: Instant) -> u32 {
        if !idle || self.cores == 0 {
            self.idle_since = None;
            return 0;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_duration_since(since) < IDLE {
            return 0;
        }
        self.idle_since = None;
        std::mem::take(&mut self.cores)
    }

    fn has_room(&self, now: Instant) -> bool {
        let recent = |instant: Instant, span| now.saturating_duration_since(instant) < span;
        let told = self.told.as_ref().filter(|(_, told)| recent(*told, STALE));
        let Some((status, _)) = told else {
            return true;
        };
        if self.handed_back.0.is_some_and(|at| recent(at, AVOIDED)) {
            return false;
        }
        // Ballista does not say of all tasks that they have ended.
        let idle = status.running == 0 && status.waiting == 0 && self.given == 0;
        if self.cores == 0 || idle {
            return true;
        }
        let minimum = status.task_minimum.max(1);
        let needed = minimum.saturating_mul(self.given + 1);
        status.waiting == 0 && status.headroom() >= needed
    }
}

impl Placement {
    /// Puts it over another cluster state.
    pub fn over(inner: Arc<dyn ClusterState>) -> Self {
        Self {
            inner,
            known: Mutex::default(),
            room: Notify::new(),
        }
    }

    /// Takes the numbers of an executor. Returns whether it is registered; else they are not kept. Of its address only the port
    /// is taken: the host is the one that it has registered with.
    pub async fn told(&self, mut status: ExecutorStatus) -> bool {
        let Ok(metadata) = self.inner.get_executor_metadata(&status.executor).await else {
            return false;
        };
        let port = status.address.rsplit_once(':').map_or("", |(_, port)| port);
        status.address = address(&metadata.host, port);
        let executor = status.executor.clone();
        let Some((lost, revived)) = self.note(status) else {
            return false;
        };
        if lost > 0 {
            log::warn!(
                "{executor} runs nothing, and {lost} of its cores were not given back: they are now"
            );
            // If it was removed meanwhile, nothing is to be given back.
            let _ = self.inner.unbind_tasks(vec![(executor, lost)]).await;
        }
        if revived {
            self.room.notify_one();
        }
        true
    }

    /// Notes the numbers of an executor, and returns the cores that are to be given back, and whether tasks should be offered
    /// anew. `None`: it was removed meanwhile.
    fn note(&self, status: ExecutorStatus) -> Option<(u32, bool)> {
        let now = Instant::now();
        let mut all = self.known();
        let known = all.get_mut(&status.executor)?;
        // One report may overtake another.
        if status.handed_back > known.handed_back.1 {
            known.handed_back = (Some(now), status.handed_back);
        }
        let idle = status.running == 0 && status.waiting == 0 && known.given == 0;
        known.told = Some((status, now));
        known.given = 0;
        let lost = known.lost_cores(idle, now);
        known.left_out |= lost > 0;
        Some((lost, known.left_out && known.has_room(now)))
    }

    /// Returns what executors have told, in the order of their identifiers.
    pub fn executors(&self) -> Vec<Told> {
        let told = |known: &Known| {
            let (status, at) = known.told.as_ref()?;
            Some(Told {
                status: status.clone(),
                seconds_ago: at.elapsed().as_secs_f64(),
                placed: known.counts,
            })
        };
        let mut told: Vec<_> = self.known().values().filter_map(told).collect();
        told.sort_by(|a, b| a.status.executor.cmp(&b.status.executor));
        told
    }

    /// Waits until an executor that was left out of a choice has room, and returns it. Then tasks should be offered anew, since
    /// Ballista does that only when a task ends. Each executor is returned once for each time that it was left out.
    pub async fn revived(&self) -> String {
        loop {
            if let Some(executor) = self.take_revived() {
                return executor;
            }
            // An executor that is silent, or that was avoided, has room after a while, and tells nobody.
            let _ = tokio::time::timeout(AVOIDED, self.room.notified()).await;
        }
    }

    fn take_revived(&self) -> Option<String> {
        let now = Instant::now();
        let mut all = self.known();
        let mut revived = all
            .iter_mut()
            .filter(|(_, known)| known.left_out && known.has_room(now));
        let (executor, known) = revived.next()?;
        known.left_out = false;
        Some(executor.clone())
    }

    /// Returns the executors of the choice that have room.
    fn with_room(&self, choice: HashSet<String>) -> HashSet<String> {
        let now = Instant::now();
        let mut all = self.known();
        let has_room = |executor: &String| {
            let Some(known) = all.get_mut(executor) else {
                return true;
            };
            let room = known.has_room(now);
            known.counts.left_out += u64::from(!room && !known.left_out);
            known.left_out = !room;
            room
        };
        choice.into_iter().filter(has_room).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns host and port as one text.
pub(crate) fn address(host: &str, port: impl fmt::Display) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[async_trait]
impl ClusterState for Placement {
    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let choice = match executors {
            Some(choice) => choice,
            None => {
                let all = self.inner.registered_executor_metadata().await;
                all.into_iter().map(|executor| executor.id).collect()
            }
        };
        let choice = self.with_room(choice);
        let bound = self
            .inner
            .bind_schedulable_tasks(distribution, active_jobs, Some(choice))
            .await?;
        let mut all = self.known();
        for (executor, task) in &bound {
            if let Some(known) = all.get_mut(executor) {
                known.cores += task.vcores_consumed;
                known.given += 1;
                known.counts.tasks += 1;
            }
        }
        Ok(bound)
    }

    async fn unbind_tasks(&self, executor_slots: Vec<ExecutorSlot>) -> Result<()> {
        {
            let mut all = self.known();
            for (executor, cores) in &executor_slots {
                if let Some(known) = all.get_mut(executor) {
                    known.cores = known.cores.saturating_sub(*cores);
                }
            }
        }
        self.inner.unbind_tasks(executor_slots).await
    }

    async fn register_executor(
        &self,
        metadata: ExecutorMetadata,
        spec: ExecutorData,
    ) -> Result<()> {
        let executor = metadata.id.clone();
        self.inner.register_executor(metadata, spec).await?;
        self.known().insert(executor, Known::default());
        Ok(())
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor_id).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        self.inner.save_executor_heartbeat(heartbeat).await
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        let removed = self.known().remove(executor_id);
        drop(removed);
        self.inner.remove_executor(executor_id).await
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.inner.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.inner.get_executor_heartbeat(executor_id)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("executors", &self.known().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

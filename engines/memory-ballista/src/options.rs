//! What a session and an executor may set.

use std::any::Any;
use std::time::Duration;

use bytesize::ByteSize;
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionConfig;

/// Settings of a session, which travel with each of its jobs to the executors: `SET arrow_memory.job_limit = '256MiB'`, or a
/// key of the session's configuration. Each one that is not set is the executor's.
///
/// The configurations of the client, the scheduler and the executors must know this extension, as those of
/// [`session_config`] do: a setting that is not known is left out on its way, without an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// `arrow_memory.job_limit`: what a job may use on each executor, in bytes, at most what the executor allows. As text
    /// it may have a unit: `256MiB`.
    pub job_limit: Option<usize>,
    /// `arrow_memory.task_minimum`: what is set aside for each task before it starts, in bytes, at most what the executor
    /// allows. A task waits until it fits.
    pub task_minimum: Option<usize>,
    /// `arrow_memory.retries`: how often an executor hands a task that was refused memory back to the scheduler, which tries
    /// it again. After that the refusal fails the job.
    pub retries: Option<usize>,
    /// `arrow_memory.task_wait_seconds`: how many seconds a task waits for its minimum. After that it counts as refused.
    pub task_wait_seconds: Option<u64>,
}

impl ConfigExtension for MemoryOptions {
    const PREFIX: &'static str = "arrow_memory";
}

impl ExtensionOptions for MemoryOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(*self)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |what: &str| {
            let prefix = Self::PREFIX;
            DataFusionError::Configuration(format!("{prefix}.{key} = `{value}`: it is {what}"))
        };
        let size = || {
            let bytes = value.parse::<ByteSize>().ok().map(|size| size.as_u64());
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            bytes.ok_or_else(|| wrong("no size, such as 256MiB"))
        };
        match key {
            "job_limit" => self.job_limit = Some(size()?),
            "task_minimum" => self.task_minimum = Some(size()?),
            "retries" => self.retries = Some(value.parse().map_err(|_| wrong("no number"))?),
            "task_wait_seconds" => {
                self.task_wait_seconds = Some(value.parse().map_err(|_| wrong("no number"))?);
            }
            _ => return Err(wrong("no setting that is known")),
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |key: &str, value: Option<String>, description| ConfigEntry {
            // With its prefix, or it is not known where it arrives.
            key: format!("{}.{key}", Self::PREFIX),
            value,
            description,
        };
        let text = |number: Option<usize>| number.map(|number| number.to_string());
        vec![
            entry(
                "job_limit",
                text(self.job_limit),
                "What a job may use on each executor",
            ),
            entry(
                "task_minimum",
                text(self.task_minimum),
                "What is set aside for a task before it starts",
            ),
            entry(
                "retries",
                text(self.retries),
                "How often a task that was refused memory is handed back",
            ),
            entry(
                "task_wait_seconds",
                self.task_wait_seconds.map(|seconds| seconds.to_string()),
                "How long a task waits for its minimum",
            ),
        ]
    }
}

/// Returns Ballista's configuration of a session with [`MemoryOptions`]: for clients, and as the `override_config_producer`
/// of schedulers and executors.
pub fn session_config() -> SessionConfig {
    ballista_core::utils::default_config_producer().with_option_extension(MemoryOptions::default())
}

/// What an executor does where a session says nothing, and what it allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobOptions {
    /// What a job may use on this executor, in bytes: also the largest limit that a session may set. `None`: whatever the
    /// executor has.
    pub limit: Option<usize>,
    /// What is set aside for each task before it starts, in bytes.
    pub task_minimum: usize,
    /// The largest minimum that a session may set for its tasks, in bytes. `None`: as large as `task_minimum`. A task that waits
    /// for a large minimum holds back all tasks that come after it.
    pub task_minimum_max: Option<usize>,
    /// How often a task that was refused memory is handed back to the scheduler, over all executors: at most [`RETRIES`] times.
    pub retries: usize,
    /// How long a task waits for its minimum. `None`: until the task is cancelled.
    pub task_wait: Option<Duration>,
}

/// The largest number of [`JobOptions::retries`].
pub const RETRIES: usize = 100;

impl JobOptions {
    /// Returns the options of a job of that session.
    pub(crate) fn of(self, session: &SessionConfig) -> Self {
        let Some(set) = session.options().extensions.get::<MemoryOptions>() else {
            return self;
        };
        let limits = [self.limit, set.job_limit];
        let largest = self.task_minimum_max.unwrap_or(0).max(self.task_minimum);
        Self {
            limit: limits.into_iter().flatten().min(),
            task_minimum: set.task_minimum.unwrap_or(self.task_minimum).min(largest),
            task_minimum_max: self.task_minimum_max,
            retries: set.retries.unwrap_or(self.retries).min(RETRIES),
            task_wait: set
                .task_wait_seconds
                .map(Duration::from_secs)
                .or(self.task_wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::extension::SessionConfigHelperExt;

    use super::*;

    #[test]
    fn settings_travel_as_text_and_lower_the_executors_limit_only() {
        let mut client = session_config();
        for (key, value) in [
            ("arrow_memory.job_limit", "1KiB"),
            ("arrow_memory.task_minimum", "10"),
            ("arrow_memory.retries", "1000000"),
            ("arrow_memory.task_wait_seconds", "5"),
        ] {
            client.options_mut().set(key, value).unwrap();
        }
        let sent = client.to_key_value_pairs();
        let arrived = session_config().update_from_key_value_pair(&sent);
        let own = |limit| JobOptions {
            limit,
            task_minimum_max: Some(10),
            ..JobOptions::default()
        };
        assert_eq!(own(Some(2000)).of(&arrived).limit, Some(1024));
        assert_eq!(own(Some(500)).of(&arrived).limit, Some(500));
        let options = own(None).of(&arrived);
        assert_eq!((options.limit, options.task_minimum), (Some(1024), 10));
        assert_eq!(options.retries, RETRIES);
        assert_eq!(options.task_wait, Some(Duration::from_secs(5)));
        assert_eq!(own(Some(7)).of(&session_config()), own(Some(7)));
        client
            .options_mut()
            .set("arrow_memory.task_minimum", "1GiB")
            .unwrap();
        assert_eq!(
            own(None).of(&client).task_minimum,
            10,
            "no more than is allowed"
        );
        for (key, value) in [("job_limit", "much"), ("retries", "-1"), ("limit", "1")] {
            let error = client
                .options_mut()
                .set(&format!("arrow_memory.{key}"), value)
                .unwrap_err();
            assert!(error.to_string().contains(value), "{error}");
        }
    }
}

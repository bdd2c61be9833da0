//! What an executor tells about its memory: plain data, sent as JSON.

use serde::{Deserialize, Serialize};

/// The numbers of an executor, in bytes where nothing else is said. It sends them to the scheduler about once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExecutorStatus {
    /// Its identifier in Ballista.
    pub executor: String,
    /// Host and port of its endpoint.
    pub address: String,
    /// What all its tasks together may use; `None` if that is not limited.
    pub limit: Option<usize>,
    /// What is charged now, the unused part of reservations included.
    pub allocated: usize,
    /// The peak of `allocated`.
    pub peak: usize,
    /// What is set aside for each task before it starts, unless the task's session says something else.
    pub task_minimum: usize,
    /// Tasks that run.
    pub running: usize,
    /// Tasks that wait for their minimum, those not included that wait for their job's limit.
    pub waiting: usize,
    /// Tasks that had to wait for their minimum, since the executor began.
    pub waited: u64,
    /// Tasks that were refused memory, since the executor began.
    pub refused: u64,
    /// Those of them that were handed back to the scheduler to be tried again.
    pub handed_back: u64,
    /// Bytes of the process in physical memory, if the system says so.
    pub resident: Option<usize>,
    /// The peak of `resident`.
    pub resident_peak: Option<usize>,
}

impl ExecutorStatus {
    /// Returns what can still be charged.
    pub fn headroom(&self) -> usize {
        self.limit
            .map_or(usize::MAX, |limit| limit.saturating_sub(self.allocated))
    }
}

/// An executor with its jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExecutorTree {
    /// The executor's own numbers.
    pub status: ExecutorStatus,
    /// Its jobs, the one with the largest peak first.
    pub jobs: Vec<JobStatus>,
    /// Jobs and operators that were left out, since there were more than an answer may have.
    pub omitted: Omitted,
}

/// What an answer does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Omitted {
    /// Jobs.
    pub jobs: usize,
    /// Operators, those of the omitted jobs not included.
    pub operators: usize,
    /// What was charged to the omitted jobs and operators.
    pub charged: usize,
}

/// A job on one executor. Those without a task are listed for a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// Its identifier in Ballista.
    pub job: String,
    /// The name that its session gave it (`ballista.job.name`), or an empty one.
    pub name: String,
    /// What its tasks together may use on this executor; `None` if that is not limited.
    pub limit: Option<usize>,
    /// What is charged now.
    pub allocated: usize,
    /// The peak of `allocated`.
    pub peak: usize,
    /// Tasks that run.
    pub running: usize,
    /// Tasks that wait for their minimum.
    pub waiting: usize,
    /// Tasks that have ended.
    pub ended: usize,
    /// Tasks that were refused memory.
    pub refused: usize,
    /// How long its tasks have waited for their minimum in total.
    pub waited_seconds: f64,
    /// The operators of its stages, the one with the largest peak first.
    pub operators: Vec<OperatorStatus>,
}

/// An operator of a stage, in all its tasks on one executor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperatorStatus {
    /// The stage.
    pub stage: usize,
    /// The operator and its number in the stage's plan, from the top.
    pub operator: String,
    /// What is charged now to all tasks that run.
    pub charged: usize,
    /// The largest peak of one task.
    pub peak: usize,
    /// Bytes that all tasks have written to disk because memory was short.
    pub spilled: usize,
    /// Requests of all tasks that were refused. An operator that can spill spills then, and asks again.
    pub refused: u64,
}

impl OperatorStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        self.charged += other.charged;
        self.peak = self.peak.max(other.peak);
        self.spilled += other.spilled;
        self.refused += other.refused;
    }
}

impl ExecutorTree {
    /// Leaves out what exceeds that number of jobs and operators together: the last ones first.
    pub(crate) fn bound(&mut self, maximum: usize) {
        let mut left = maximum;
        let kept = self.jobs.iter().take_while(|_| {
            let room = left > 0;
            left = left.saturating_sub(1);
            room
        });
        let kept = kept.count();
        for job in self.jobs.split_off(kept) {
            self.omitted.jobs += 1;
            self.omitted.charged += job.allocated;
        }
        for job in &mut self.jobs {
            let kept = job.operators.len().min(left);
            left -= kept;
            for operator in job.operators.split_off(kept) {
                self.omitted.operators += 1;
                self.omitted.charged += operator.charged;
            }
        }
    }
}

/// Returns a limit, unless it is none.
pub(crate) fn finite(limit: usize) -> Option<usize> {
    Some(limit).filter(|&limit| limit <= isize::MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let operator = |charged| OperatorStatus {
            charged,
            ..OperatorStatus::default()
        };
        let job = |charged: usize| JobStatus {
            allocated: charged * 3,
            operators: vec![operator(charged), operator(2 * charged)],
            ..JobStatus::default()
        };
        let tree = ExecutorTree {
            jobs: vec![job(100), job(10), job(1)],
            ..ExecutorTree::default()
        };
        for most in 0..12 {
            let mut bounded = tree.clone();
            bounded.bound(most);
            let operators: usize = bounded.jobs.iter().map(|job| job.operators.len()).sum();
            assert!(bounded.jobs.len() + operators <= most);
            let listed = bounded.jobs.iter().flat_map(|job| &job.operators);
            let charged: usize = listed.map(|operator| operator.charged).sum();
            assert_eq!(
                charged + bounded.omitted.charged,
                333,
                "{most}: {bounded:?}"
            );
            assert_eq!(bounded.jobs.len() + bounded.omitted.jobs, 3);
        }
        let mut whole = tree.clone();
        whole.bound(9);
        assert_eq!(whole, tree);
    }
}

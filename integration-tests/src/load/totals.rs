//! How often what happened in a run.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock;

macro_rules! counts {
    ($($count:ident $name:literal,)+) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $(
                #[doc = concat!("How many were: ", $name, ".")]
                $count,
            )+
        }

        /// The names of the counts, in their order.
        const NAMES: &[&str] = &[$($name),+];
    };
}

counts! {
    Steps "steps",
    Arrived "clients arrived",
    Left "clients left",
    Granted "granted",
    GrantedLate "granted futures that had waited",
    Refused "refused",
    Never "refused for ever",
    Closed "closed",
    TimedOut "timed out",
    GaveWay "gave way",
    Cancelled "cancelled",
    Woken "woken",
    Asked "caches asked",
    Spilled "spilled",
    Shared "shared",
    Moved "moved",
    Adopted "adopted",
    Injected "failures of the manager",
    Panicked "panics on purpose",
    Leaked "leaks found",
    Mended "leaks mended",
    Verified "verified",
}

/// The counts of all threads, and what went wrong.
#[derive(Debug)]
pub struct Totals {
    counts: [AtomicU64; NAMES.len()],
    failures: Mutex<Vec<String>>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; NAMES.len()],
            failures: Mutex::default(),
        }
    }
}

impl Totals {
    /// Counts one.
    pub fn add(&self, count: Count) {
        // Relaxed: the count guards no other memory.
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were so far.
    pub fn of(&self, count: Count) -> u64 {
        // Relaxed: the count guards no other memory.
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Notes what is not as documented. Wakers and reclaimers need this: their panics are caught.
    pub fn fail(&self, what: String) {
        lock(&self.failures).push(what);
    }

    /// What was noted so far.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }
}

impl fmt::Display for Totals {
    /// Writes the counts that are above zero, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.iter().map(|it| it.load(Ordering::Relaxed));
        let counts = counts.zip(NAMES).filter(|&(count, _)| count > 0);
        for (index, (count, name)) in counts.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

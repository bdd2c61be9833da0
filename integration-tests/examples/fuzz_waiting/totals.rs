//! How often what happened.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counts of all threads.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) steps: AtomicU64,
    pub(crate) granted: AtomicU64,
    /// Requests of futures that were granted after they were queued.
    pub(crate) granted_late: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) never: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) told: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) woken: AtomicU64,
    pub(crate) asked: AtomicU64,
    pub(crate) spilled: AtomicU64,
    pub(crate) verified: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Totals {
    pub(crate) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes what is not as documented. Wakers need this: their panics are caught.
    pub(crate) fn fail(&self, what: String) {
        if let Ok(mut failures) = self.failures.lock() {
            failures.push(what);
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures
            .lock()
            .map_or_else(|_| vec!["a thread panicked".into()], |it| it.clone())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (&self.steps, "steps"),
            (&self.granted, "granted"),
            (&self.granted_late, "granted futures that had waited"),
            (&self.refused, "refused"),
            (&self.never, "refused for ever"),
            (&self.closed, "closed"),
            (&self.timed_out, "timed out"),
            (&self.told, "gave way"),
            (&self.cancelled, "cancelled"),
            (&self.woken, "woken"),
            (&self.asked, "caches asked"),
            (&self.spilled, "spilled"),
            (&self.verified, "verified"),
        ];
        for (index, (count, name)) in counts.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {name}", count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

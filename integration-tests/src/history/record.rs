//! The records of a run: calls between two ticks of a common clock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow_memory_core::__private::lock_uncounted as lock;

/// The first and the last tick of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    /// The time of the last of two events whose order is not known.
    #[must_use]
    pub fn last(self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// The number of a level.
pub type Level = usize;

/// The records of all threads.
#[derive(Debug, Default)]
pub struct History {
    clock: AtomicU64,
    next_level: AtomicUsize,
    pub(super) log: Mutex<Log>,
}

/// The records of one thread, or of all together.
#[derive(Debug, Default)]
pub struct Log {
    pub(super) levels: Vec<(Level, LevelRecord)>,
    pub(super) charges: Vec<Charge>,
    pub(super) refusals: Vec<Refused>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LevelRecord {
    pub(super) parent: Option<Level>,
    pub(super) reservation: usize,
    pub(super) limit: usize,
    pub(super) created: Span,
    pub(super) removed: Span,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) level: Level,
    pub(super) bytes: usize,
    pub(super) made: Span,
    pub(super) ended: Span,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) level: Level,
    pub(super) bytes: usize,
    pub(super) call: Span,
}

/// A level that is in the tree.
#[derive(Clone, Copy, Debug)]
#[must_use = "a level that is not removed is not in the history"]
pub struct OpenLevel {
    /// Its number.
    pub level: Level,
    parent: Option<Level>,
    reservation: usize,
    limit: usize,
    created: Span,
}

/// A charge that is not released.
#[derive(Clone, Copy, Debug)]
#[must_use = "a charge that is not ended is not in the history"]
pub struct OpenCharge {
    level: Level,
    bytes: usize,
    made: Span,
}

impl History {
    /// Runs a call between two ticks.
    pub fn timed<T>(&self, call: impl FnOnce() -> T) -> (T, Span) {
        let start = self.tick();
        let result = call();
        let end = self.tick();
        (result, Span { start, end })
    }

    /// Records that a level was created during `created`. Parents have to be recorded before their children.
    pub fn level(
        &self,
        parent: Option<Level>,
        reservation: usize,
        limit: usize,
        created: Span,
    ) -> OpenLevel {
        // Relaxed: only the number matters.
        let level = self.next_level.fetch_add(1, Ordering::Relaxed);
        OpenLevel {
            level,
            parent,
            reservation,
            limit,
            created,
        }
    }

    /// Adds the records of a thread.
    pub fn add(&self, log: Log) {
        let mut all = lock(&self.log);
        all.levels.extend(log.levels);
        all.charges.extend(log.charges);
        all.refusals.extend(log.refusals);
    }

    fn tick(&self) -> u64 {
        // AcqRel: a call that starts after another one has returned gets a later tick; the partner is the
        // same operation on another thread.
        self.clock.fetch_add(1, Ordering::AcqRel)
    }
}

impl Log {
    /// Records a granted request.
    pub fn granted(&self, level: Level, bytes: usize, made: Span) -> OpenCharge {
        OpenCharge { level, bytes, made }
    }

    /// Records a refused request.
    pub fn refused(&mut self, level: Level, bytes: usize, call: Span) {
        self.refusals.push(Refused { level, bytes, call });
    }

    /// Records that a charge was released during `ended`.
    pub fn ended(&mut self, charge: OpenCharge, ended: Span) {
        let OpenCharge { level, bytes, made } = charge;
        self.charges.push(Charge {
            level,
            bytes,
            made,
            ended,
        });
    }

    /// Records that a level left the tree during `removed`.
    pub fn removed(&mut self, level: OpenLevel, removed: Span) {
        let record = LevelRecord {
            parent: level.parent,
            reservation: level.reservation,
            limit: level.limit,
            created: level.created,
            removed,
        };
        self.levels.push((level.level, record));
    }
}

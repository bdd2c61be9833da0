//! Judges a concurrent run afterwards: which refusals were wrong, and which limits were passed.
//!
//! Every call notes the tick of a common clock before it starts and after it returned. A charge
//! may count from the first tick of its request to the last tick of its release, and it surely
//! counts between the two calls. That gives two totals for every moment and level:
//!
//! * `most`: what may have been allocated. If a refused request fits with `most` at every moment
//!   between its two ticks, it fitted at every moment: the refusal was wrong. A refused request
//!   itself never counts, because it must never be visible.
//! * `least`: what surely was allocated. If that is above a limit, the limit was passed.
//!
//! Allocated bytes grow with everything that they are computed from, so what holds with `most`
//! holds with whatever the true value was.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_memory_core::__private::lock_uncounted as lock;

/// The first and the last tick of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// When the last of two things happened, of which the order is not known.
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

/// What happened, from all threads.
#[derive(Debug, Default)]
pub struct History {
    clock: AtomicU64,
    next_level: AtomicUsize,
    log: Mutex<Log>,
}

/// What one thread, or all together, noted.
#[derive(Debug, Default)]
pub struct Log {
    levels: Vec<(Level, LevelRecord)>,
    charges: Vec<Charge>,
    refusals: Vec<Refused>,
}

#[derive(Clone, Copy, Debug)]
struct LevelRecord {
    parent: Option<Level>,
    reservation: usize,
    limit: usize,
    created: Span,
    removed: Span,
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    level: Level,
    bytes: usize,
    made: Span,
    ended: Span,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    level: Level,
    bytes: usize,
    call: Span,
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

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Granted requests.
    pub granted: usize,
    /// Refused requests.
    pub refused: usize,
    /// Refused requests that nobody could disturb, because no other call overlapped: they are the
    /// ones that are judged exactly.
    pub undisturbed: usize,
}

impl History {
    /// Runs a call between two ticks.
    pub fn timed<T>(&self, call: impl FnOnce() -> T) -> (T, Span) {
        let start = self.tick();
        let result = call();
        let end = self.tick();
        (result, Span { start, end })
    }

    /// Notes that a level came to be during `created`. Children must come after their parents.
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

    /// Adds what a thread noted.
    pub fn add(&self, log: Log) {
        let mut all = lock(&self.log);
        all.levels.extend(log.levels);
        all.charges.extend(log.charges);
        all.refusals.extend(log.refusals);
    }

    /// Judges the run.
    ///
    /// # Errors
    ///
    /// The first refusal that was wrong, or the first limit that was passed.
    pub fn judge(self) -> Result<Summary, String> {
        let log = self
            .log
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Judge::new(log).run()
    }

    fn tick(&self) -> u64 {
        // AcqRel: a tick that is read later belongs to a call that started after whatever the
        // reader of an earlier tick had done; its partner is the same operation elsewhere.
        self.clock.fetch_add(1, Ordering::AcqRel)
    }
}

impl Log {
    /// Notes a granted request.
    pub fn granted(&self, level: Level, bytes: usize, made: Span) -> OpenCharge {
        OpenCharge { level, bytes, made }
    }

    /// Notes a refused request.
    pub fn refused(&mut self, level: Level, bytes: usize, call: Span) {
        self.refusals.push(Refused { level, bytes, call });
    }

    /// Notes that a charge was released during `ended`.
    pub fn ended(&mut self, charge: OpenCharge, ended: Span) {
        let OpenCharge { level, bytes, made } = charge;
        self.charges.push(Charge {
            level,
            bytes,
            made,
            ended,
        });
    }

    /// Notes that a level left the tree during `removed`.
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

/// A change of one of the totals, or a refused call that starts or ends.
#[derive(Clone, Copy, Debug)]
enum Event {
    MayCome(Change),
    SurelyThere(Change),
    MayGo(Change),
    SurelyGone(Change),
    Asks(usize),
    IsRefused(usize),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Charge(usize),
    Level(usize),
}

struct Judge {
    log: Log,
    /// By number.
    records: Vec<Option<LevelRecord>>,
    most: Totals,
    least: Totals,
    /// Refused calls that are under way, and whether they fitted up to now.
    asking: Vec<(usize, bool, usize)>,
    changes: usize,
}

impl Judge {
    fn new(log: Log) -> Self {
        let count = log.levels.iter().map(|it| it.0 + 1).max().unwrap_or(0);
        let mut records = vec![None; count];
        for &(level, record) in &log.levels {
            records[level] = Some(record);
        }
        Self {
            log,
            records,
            most: Totals::new(count),
            least: Totals::new(count),
            asking: Vec::new(),
            changes: 0,
        }
    }

    fn run(mut self) -> Result<Summary, String> {
        let mut summary = Summary {
            granted: self.log.charges.len(),
            refused: self.log.refusals.len(),
            undisturbed: 0,
        };
        for (_, event) in self.events() {
            match event {
                Event::MayCome(change) => self.change_most(change, true),
                Event::SurelyGone(change) => self.change_most(change, false),
                Event::SurelyThere(change) => self.change_least(change, true)?,
                Event::MayGo(change) => self.change_least(change, false)?,
                Event::Asks(refusal) => {
                    let fits = self.fits(refusal);
                    self.asking.push((refusal, fits, self.changes));
                }
                Event::IsRefused(refusal) => {
                    let at = self.asking.iter().position(|it| it.0 == refusal);
                    let (_, fitted, since) = self.asking.swap_remove(at.expect("it asked"));
                    summary.undisturbed += usize::from(since == self.changes);
                    if fitted {
                        return Err(self.wrong_refusal(refusal));
                    }
                }
            }
        }
        Ok(summary)
    }

    fn events(&self) -> Vec<(u64, Event)> {
        let mut events = Vec::new();
        let mut span = |change, from: Span, to: Span| {
            events.push((from.start, Event::MayCome(change)));
            events.push((from.end, Event::SurelyThere(change)));
            events.push((to.start, Event::MayGo(change)));
            events.push((to.end, Event::SurelyGone(change)));
        };
        for (index, charge) in self.log.charges.iter().enumerate() {
            span(Change::Charge(index), charge.made, charge.ended);
        }
        for &(level, record) in &self.log.levels {
            span(Change::Level(level), record.created, record.removed);
        }
        for (index, refusal) in self.log.refusals.iter().enumerate() {
            events.push((refusal.call.start, Event::Asks(index)));
            events.push((refusal.call.end, Event::IsRefused(index)));
        }
        events.sort_by_key(|it| it.0);
        events
    }

    fn change_most(&mut self, change: Change, comes: bool) {
        self.changes += 1;
        self.most.change(&self.log, change, comes);
        for index in 0..self.asking.len() {
            let (refusal, fitted, _) = self.asking[index];
            self.asking[index].1 = fitted && self.fits(refusal);
        }
    }

    fn change_least(&mut self, change: Change, comes: bool) -> Result<(), String> {
        self.changes += 1;
        self.least.change(&self.log, change, comes);
        let allocated = self.least.allocated(&self.records, None);
        for &level in &self.least.alive {
            let record = self.record(level);
            if allocated[level] > record.limit {
                return Err(format!(
                    "level {level} surely had {} bytes, above its limit of {}",
                    allocated[level], record.limit
                ));
            }
        }
        Ok(())
    }

    /// Whether a refused request fits even with all that may be allocated now.
    fn fits(&self, refusal: usize) -> bool {
        let Refused { level, bytes, .. } = self.log.refusals[refusal];
        let without = self.most.allocated(&self.records, None);
        let with = self.most.allocated(&self.records, Some((level, bytes)));
        let mut at = Some(level);
        while let Some(level) = at {
            let record = self.record(level);
            if with[level] > without[level] && with[level] > record.limit {
                return false;
            }
            at = record.parent;
        }
        true
    }

    fn wrong_refusal(&self, refusal: usize) -> String {
        let Refused { level, bytes, call } = self.log.refusals[refusal];
        let mut text = format!(
            "{bytes} bytes were refused at level {level} during {call:?}, but fitted throughout; \
             when the call ended, at most this was allocated:"
        );
        let allocated = self.most.allocated(&self.records, None);
        let mut at = Some(level);
        while let Some(level) = at {
            let record = self.record(level);
            text += &format!(
                "\n  level {level}: {} of {}, reservation {}",
                allocated[level], record.limit, record.reservation
            );
            at = record.parent;
        }
        text
    }

    fn record(&self, level: Level) -> LevelRecord {
        self.records[level].expect("a level that is used was noted")
    }
}

/// What every level has for itself, and which levels there are.
struct Totals {
    own: Vec<usize>,
    alive: Vec<Level>,
}

impl Totals {
    fn new(levels: usize) -> Self {
        Self {
            own: vec![0; levels],
            alive: Vec::new(),
        }
    }

    fn change(&mut self, log: &Log, change: Change, comes: bool) {
        match change {
            Change::Charge(index) => {
                let Charge { level, bytes, .. } = log.charges[index];
                if comes {
                    self.own[level] += bytes;
                } else {
                    self.own[level] -= bytes;
                }
            }
            Change::Level(level) => match self.alive.binary_search(&level) {
                Err(at) if comes => self.alive.insert(at, level),
                Ok(at) if !comes => drop(self.alive.remove(at)),
                _ => panic!("level {level} came or went twice"),
            },
        }
    }

    /// The equation, for every level that is there; `extra` bytes are asked of a level besides.
    fn allocated(
        &self,
        records: &[Option<LevelRecord>],
        extra: Option<(Level, usize)>,
    ) -> Vec<usize> {
        let mut allocated = self.own.clone();
        if let Some((level, bytes)) = extra {
            allocated[level] += bytes;
        }
        for &level in self.alive.iter().rev() {
            let record = records[level].expect("a level that is used was noted");
            if let Some(parent) = record.parent {
                allocated[parent] += allocated[level].max(record.reservation);
            }
        }
        allocated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads' worth of calls at given ticks, below a root of 100 bytes.
    fn judged(fill: impl FnOnce(&History, &mut Log, Level)) -> Result<Summary, String> {
        let history = History::default();
        let root = history.level(None, 0, 100, span(0, 1));
        let mut log = Log::default();
        fill(&history, &mut log, root.level);
        log.removed(root, span(1000, 1001));
        history.add(log);
        history.judge()
    }

    fn span(start: u64, end: u64) -> Span {
        Span { start, end }
    }

    #[test]
    fn a_refusal_of_what_fitted_throughout_is_wrong() {
        let judged = judged(|_, log, root| {
            let held = log.granted(root, 60, span(2, 3));
            log.refused(root, 40, span(10, 11));
            log.ended(held, span(20, 21));
        });

        assert!(judged.unwrap_err().starts_with("40 bytes were refused"));
    }

    #[test]
    fn a_refusal_is_right_if_another_call_may_have_been_in_the_way_for_a_moment() {
        for (made, ended) in [
            ((2, 3), (9, 11)),
            ((11, 13), (20, 21)),
            ((10, 11), (12, 14)),
        ] {
            let judged = judged(|_, log, root| {
                let held = log.granted(root, 61, span(made.0, made.1));
                log.refused(root, 40, span(10, 13));
                log.ended(held, span(ended.0, ended.1));
            });

            assert!(judged.is_ok(), "{made:?} {ended:?}: {judged:?}");
        }
    }

    #[test]
    fn a_refused_request_is_no_excuse_for_another_refusal() {
        let judged = judged(|_, log, root| {
            log.refused(root, 101, span(8, 20));
            log.refused(root, 40, span(10, 13));
        });

        assert!(judged.unwrap_err().starts_with("40 bytes were refused"));
    }

    #[test]
    fn more_than_the_limit_between_two_calls_is_a_limit_passed() {
        let judged = judged(|_, log, root| {
            let a = log.granted(root, 60, span(2, 5));
            let b = log.granted(root, 41, span(3, 4));
            log.ended(a, span(6, 7));
            log.ended(b, span(8, 9));
        });

        assert!(
            judged
                .unwrap_err()
                .contains("101 bytes, above its limit of 100")
        );
    }

    #[test]
    fn a_reservation_counts_for_the_parent_while_its_child_is_there() {
        let run = |asked: (u64, u64)| {
            judged(|history, log, root| {
                let child = history.level(Some(root), 80, 200, span(5, 6));
                let held = log.granted(child.level, 50, span(7, 8));
                log.refused(root, 30, span(asked.0, asked.1));
                log.ended(held, span(11, 12));
                log.removed(child, span(20, 21));
            })
        };

        assert!(run((9, 10)).is_ok());
        assert!(run((13, 14)).is_ok());
        assert!(run((22, 23)).is_err());
    }
}

//! Examines all moments of a run, in order.

use std::sync::PoisonError;

use super::record::{Charge, History, Level, LevelRecord, Log, Refused, Span};

/// The numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Granted requests.
    pub granted: usize,
    /// Refused requests.
    pub refused: usize,
    /// Refused requests that no other call overlapped. Only these are judged exactly.
    pub undisturbed: usize,
}

impl History {
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
    /// The levels, by number.
    records: Vec<Option<LevelRecord>>,
    most: Totals,
    least: Totals,
    /// Refused calls in progress, and whether they have fitted so far.
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

    /// Whether a refused request fits even with the maximum that may be allocated now.
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

/// The own bytes of every level, and which levels exist.
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

    /// Evaluates the equation of the model for every level that exists, with `extra` bytes requested from one
    /// level.
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

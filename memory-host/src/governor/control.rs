//! The governor's decisions, without a thread, a clock or a file: [`Control`], and [`History`] for each limit.
//!
//! # The cap
//!
//! `cap = host × target − overhead`: what the tree may hold so that, with all memory that the tree does not count, the
//! host's limit is not passed. Of several limits the one counts by which the cap is the smallest. The overhead is `used − accounted − free`, where *used* is what the kernel cannot take
//! back, and *free* is what the backend keeps and can lend again.
//!
//! Without *free* there is a spiral. Queries spill since the cap fell, the backend keeps their pages, so that
//! *used* stays and `used − accounted` grows; the cap falls again, to its floor, and nothing was gained.
//!
//! # Backends that do not count what is free
//!
//! When accounted memory is at its maximum, little is free in the backend, and the overhead is `used − accounted`. When
//! it falls below, what was released may be kept: so the overhead is `used − maximum`, until there is evidence that
//! the bytes between the accounted ones and their maximum are not there to be lent again:
//!
//! * *used* falls: that much went back to the system;
//! * *used* passes its own maximum: that much was not found among what is free. It counts twice, since more was
//!   free by the books and yet was of no use.
//!
//! By either, the maximum comes down. Falls of less than 1/128 of the host are noise, which would wear the
//! maximum away.

use std::time::Duration;

use crate::backend::Free;
use crate::limit::part;

/// What was measured of one limit at one time, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The limit.
    pub(crate) host: usize,
    /// The smallest of the host's limits, of which the floor and the steps of the cap are parts.
    pub(crate) least: usize,
    /// What is used of that limit and cannot be taken back.
    pub(crate) used: usize,
    /// What the tree has charged.
    pub(crate) accounted: usize,
    /// What is free in the backend.
    pub(crate) free: Free,
}

/// What is to be done before the cap moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relief {
    /// Whether the backend should give back what it keeps.
    pub(crate) trim: bool,
    /// How many bytes the users of the tree should give back.
    pub(crate) ask: usize,
}

/// A measurement, and the cap that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) cap: usize,
    pub(crate) measured: Measured,
}

/// The state between two measurements.
#[derive(Debug)]
pub(crate) struct Control {
    target: f64,
    cap: Option<usize>,
    /// When the cap was last lowered; times count from any fixed instant.
    lowered: Option<Duration>,
    /// When relief was last asked for.
    relieved: Option<Duration>,
}

/// What earlier measurements of one limit say about the memory that its backend does not count.
#[derive(Debug, Default)]
pub(crate) struct History {
    high: Option<High>,
}

/// The recent maximum of accounted bytes, and the maximum of used bytes since.
#[derive(Debug)]
struct High {
    accounted: usize,
    used: usize,
}

impl Control {
    pub(crate) fn new(target: f64) -> Self {
        Self {
            target,
            cap: None,
            lowered: None,
            relieved: None,
        }
    }

    /// The cap of the formula, by a measurement of a limit whose history is that one.
    pub(crate) fn wanted(&self, measured: &Measured, history: &mut History) -> Wanted {
        let target = part(measured.host, self.target);
        let floor = (measured.least / FLOOR).min(target);
        let cap = target.saturating_sub(history.overhead(measured)).max(floor);
        Wanted {
            cap,
            measured: *measured,
        }
    }

    /// What to do now, before [`step`](Self::step): if the cap is about to be lowered, and otherwise once a second
    /// while more is used, or accounted, than should be.
    pub(crate) fn relief(&mut self, now: Duration, wanted: &Wanted) -> Relief {
        let Wanted { cap, measured } = wanted;
        let pressed = measured.used > part(measured.host, self.target) || measured.accounted > *cap;
        let again = pressed && is_over(self.relieved, now);
        if !again && !self.lowers(now, wanted) {
            return Relief::default();
        }
        self.relieved = Some(now);
        Relief {
            trim: measured.free.bytes() >= measured.least / NOISE
                || matches!(measured.free, Free::AtLeast(_)),
            ask: measured.accounted.saturating_sub(*cap),
        }
    }

    /// Decides about the cap; returns it if it moves.
    pub(crate) fn step(&mut self, now: Duration, wanted: &Wanted) -> Option<usize> {
        if self.lowers(now, wanted) {
            self.lowered = Some(now);
        } else if !self.raises(wanted) {
            return None;
        }
        self.cap = Some(wanted.cap);
        self.cap
    }

    fn lowers(&self, now: Duration, wanted: &Wanted) -> bool {
        self.cap.is_some_and(|cap| {
            wanted.cap.saturating_add(wanted.measured.least / DEAD_BAND) < cap
                && is_over(self.lowered, now)
        })
    }

    fn raises(&self, wanted: &Wanted) -> bool {
        self.cap
            .is_none_or(|cap| wanted.cap > cap.saturating_add(wanted.measured.least / DEAD_BAND))
    }
}

impl History {
    /// Forgets what was measured so far, since other numbers follow.
    pub(crate) fn forget(&mut self) {
        self.high = None;
    }

    /// Memory that the tree does not count, and that cannot be lent to it.
    fn overhead(&mut self, measured: &Measured) -> usize {
        self.observe(measured);
        let known = measured.accounted.saturating_add(measured.free.bytes());
        match (measured.free, &self.high) {
            (Free::AtLeast(_), Some(high)) => {
                measured.used.saturating_sub(known.max(high.accounted))
            }
            _ => measured.used.saturating_sub(known),
        }
    }

    /// Keeps the maxima, which the head of this file explains. The same measurement may come twice.
    fn observe(&mut self, measured: &Measured) {
        let Measured {
            used, accounted, ..
        } = *measured;
        let high = self.high.get_or_insert(High { accounted, used });
        let (fell, rose) = (
            high.used.saturating_sub(used),
            used.saturating_sub(high.used),
        );
        if rose > 0 || fell > measured.host / NOISE {
            let evidence = fell.max(rose.saturating_mul(2));
            high.accounted = high.accounted.saturating_sub(evidence);
            high.used = used;
        }
        high.accounted = high.accounted.max(accounted);
    }
}

/// Whether a second has passed since `before`.
fn is_over(before: Option<Duration>, now: Duration) -> bool {
    before.is_none_or(|before| now.saturating_sub(before) >= Duration::from_secs(1))
}

/// The cap moves by more than this part of the host's smallest limit, or not at all.
const DEAD_BAND: usize = 32;

/// The tree keeps this part of the host's smallest limit, whatever others use: without it nothing that gives
/// memory back could run.
const FLOOR: usize = 32;

/// Smaller parts of a limit are noise.
const NOISE: usize = 128;

#[cfg(test)]
mod tests;

//! Which waiters are granted after a step: the tree reports them, and the model decides whether they are the right
//! ones.
//!
//! Which level is served first is not specified, so the model does not foretell who is granted where requests
//! wait at several levels. It looks for an order in which the grants of the tree are right: each goes to the
//! oldest request of its level that fits. Then nobody else may fit.

use super::waits::Phase;
use super::{Charging, Model};
use crate::operation::{Key, Refusal};

/// A request that waits, as the tree shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The allocator that is charged.
    pub allocator: Key,
    /// The allocator that lacks room.
    pub lacks_room: Key,
    /// The requested bytes.
    pub bytes: usize,
    /// Whether a child waits for its reservation.
    pub admission: bool,
    /// Whether room is withheld for it.
    pub withholds: bool,
}

/// A request that still waits after a step.
#[derive(Clone, Copy, Debug)]
struct Rest {
    key: Key,
    seen: Seen,
    /// Whether it was queued at another level in this step. It is not known when, and so what passed it.
    moves: bool,
}

/// What is known of the tree after a step.
#[derive(Debug)]
struct Then {
    rest: Vec<Rest>,
    /// Without credit. With it, requests may use what their nodes hold, in spite of what is withheld above.
    exact: bool,
}

impl Model {
    /// Follows what the tree did after a step: the waits of `ended` are over, and `seen` still wait, the oldest
    /// first. `exact`: what passed whom is known, since no credit hides it.
    ///
    /// # Errors
    ///
    /// What is wrong with that.
    pub fn settle(&mut self, ended: &[Key], seen: &[Seen], exact: bool) -> Result<(), String> {
        let waiting = self.waiting().into_iter();
        let (granted, keys): (Vec<Key>, Vec<Key>) = waiting.partition(|it| ended.contains(it));
        self.compare_seen(&keys, seen)?;
        let rest = keys.iter().zip(seen).map(|(&key, &seen)| Rest {
            key,
            seen,
            moves: self.place(key).level != seen.lacks_room,
        });
        let then = Then {
            rest: rest.collect(),
            exact,
        };
        if exact {
            self.raise_barriers();
        }
        let Some(after) = self.granting(&granted, &then) else {
            return Err(format!("no order makes the grants of {granted:?} right"));
        };
        *self = after;
        for &it in &then.rest {
            self.follow(it, exact)?;
        }
        self.note_peaks();
        keys.iter().try_for_each(|&key| self.check_asleep(key))
    }

    /// Compares who waits.
    fn compare_seen(&self, rest: &[Key], seen: &[Seen]) -> Result<(), String> {
        let expected = rest.iter().map(|key| {
            let wait = &self.waits[key];
            let bytes = usize::try_from(wait.bytes).expect("a size");
            (wait.node, bytes, wait.is_admission())
        });
        let found = seen.iter().map(|it| (it.allocator, it.bytes, it.admission));
        if expected.clone().eq(found) {
            return Ok(());
        }
        let expected: Vec<_> = rest.iter().zip(expected).collect();
        Err(format!("{expected:?} wait, but the tree has {seen:?}"))
    }

    /// Makes barriers of those that have been passed by as much as may pass them.
    fn raise_barriers(&mut self) {
        for wait in self.waits.values_mut() {
            if let Some(place) = wait.place_mut() {
                place.barrier |= place.due;
            }
        }
    }

    /// The model after the grants, if there is an order in which they are right.
    fn granting(&self, granted: &[Key], then: &Then) -> Option<Self> {
        if granted.is_empty() {
            return Some(self.clone());
        }
        let mut levels: Vec<Key> = Vec::new();
        for key in granted {
            let level = self.place(*key).level;
            if levels.contains(&level) {
                continue;
            }
            levels.push(level);
            let Some(next) = self.next_at(level, then) else {
                continue;
            };
            let Some(place) = granted.iter().position(|&it| it == next) else {
                continue;
            };
            let mut left = granted.to_vec();
            left.remove(place);
            let mut after = self.clone();
            after.grant(next, then);
            if let Some(after) = after.granting(&left, then) {
                return Some(after);
            }
        }
        self.closing(granted, then)
            .or_else(|| self.moving(granted, then))
    }

    /// The model after requests that still wait were queued at the levels where they are in the end.
    fn moving(&self, granted: &[Key], then: &Then) -> Option<Self> {
        let (mut after, mut moves) = (self.clone(), false);
        for it in &then.rest {
            let place = after.place_mut(it.key);
            moves |= place.level != it.seen.lacks_room;
            place.level = it.seen.lacks_room;
        }
        if moves {
            after.granting(granted, then)
        } else {
            None
        }
    }

    /// The model after a request was refused since a level that it reaches is closed, although its own
    /// reservations may cover it later.
    fn closing(&self, granted: &[Key], then: &Then) -> Option<Self> {
        let closed = |key: &&Key| {
            let obstacle = self.clone().fits(**key);
            matches!(obstacle, Err(Refusal::Closed(_)))
        };
        let key = *granted.iter().find(closed)?;
        let mut after = self.clone();
        after.wait_mut(key).phase = Phase::Ended;
        let left: Vec<Key> = granted.iter().copied().filter(|&it| it != key).collect();
        after.granting(&left, then)
    }

    /// The oldest request of a level that fits. One that still waits in the end may have been held back by a
    /// request that became a barrier in this step, or have lacked room elsewhere.
    fn next_at(&self, level: Key, then: &Then) -> Option<Key> {
        let waits_here = |key: &Key| self.waits[key].place().is_some_and(|it| it.level == level);
        let mut here = self.waiting().into_iter().filter(waits_here);
        here.find(|&key| {
            let is_over = then.rest.iter().all(|it| it.key != key);
            let fits = if is_over && !then.exact {
                self.clone().without_withholding().fits(key)
            } else {
                self.clone().fits(key)
            };
            if is_over || fits.is_err() {
                return fits.is_ok();
            }
            let mut after = self.clone();
            for it in &then.rest {
                let place = after.place_mut(it.key);
                (place.level, place.barrier) = (it.seen.lacks_room, it.seen.withholds);
            }
            after.fits(key).is_ok()
        })
    }

    /// Whether a request that waits fits, and which level refuses it.
    fn fits(&mut self, key: Key) -> Result<(), Refusal> {
        let (node, bytes, turn) = (
            self.waits[&key].node,
            self.waits[&key].bytes,
            self.turn(key),
        );
        let charging = self.charging(node, bytes);
        self.check_charge(&charging, turn)
    }

    /// Grants a request: it passes all who wait at other levels, and the older ones at its own.
    fn grant(&mut self, key: Key, then: &Then) {
        let (node, bytes, level) = (
            self.waits[&key].node,
            self.waits[&key].bytes,
            self.place(key).level,
        );
        let charging: Charging = self.charging(node, bytes);
        self.wait_mut(key).phase = Phase::Granted;
        for other in self.waiting() {
            let at = self.place(other).level;
            let grown = self.grown_at(at, &charging);
            let moves = then.rest.iter().find(|it| it.key == other && it.moves);
            let passed = match moves {
                Some(it) => (0, grown.max(self.grown_at(it.seen.lacks_room, &charging))),
                None if at == level && other > key => (0, 0),
                None => (grown, grown),
            };
            self.pass_by(other, passed);
        }
    }

    /// Takes over where a request waits, and whether room is withheld for it, after checking that it may be so.
    fn follow(&mut self, rest: Rest, exact: bool) -> Result<(), String> {
        let Rest { key, seen, moves } = rest;
        if !self.path(self.waits[&key].node).contains(&seen.lacks_room) {
            return Err(format!("w{key} waits at a{}", seen.lacks_room));
        }
        self.place_mut(key).level = seen.lacks_room;
        self.note_allowed();
        let place = self.place_mut(key);
        let may = place.barrier || place.passed.1 >= place.allowed.0;
        let must = place.barrier || place.due && !moves;
        if exact && (seen.withholds && !may || !seen.withholds && must) {
            return Err(format!("w{key}: {seen:?} against {place:?}"));
        }
        if place.barrier && !seen.withholds {
            return Err(format!("w{key} is a barrier no more"));
        }
        (place.barrier, place.due) = (seen.withholds, false);
        Ok(())
    }

    /// Checks that a request which waits lacks room: below all limits, besides what is withheld for others, and
    /// at the level where it waits, since only what becomes free there serves it.
    fn check_asleep(&self, key: Key) -> Result<(), String> {
        let mut trial = self.clone();
        let obstacle = trial.fits(key);
        if obstacle.is_ok() {
            return Err(format!("w{key} waits, but it fits"));
        }
        let (wait, turn) = (&self.waits[&key], self.turn(key));
        let level = self.place(key).level;
        let charging = trial.charging(wait.node, wait.bytes);
        let (without, with) = (charging.without[&level], charging.with[&level]);
        let lacks = with > without && with + self.withheld(level, turn) > self.node(level).bound();
        if lacks || self.node(level).closed {
            Ok(())
        } else {
            Err(format!(
                "w{key} waits at a{level}, which has room for it: {obstacle:?} refuses it"
            ))
        }
    }
}

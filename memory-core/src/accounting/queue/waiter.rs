//! A request that waits: what it asks for, its place, how it ends, and how its owner is woken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::spillers::Spiller;

/// The place of a request among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Smaller is older.
    pub(super) ticket: u64,
    pub(super) admission: bool,
}

impl Turn {
    /// A request that does not wait: it comes after all that do.
    pub(crate) const TRY: Self = Self {
        ticket: u64::MAX,
        admission: false,
    };

    /// Whether a child waits for its reservation.
    pub(in crate::accounting) fn is_admission(self) -> bool {
        self.admission
    }

    /// Whether room that is withheld for `older` is not there for this request. An admission holds back
    /// younger admissions only.
    pub(super) fn is_held_back_by(self, older: Self) -> bool {
        older.ticket < self.ticket && (self.admission || !older.admission)
    }
}

/// The age of a wait that was told to give way, for its next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    pub(super) ticket: u64,
    pub(super) since: Instant,
    pub(super) told: Option<u64>,
}

impl Age {
    /// When the first attempt began.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The bytes are charged to the waiter's node.
    Granted,
    /// A level that the request reaches was closed, or has a limit now that is smaller than the request.
    Refused,
    /// The deadline passed.
    TimedOut,
    /// Waiters that hold memory wait for one another, and this one is to release what it can.
    GiveWay,
    /// The waiters hold all that is used, and were told to give way before.
    Stuck,
    /// The process is a fork of the one in which the request was queued.
    Forked,
}

impl Ask {
    /// A request for nothing yet, without a deadline.
    pub(crate) fn new(admission: bool) -> Self {
        Self {
            bytes: 0,
            kept: 0,
            admission,
            now: None,
            at_most: None,
            deadline: None,
            age: None,
        }
    }

    /// Has it wait at most so long, once it begins, in place of a deadline.
    pub(crate) fn at_most(&mut self, duration: Duration) {
        self.at_most = Some(duration);
    }

    /// Has it wait at most until that instant, in place of a duration.
    pub(crate) fn until(&mut self, deadline: Instant) {
        (self.deadline, self.at_most) = (Some(deadline), None);
    }

    /// Begins an attempt: from here on its time counts.
    pub(crate) fn begin(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(at_most) = self.at_most.take() {
            // No deadline if that is too far for the clock.
            self.deadline = now.checked_add(at_most);
        }
        *self.now.insert(now)
    }
}

impl Verdict {
    /// As an event names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::GiveWay => "give way",
            Self::Stuck => "stuck",
            Self::Forked => "forked",
        }
    }
}

/// How a waiter is told that its wait is over.
#[derive(Debug)]
pub(crate) enum Wake {
    Task(std::task::Waker),
    #[cfg(not(loom))]
    Thread(std::thread::Thread),
    #[cfg(loom)]
    Thread(loom::thread::Thread),
    /// Not a request: somebody that waits for a share of the spill reserve.
    Spiller(Arc<dyn Spiller>),
}

/// A request that may wait, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) bytes: usize,
    /// Bytes of the node that the requester keeps until it is served: those of a buffer that grows.
    pub(crate) kept: usize,
    /// Whether a child waits for its reservation.
    pub(crate) admission: bool,
    /// When this attempt began.
    pub(crate) now: Option<Instant>,
    /// How long it may wait, until it begins; then that is the deadline.
    at_most: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) age: Option<Age>,
}

/// A request that waits, or whose wait is over and whose owner has not looked yet.
#[derive(Debug)]
pub(in crate::accounting) struct Waiter<N> {
    /// The node that is charged.
    pub(in crate::accounting) node: N,
    pub(in crate::accounting) ask: Ask,
    pub(in crate::accounting) turn: Turn,
    pub(in crate::accounting) since: Instant,
    /// The level whose queue it is in.
    pub(in crate::accounting) level: u32,
    pub(in crate::accounting) verdict: Option<Verdict>,
    pub(in crate::accounting) wake: Option<Wake>,
    /// Room is withheld for it, since it was passed by as many bytes as it may be.
    pub(in crate::accounting) barrier: bool,
    /// The minimum of the bytes that were missing, and when they fell to it.
    pub(in crate::accounting) missing: usize,
    pub(in crate::accounting) missing_since: Instant,
    /// Whether it was told to ask others once more, and its owner has not done so yet.
    pub(in crate::accounting) asks: bool,
    /// The number of times that a waiter of the tree had been told to, when this one was told last or began to wait: the
    /// one with the smallest is told next.
    pub(super) told_to_ask: u64,
    /// Whether somebody asked last at the level where it waited before, and somebody is to give way next.
    pub(super) level_asked: bool,
    /// The number of grants in the tree when it was told to give way.
    pub(in crate::accounting) told: Option<u64>,
    /// Bytes that passed it at the levels where it waited before.
    pub(super) passed: u64,
    /// What the level had grown by when it came there.
    pub(super) grown: u64,
    pub(super) next: u32,
    pub(super) previous: u32,
    /// Whether `next` and `previous` are those of the wake list.
    pub(super) waking: bool,
}

impl<N> Waiter<N> {
    /// Its age, for the next attempt.
    pub(in crate::accounting) fn age(&self) -> Age {
        Age {
            ticket: self.turn.ticket,
            since: self.since,
            told: self.told,
        }
    }
}

impl Wake {
    /// Wakes the waiter. Foreign code.
    pub(in crate::accounting) fn call(self) {
        match self {
            Self::Task(waker) => waker.wake(),
            Self::Thread(thread) => thread.unpark(),
            Self::Spiller(spiller) => spiller.share_is_free(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn room_is_withheld_from_those_that_are_younger_and_for_an_admission_from_admissions_only() {
        let turn = |ticket, admission| Turn { ticket, admission };
        for (one, older, held_back) in [
            (turn(2, false), turn(1, false), true),
            (turn(2, true), turn(1, false), true),
            (turn(2, true), turn(1, true), true),
            (turn(2, false), turn(1, true), false),
            (turn(1, false), turn(1, false), false),
            (turn(1, true), turn(2, false), false),
            (Turn::TRY, turn(1, false), true),
            (Turn::TRY, turn(1, true), false),
        ] {
            assert_eq!(one.is_held_back_by(older), held_back, "{one:?} {older:?}");
        }
    }

    #[test]
    fn each_end_of_a_wait_has_its_name() {
        use Verdict::*;
        let names = [Granted, Refused, TimedOut, GiveWay, Stuck, Forked].map(Verdict::name);
        let expected = [
            "granted",
            "refused",
            "timed out",
            "give way",
            "stuck",
            "forked",
        ];
        assert_eq!(names, expected);
    }
}

//! Bounded histories: the origin, always kept, and the latest events.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use crate::report::CREATED;
use crate::stack::StackTrace;
use crate::sync::plain::Mutex;
use crate::sync::process::ObjectLocks;

/// How many events a history keeps besides the origin.
pub(crate) const LATEST: usize = 6;

/// What happened to a ledger, a buffer, a reservation or an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It was made: by an allocation, a builder, …
    Created,
    /// Foreign memory was taken in.
    Wrapped,
    Cloned,
    Sliced,
    Split,
    Retained,
    Transferred,
    Frozen,
    /// An `ArrowBuf` became an `ArrowBufMut`.
    Thawed,
    /// To so many bytes.
    Resized,
    /// A buffer of the ledger, by number, was made or dropped.
    BufferAdded,
    BufferDropped,
    /// By so many bytes.
    ExternalCharged,
    ExternalReleased,
    LimitSet,
    CloseRefused,
    Refused,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => CREATED,
            Self::Wrapped => "wrapped",
            Self::Cloned => "cloned",
            Self::Sliced => "sliced",
            Self::Split => "split",
            Self::Retained => "retained",
            Self::Transferred => "transferred",
            Self::Frozen => "frozen",
            Self::Thawed => "made writable",
            Self::Resized => "resized",
            Self::BufferAdded => "buffer added",
            Self::BufferDropped => "buffer dropped",
            Self::ExternalCharged => "external bytes charged",
            Self::ExternalReleased => "external bytes released",
            Self::LimitSet => "limit set",
            Self::CloseRefused => "close refused",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One event.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) time: Instant,
    /// `None` in a thread that is ending.
    pub(crate) thread: Option<Thread>,
    pub(crate) operation: Operation,
    /// What the operation is about: bytes, or a number; 0 where there is nothing to say.
    pub(crate) detail: usize,
    /// `None` where it happened in a `Drop`.
    pub(crate) caller: Option<&'static Location<'static>>,
}

impl Event {
    pub(crate) fn now(
        operation: Operation,
        detail: usize,
        caller: Option<&'static Location<'static>>,
    ) -> Self {
        Self {
            time: Instant::now(),
            thread: current_thread(),
            operation,
            detail,
            caller,
        }
    }
}

/// This thread. `thread::current()` asks more, and panics in a thread that is gone.
fn current_thread() -> Option<Thread> {
    thread_local!(static CURRENT: Thread = thread::current());
    CURRENT.try_with(Clone::clone).ok()
}

/// How something came to be.
pub(crate) struct Origin {
    pub(crate) event: Event,
    pub(crate) stack: StackTrace,
}

impl Origin {
    /// Now and here.
    pub(crate) fn now(operation: Operation, caller: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self {
            stack: StackTrace::capture(),
            event: Event::now(operation, 0, Some(caller)),
        })
    }
}

/// The latest events, oldest first. Without memory of its own, since it grows under locks.
#[derive(Clone, Default)]
pub(crate) struct Latest([Option<Event>; LATEST]);

impl Latest {
    /// Adds an event. What it returns is dropped when the lock is free: a thread's name may go with it.
    #[must_use = "an event is dropped when the lock is free"]
    pub(crate) fn push(&mut self, event: Event) -> Option<Event> {
        let free = self.0.iter_mut().find(|place| place.is_none());
        if let Some(place) = free {
            return place.replace(event);
        }
        self.0.rotate_left(1);
        self.0[LATEST - 1].replace(event)
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().flatten()
    }
}

/// The history of a reservation or an allocator, which carries it itself.
pub(crate) struct Trail {
    pub(crate) id: u64,
    pub(crate) origin: Arc<Origin>,
    /// Locked only by way of [`TRAILS`], and so by nobody at the instant of a fork.
    latest: Mutex<Latest>,
}

/// Under one of these locks an event is added to a trail, or a trail's events are copied.
static TRAILS: ObjectLocks = ObjectLocks::new();

impl Trail {
    pub(crate) fn new(id: u64, origin: Arc<Origin>) -> Self {
        Self {
            id,
            origin,
            latest: Mutex::default(),
        }
    }

    /// Notes an event.
    pub(crate) fn note(
        &self,
        operation: Operation,
        detail: usize,
        caller: Option<&'static Location<'static>>,
    ) {
        let event = Event::now(operation, detail, caller);
        let gone = TRAILS.with(&self.latest, |latest| latest.push(event));
        drop(gone);
    }

    /// The latest events as they are now.
    pub(crate) fn latest(&self) -> Latest {
        TRAILS.with(&self.latest, |latest| latest.clone())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_its_origin_and_the_latest_six_events() {
        let trail = Trail::new(1, Origin::now(Operation::Created, Location::caller()));

        for bytes in 0..100 {
            trail.note(Operation::Resized, bytes, Some(Location::caller()));
        }

        let latest = trail.latest();
        let details: Vec<usize> = latest.events().map(|event| event.detail).collect();
        assert_eq!(details, [94, 95, 96, 97, 98, 99]);
        assert_eq!(trail.origin.event.operation, Operation::Created);
    }
}

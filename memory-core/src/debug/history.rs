//! Bounded histories: the origin, which is always kept, and the latest events.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use crate::report::CREATED;
use crate::stack::StackTrace;
use crate::sync::plain::Mutex;
use crate::sync::process::ObjectLocks;

/// The number of events that a history keeps besides the origin.
pub(crate) const LATEST: usize = 6;

/// An operation on a ledger, a buffer, a reservation or an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// An allocation, a builder or another constructor created it.
    Created,
    /// It was created around foreign memory.
    Wrapped,
    Cloned,
    Sliced,
    Split,
    Retained,
    Transferred,
    Frozen,
    /// An `ArrowBuf` became an `ArrowBufMut`.
    Thawed,
    /// It was resized; the detail is the new size in bytes.
    Resized,
    /// A buffer of the ledger was created or dropped; the detail is the buffer's number.
    BufferAdded,
    BufferDropped,
    /// External bytes were charged or released; the detail says how many.
    ExternalCharged,
    ExternalReleased,
    LimitSet,
    ReservationSet,
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
            Self::ReservationSet => "reservation set",
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

/// One event of a history.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) time: Instant,
    /// The thread; `None` if the thread was ending.
    pub(crate) thread: Option<Thread>,
    pub(crate) operation: Operation,
    /// Bytes, or a number, as the operation defines it; 0 if it has none.
    pub(crate) detail: usize,
    /// The line of code; `None` if a `Drop` did it.
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

/// Returns the current thread. `thread::current()` costs more, and panics in a thread that is ending.
fn current_thread() -> Option<Thread> {
    thread_local!(static CURRENT: Thread = thread::current());
    CURRENT.try_with(Clone::clone).ok()
}

/// The creation of a ledger, a buffer, a reservation or an allocator, with its stack.
pub(crate) struct Origin {
    pub(crate) event: Event,
    pub(crate) stack: StackTrace,
}

impl Origin {
    /// Returns an origin with the current instant, thread and stack.
    pub(crate) fn now(operation: Operation, caller: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self {
            stack: StackTrace::capture(),
            event: Event::now(operation, 0, Some(caller)),
        })
    }
}

/// The latest events, oldest first. They are stored inline and allocate nothing, because events are added
/// under locks.
#[derive(Clone, Default)]
pub(crate) struct Latest([Option<Event>; LATEST]);

impl Latest {
    /// Adds an event and returns the one that it displaces. The caller drops that after the lock: it may
    /// own the name of a thread.
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

/// The history that a reservation or an allocator carries itself.
pub(crate) struct Trail {
    pub(crate) id: u64,
    pub(crate) origin: Arc<Origin>,
    /// Locked only under one of [`TRAILS`], so that no thread holds it at the instant of a fork.
    latest: Mutex<Latest>,
}

/// One of these locks is held while an event is added to a trail, or a trail's events are copied.
static TRAILS: ObjectLocks = ObjectLocks::new();

impl Trail {
    pub(crate) fn new(id: u64, origin: Arc<Origin>) -> Self {
        Self {
            id,
            origin,
            latest: Mutex::default(),
        }
    }

    /// Adds an event.
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

    /// Returns a copy of the latest events.
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

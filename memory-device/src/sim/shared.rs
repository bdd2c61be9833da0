//! When the work of a simulated device is done: its streams and events.

use std::fmt;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use arrow_memory_core::__private::lock_uncounted;
use arrow_memory_core::__private::sync::plain::Mutex;
use arrow_memory_core::ManagerError;

use super::state::{Pending, State, Work};
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::{DeviceEvent, DeviceStream, Event};

/// What a device shares with its streams and events.
///
/// The lock is that of a manager's books, which may grow under it. No foreign code runs under it: events are
/// waited for and dropped while it is free.
pub(super) struct Shared {
    pub(super) device: Device,
    /// How long a copy takes.
    pub(super) latency: Duration,
    /// Whether copies on a stream are done only once they are waited for.
    pub(super) late: bool,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(device: Device, latency: Duration, late: bool) -> Self {
        Self {
            device,
            latency,
            late,
            state: Mutex::new(State::new()),
        }
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut lock_uncounted(&self.state))
    }

    /// Does the work of a stream in order, up to `last`. If it may not block, it stops where it would have to.
    fn run(&self, stream: usize, last: u64, may_block: bool) {
        enum Next {
            Over,
            Wait(Event, u64),
            Sleep(Instant),
            Finish(u64),
        }
        loop {
            let next = self.with(|state| match state.first(stream) {
                Some(first) if first.id <= last => match &first.work {
                    Work::Wait(event) => Next::Wait(event.clone(), first.id),
                    _ if first.due > Instant::now() => Next::Sleep(first.due),
                    _ => Next::Finish(first.id),
                },
                _ => Next::Over,
            });
            let (id, in_vain) = match next {
                Next::Over => return,
                Next::Sleep(_) if !may_block => return,
                Next::Sleep(due) => {
                    sleep_until(due);
                    continue;
                }
                Next::Wait(event, _) if !may_block && !event.is_done() => return,
                Next::Wait(event, id) => {
                    // What comes after work that failed fails, too. So does what comes after an event that panics.
                    let ended = event.outcome();
                    (id, !matches!(ended, Some(Ok(()))))
                }
                Next::Finish(id) => (id, false),
            };
            // Another thread may have done it meanwhile. What is done is dropped with the lock free.
            let done: Option<Pending> = self.with(|state| {
                let same = state.first(stream).is_some_and(|first| first.id == id);
                same.then(|| state.finish_first(stream, in_vain)).flatten()
            });
            drop(done);
        }
    }

    /// Does all work that was begun so far.
    pub(super) fn run_all(&self) {
        self.run_streams(true);
    }

    /// Does the work whose time has come, unless it is to be late.
    pub(super) fn run_due(&self) {
        if !self.late {
            self.run_streams(false);
        }
    }

    fn run_streams(&self, may_block: bool) {
        for stream in self.with(|state| state.streams()) {
            self.run(stream, u64::MAX, may_block);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)
    }
}

/// Blocks the thread until that instant.
pub(super) fn sleep_until(due: Instant) {
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let mut guard = lock_uncounted(&lock);
    while let Some(left) = due
        .checked_duration_since(Instant::now())
        .filter(|d| !d.is_zero())
    {
        guard = match never.wait_timeout(guard, left) {
            Ok((guard, _)) => guard,
            Err(_) => return,
        };
    }
}

/// The place of a stream in the device's books, which it has until no handle and no event of it is left.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.with(|state| state.abandon(self.number));
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.shared.device, self.number)
    }
}

/// A stream of a simulated device.
#[derive(Debug)]
pub(super) struct SimStream(pub(super) Arc<Place>);

impl SimStream {
    /// A new stream of the device.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::new(Place {
            shared: Arc::clone(shared),
            number: shared.with(State::add_stream),
        }))
    }

    /// The event of work that is put at the end of this stream.
    pub(super) fn push(&self, work: Work, due: Instant, fails: bool) -> Event {
        let id = self.0.shared.with(|state| {
            work.begin();
            state.push(self.0.number, work, due, fails)
        });
        Event::new(SimEvent {
            stream: Arc::clone(&self.0),
            id,
        })
    }
}

impl DeviceStream for SimStream {
    fn device(&self) -> Device {
        self.0.shared.device
    }

    fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        self.push(Work::Wait(event.clone()), Instant::now(), false);
        Ok(())
    }

    fn record(&self) -> Result<Event, DeviceError> {
        Ok(self.push(Work::Mark, Instant::now(), false))
    }
}

/// When work of a simulated device is done.
pub(super) struct SimEvent {
    pub(super) stream: Arc<Place>,
    pub(super) id: u64,
}

impl DeviceEvent for SimEvent {
    fn is_done(&self) -> bool {
        let Place { shared, number } = &*self.stream;
        if !shared.late {
            shared.run(*number, self.id, false);
        }
        shared.with(|state| state.is_done(*number, self.id))
    }

    fn wait(&self) -> Result<(), DeviceError> {
        let Place { shared, number } = &*self.stream;
        shared.run(*number, self.id, true);
        if shared.with(|state| state.has_failed(*number, self.id)) {
            let source = ManagerError::new("injected failure");
            return Err(DeviceError::failed(shared.device, "a copy", source));
        }
        Ok(())
    }
}

impl fmt::Debug for SimEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.stream, self.id)
    }
}

//! Turns the records of debug mode into histories as plain data.

use std::time::Instant;

use super::history::{Event, Latest, Origin, Trail};
use crate::report::{History, HistoryEvent};

impl History {
    pub(super) fn new(id: u64, origin: &Origin, latest: &Latest) -> Self {
        let start = origin.event.time;
        Self {
            id,
            age: Instant::now().saturating_duration_since(start),
            created: HistoryEvent::new(&origin.event, start),
            stack: origin.stack,
            events: latest
                .events()
                .map(|event| HistoryEvent::new(event, start))
                .collect(),
        }
    }

    /// Returns the history of an allocator or a reservation, which has a trail of its own.
    pub(crate) fn of(trail: &Trail) -> Self {
        Self::new(trail.id, &trail.origin, &trail.latest())
    }
}

impl HistoryEvent {
    fn new(event: &Event, start: Instant) -> Self {
        let thread = event.thread.as_ref().map(|thread| match thread.name() {
            Some(name) => name.to_owned(),
            None => format!("{:?}", thread.id()),
        });
        Self {
            after: event.time.saturating_duration_since(start),
            thread: thread.unwrap_or_else(|| "(ending)".to_owned()),
            operation: event.operation.name(),
            detail: event.detail,
            caller: event.caller,
        }
    }
}

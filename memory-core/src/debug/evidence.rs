//! From what debug mode keeps to histories as plain data.

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

    /// The history of what carries its own trail.
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

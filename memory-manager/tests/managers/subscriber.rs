//! A `tracing` subscriber that records events as lines of text.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Records events. Clones share the lines.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// The events that `work` emitted, one per line: level, message, and the other fields in their order.
    pub(crate) fn record(work: impl FnOnce()) -> Vec<String> {
        let recorder = Self::default();
        tracing::subscriber::with_default(recorder.clone(), work);
        let lines = recorder.0.lock().expect("no panic");
        lines.clone()
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level();
        let line = format!("{level} {}{}", line.message, line.fields);
        if line.contains("ARROW_DEFAULT_MEMORY_POOL") {
            // A subscriber may use the backend that is being selected.
            let root = arrow_memory_core::RootAllocator::unlimited();
            drop(root.buffer(64).expect("there is a backend"));
        }
        self.0.lock().expect("no panic").push(line);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("strings take all");
    }
}

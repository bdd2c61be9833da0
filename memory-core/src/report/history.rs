//! The records of debug mode as plain data: histories, and outstanding buffers.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::stack::{Site, StackTrace};

/// The operation that creates most things, which a report does not name.
pub(crate) const CREATED: &str = "created";

/// The history of one thing: its creation, and the latest six events since.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "HistoricalLog")]
pub struct History {
    /// Its ID in the tree. Ledgers, buffers and reservations are numbered in order of creation, from 1.
    /// For an allocator this is its [`AllocatorId`](crate::AllocatorId).
    pub id: u64,
    /// The time from its creation until this history was read.
    pub age: Duration,
    /// Its creation.
    pub created: HistoryEvent,
    /// The stack that created it.
    pub stack: StackTrace,
    /// The latest events, oldest first.
    pub events: Vec<HistoryEvent>,
}

/// One event of a [`History`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEvent {
    /// The time from the creation until this event.
    pub after: Duration,
    /// The thread's name, or its number if it has none.
    pub thread: String,
    /// The operation, such as `cloned`.
    pub operation: &'static str,
    /// A number of bytes, or the ID of a buffer, depending on the operation; 0 if it has none.
    pub detail: usize,
    /// The line of code that did it; `None` for the operation of a `Drop`.
    pub caller: Option<&'static Location<'static>>,
}

/// A buffer that was outstanding when the report was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutstandingBuffer {
    /// The address of its first byte.
    pub address: usize,
    /// Its length in bytes; of a writable buffer, the capacity.
    pub length: usize,
    /// Whether it is an `ArrowBufMut`.
    pub writable: bool,
    /// Its creation, and the latest events since.
    pub history: History,
}

impl History {
    /// Returns the text that `write` writes, with the events.
    pub(crate) fn to_text(&self, indent: &str) -> String {
        struct Text<'a>(&'a History, &'a str);
        impl fmt::Display for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, self.1, true)
            }
        }
        Text(self, indent).to_string()
    }

    /// Writes the creation with its callers; if `events` is set, also the events since.
    pub(crate) fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        indent: &str,
        events: bool,
    ) -> fmt::Result {
        let site = Site::of(&self.stack, self.created.caller);
        let Self { created, .. } = self;
        write!(f, "\n{indent}created at {}", site.first)?;
        if created.operation != CREATED {
            write!(f, " ({})", created.operation)?;
        }
        if events {
            write!(f, " on thread `{}`", created.thread)?;
        }
        for caller in &site.callers {
            write!(f, "\n{indent}  called from {caller}")?;
        }
        for event in self.events.iter().filter(|_| events) {
            write!(f, "\n{indent}{event}")?;
        }
        Ok(())
    }
}

impl fmt::Display for HistoryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            after,
            thread,
            operation,
            detail,
            caller,
        } = self;
        write!(f, "after {}: {operation}", Milliseconds(*after))?;
        if *detail > 0 {
            write!(f, " ({detail})")?;
        }
        match caller {
            Some(caller) => write!(f, " at {}:{}", caller.file(), caller.line())?,
            None => f.write_str(" by a drop")?,
        }
        write!(f, " on thread `{thread}`")
    }
}

impl fmt::Display for OutstandingBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address, length, ..
        } = self;
        let (name, measure) = if self.writable {
            ("ArrowBufMut", "capacity")
        } else {
            ("ArrowBuf", "length")
        };
        let id = self.history.id;
        write!(
            f,
            "{name}[{id}], address: {address:#x}, {measure}: {length}"
        )
    }
}

/// Prints a duration in milliseconds, with three decimal places.
pub(crate) struct Milliseconds(pub(crate) Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

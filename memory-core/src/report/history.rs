//! What debug mode knows, as plain data: histories, and the buffers that are outstanding.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::stack::{Site, StackTrace};

/// The operation of most creations, which a report does not name.
pub(crate) const CREATED: &str = "created";

/// How something came to be and what happened to it since: its creation, and the latest six
/// events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "HistoricalLog")]
pub struct History {
    /// Its number in the tree: ledgers, buffers, reservations and allocators are numbered in order
    /// of creation, from 1.
    pub id: u64,
    /// How long it had existed when this was made.
    pub age: Duration,
    /// How it came to be.
    pub created: HistoryEvent,
    /// Where.
    pub stack: StackTrace,
    /// The latest events, oldest first.
    pub events: Vec<HistoryEvent>,
}

/// One event of a [`History`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEvent {
    /// When, counted from the creation.
    pub after: Duration,
    /// The thread's name, or its number if it has none.
    pub thread: String,
    /// What happened.
    pub operation: &'static str,
    /// What the operation is about: bytes, or the number of a buffer; 0 where there is nothing to
    /// say.
    pub detail: usize,
    /// The line that did it; `None` for what a `Drop` did.
    pub caller: Option<&'static Location<'static>>,
}

/// A buffer that was outstanding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutstandingBuffer {
    /// Its first byte.
    pub address: usize,
    /// Its length in bytes; of a writable one, the capacity.
    pub length: usize,
    /// Whether it is an `ArrowBufMut`.
    pub writable: bool,
    /// Where it comes from.
    pub history: History,
}

impl History {
    /// What `write` writes, with the events.
    pub(crate) fn to_text(&self, indent: &str) -> String {
        struct Text<'a>(&'a History, &'a str);
        impl fmt::Display for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, self.1, true)
            }
        }
        Text(self, indent).to_string()
    }

    /// Writes where it was created, and the callers; with `events`, also what happened since.
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

/// A duration in milliseconds, with three places.
pub(crate) struct Milliseconds(pub(crate) Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

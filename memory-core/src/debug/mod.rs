//! Debug mode: which code created the things that are alive, and what happened to them since.
//!
//! A tree in debug mode has a [`Recorder`], which knows every ledger that has buffers, and each of these
//! buffers; reservations and allocators carry their [`Trail`] themselves. Each has a bounded history: its
//! [`Origin`] with a stack, which is always kept, and the latest [`LATEST`](history::LATEST) events. An
//! entry is removed when the thing that it describes is dropped, so the memory of debug mode is bounded
//! by what is alive, and does not grow with what was allocated before.
//!
//! # Telling a buffer from its clones
//!
//! An `ArrowBuf` is three words, and those of two clones are equal, so they cannot say which of two
//! clones was dropped, and a report would name the wrong line. In debug mode the third word, which
//! otherwise points to the ledger's slot, points to a small *view* record, which in turn points to the
//! slot (see `ledger::view`). The tag bit that tells the two kinds apart shares the test for empty
//! buffers, so it costs nothing while debug mode is off.
//!
//! # Races
//!
//! A buffer is registered after it gets its reference to the ledger, and removed before it drops that,
//! under one lock for both maps. So a ledger is listed here only while it has references, and its slot
//! cannot be recycled while it is listed. If another thread revives a ledger while its last buffer is
//! dropped, the ledger is entered anew, with the revival as its creation.

mod capture;
mod evidence;
mod history;
mod recorder;
mod walk;

pub(crate) use history::{Operation, Origin, Trail};
pub(crate) use recorder::{Recorder, Seen};

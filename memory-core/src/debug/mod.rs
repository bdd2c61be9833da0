//! Debug mode: who made what is still alive, and what happened to it since.
//!
//! A tree in debug mode has a [`Recorder`]. It knows every ledger that buffers hold, and every such
//! buffer; reservations and allocators carry their [`Trail`] themselves. Each has a bounded
//! history: its [`Origin`], with a stack, is always kept, and of what came later the latest
//! [`LATEST`](history::LATEST) events. An entry goes when what it describes goes, so the memory of
//! debug mode is bounded by what is alive, however much was allocated before.
//!
//! # How a buffer is told from its clones
//!
//! An `ArrowBuf` is three words, and two clones have the same three, so nothing in them could say
//! which of two clones was dropped, and a report would name the wrong line. In debug mode the
//! third word, which otherwise leads to the ledger's slot, leads to a small *view* record instead
//! that in turn leads to the slot (see `ledger::view`). The tag bit that tells the two apart
//! shares the test that recognises empty buffers, so this costs nothing where debug mode is off.
//!
//! # Races
//!
//! A buffer is registered after it holds its ledger and taken out before it lets go of it, under
//! one lock for both maps. So a ledger is listed here only while it is held, and its slot cannot
//! be recycled while it is listed. A ledger that another thread revives at the instant when its
//! last buffer goes is entered anew, with the revival as its creation.

mod capture;
mod evidence;
mod history;
mod recorder;
mod walk;

pub(crate) use history::{Operation, Origin, Trail};
pub(crate) use recorder::{Recorder, Seen};

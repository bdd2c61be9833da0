//! Waiting for memory: requests that do not fit, but may once others give memory back.
//!
//! # The protocol
//!
//! All of it happens under the tree's mutex *M*, except that a waiter is woken after M was released. A request
//! that does not fit is *queued* at the level that refused it, in the section that refused it. Whoever makes room
//! serves: at the end of each section under M, all waiters that fit are granted. A grant is a charge, made on
//! the waiter's behalf, so nobody can take the bytes before the waiter runs.
//!
//! * **W1** If a level has waiters and one of them could fit if all words below it were full, then the level is
//!   tight at the end of the section (`accounting`, I2), and no soft word is open below it, nor any word of a
//!   node that has waiters at or below it. So every release below it that could let a waiter fit takes M. As
//!   long as none could fit, words below stay open, and the fast path is as fast as ever ([`measure`]).
//! * **W2** A waiter is queued in the section in which it did not fit at a tight level.
//! * **W3** At the end of every section no waiter fits, except for one that room is withheld from, for an older
//!   waiter ([`withheld`]).
//! * **W4** A granted waiter's bytes are charged before it is listed to be woken.
//! * **W5** A wait ends once: with a verdict, or given up by its owner, who then gives back what was granted.
//! * **W6** A waiter keeps its node: its owner has a handle.
//! * **W7** No waker is called, cloned or dropped under M.
//! * **W8** Room that is withheld is not charged. An older waiter does not see what is withheld for a younger
//!   one, so the oldest one waits for holders only.
//!
//! *No wake-up is lost.* From the look that refused a request to its place in the queue M is not released (W2).
//! From then on a release that could matter is under M (W1), and each section ends served (W3).
//!
//! *Nobody starves.* Requests that do not wait may pass a waiter, up to as many bytes as it asks for or a
//! sixteenth of its level's bound; then it becomes a *barrier*, and the room at its level is withheld from them
//! and from younger waiters. An admission holds back younger admissions only: what runs already is not stopped
//! for what has not begun.
//!
//! # Sections
//!
//! `Locked::drop` serves: no section can leave that out. It runs for each release under M, so it looks at a
//! level only if its numbers say that a waiter may fit: `least` is what the level's next waiters need. Waiters
//! are then woken, 32 at a time, with M free ([`super::node`]).

mod level;
mod list;
mod measure;
mod memory;
mod owner;
mod serve;
mod spillers;
mod stuck;
mod waiter;
mod wakes;
mod withheld;

pub(in crate::accounting) use level::NONE;
pub(in crate::accounting) use list::{BATCH, Queue};
pub(crate) use owner::Queued;
pub(crate) use spillers::Spiller;
pub(crate) use waiter::{Age, Ask, Turn, Verdict, Wake};

//! For tests of backends, and of code that uses them (feature `testing`).
//!
//! * [`conformance_suite!`](crate::conformance_suite) checks that a manager keeps the contract of
//!   [`AllocationManager`](crate::AllocationManager), one test per promise.
//! * [`TrackingManager`] finds leaks, double frees and wrong layouts; [`FailingManager`] and
//!   [`PanickingManager`] fail on demand, to be swept over every call that a piece of code makes;
//!   [`CountingManager`] tells which calls were made. [`StdManager`] is a plain one below them.
//! * [`Block`] is a manager's block as safe code.
//! * [`locks_held`] says how many of this crate's locks a thread holds: none, where users' code runs.

mod block;
pub mod conformance;
mod faults;
mod manager;
mod tracking;

pub use block::Block;
pub use faults::{FailingManager, PanickingManager};
pub use manager::{CountingManager, ManagerCalls, StdManager};
pub use tracking::TrackingManager;

/// How many of this crate's locks the calling thread holds: those of the process, and of trees.
///
/// Neither foreign code nor the global allocator is ever called while it is above zero. May be called
/// by the global allocator.
pub fn locks_held() -> usize {
    crate::sync::plain::locks_held()
}

//! For tests of backends, and of code that uses allocators (feature `testing`).
//!
//! * [`conformance_suite!`](crate::conformance_suite) checks that a manager keeps the contract of
//!   [`AllocationManager`](crate::AllocationManager), one test per promise.
//! * [`TrackingManager`] finds leaks, double frees and wrong layouts; [`FailingManager`] and
//!   [`PanickingManager`] fail on demand, to be swept over every call that a piece of code makes;
//!   [`CountingManager`] tells which calls were made. [`StdManager`] is a plain one below them.
//! * [`RecordingListener`] writes down what an allocator tells its listener.
//! * [`Block`] is a manager's block as safe code.

mod block;
pub mod conformance;
mod faults;
mod listener;
mod manager;
mod tracking;

pub use block::Block;
pub use faults::{FailingManager, PanickingManager};
pub use listener::{ListenerEvent, RecordingListener};
pub use manager::{CountingManager, ManagerCalls, StdManager};
pub use tracking::TrackingManager;

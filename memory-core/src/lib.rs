//! core
pub mod backend;
mod error;
mod listener;
mod manager;
mod outcome;
mod report;
mod rounding;
mod size;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub use error::*;
pub use listener::{AllocationListener, Veto};
pub use manager::{AllocationManager, ManagerError, ManagerStats};
pub use outcome::*;
pub use report::*;
pub use rounding::*;
pub use size::{ALIGNMENT, MAX_ALIGNMENT};

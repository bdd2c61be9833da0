//! core
pub mod backend;
mod error;
mod guard;
mod listener;
mod manager;
mod outcome;
mod report;
mod rounding;
mod size;
mod sync;
mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wrappers;
pub use error::*;
pub use guard::{DEBUG_POOL_VARIABLE, GuardAction, GuardedManager, UnknownGuardAction};
pub use listener::{AllocationListener, Veto};
pub use manager::{AllocationManager, ManagerError, ManagerStats};
pub use outcome::*;
pub use report::*;
pub use rounding::*;
pub use size::{ALIGNMENT, MAX_ALIGNMENT};
pub use tally::Tally;
pub use wrappers::{CacheLimits, CachingManager, CappedManager, LoggingManager, ProxyManager};

/// What the macros of this crate expand to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    #[cfg(all(
        not(miri),
        any(
            target_os = "linux",
            target_os = "macos",
            target_os = "windows",
            target_os = "android",
            target_os = "ios",
            target_os = "freebsd",
            target_os = "illumos"
        )
    ))]
    pub use crate::backend::table::{LINKED, linkme};
}

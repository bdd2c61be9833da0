#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
#[doc(hidden)]
pub mod environment;
mod error;
#[doc(hidden)]
pub mod events;
mod forward;
mod guard;
mod manager;
#[doc(hidden)]
pub mod size;
#[doc(hidden)]
pub mod sync;
mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod thread;
mod wrappers;

pub use error::BackendError;
pub use guard::{DEBUG_POOL_VARIABLE, GuardAction, GuardedManager, UnknownGuardAction};
pub use manager::{AllocationManager, ManagerError, ManagerStats};
pub use size::{ALIGNMENT, MAX_ALIGNMENT};
pub use tally::Tally;
pub use thread::thread_number;
#[cfg(feature = "allocator-api2")]
pub use wrappers::AllocatorManager;
pub use wrappers::{
    BlockCache, CacheLimits, CachingManager, CappedManager, GlobalAllocManager, LoggingManager,
    ProxyManager,
};

/// What the macros of this crate expand to, and what the other crates of this workspace share with it.
/// Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::__forward_to_inner as forward_to_inner;
    pub use crate::error::{OneLine, write_sources};
    pub use crate::sync::plain::{lock_uncounted, make_room, push};
    pub use crate::sync::process::{HandedOn, ListedGuard, Order, ProcessGuard, ProcessLock};
    pub use crate::sync::table::{Entry, Room, Table};
    pub use crate::text::{Bytes, Escaped, Limit, Size};
    pub use crate::{environment, events, size, sync, text, thread};

    // Nothing, where there is no link-time table.
    #[allow(
        unused_imports,
        unreachable_pub,
        reason = "nothing is public in it there"
    )]
    pub use crate::backend::table::*;
    pub use crate::thread::{AtEnd, at_end};
}

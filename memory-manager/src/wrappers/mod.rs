//! Managers around any other manager. (`GuardedManager` is in `guard`.)

mod caching;
mod capped;
#[cfg(feature = "allocator-api2")]
mod from_allocator;
mod global;
mod logging;
mod proxy;

pub use caching::{BlockCache, CacheLimits, CachingManager};
pub use capped::CappedManager;
#[cfg(feature = "allocator-api2")]
pub use from_allocator::AllocatorManager;
pub use global::GlobalAllocManager;
pub use logging::LoggingManager;
pub use proxy::ProxyManager;

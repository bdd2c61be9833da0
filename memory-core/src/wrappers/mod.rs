//! Managers around any other manager. (`GuardedManager` is in `guard`.)

mod caching;
mod capped;
mod logging;
mod proxy;

pub use caching::{BlockCache, CacheLimits, CachingManager};
pub use capped::CappedManager;
pub use logging::LoggingManager;
pub use proxy::ProxyManager;

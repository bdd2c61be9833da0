#![doc = include_str!("../README.md")]

use std::sync::Arc;

use arrow_memory_manager::backend::BackendRegistration;
use arrow_memory_manager::{AllocationManager, ManagerError};

mod arenas;
mod builder;
mod caches;
mod error;
mod kept;
mod mallctl;
mod manager;

pub use builder::JemallocBuilder;
pub use error::JemallocError;
pub use manager::JemallocManager;

/// The registration of this backend, which is made at link time.
///
/// In a static library the linker may drop it, since nothing refers to it. There the program registers it by hand:
///
/// ```
/// arrow_memory_manager::backend::register(&arrow_memory_jemalloc::REGISTRATION);
/// ```
pub static REGISTRATION: BackendRegistration = BackendRegistration {
    name: manager::NAME,
    preference: 30,
    manager: start,
};

arrow_memory_manager::register_backend!(REGISTRATION);

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(JemallocManager::new()))
}

#![doc = include_str!("../README.md")]

use std::sync::Arc;

use arrow_memory_core::backend::BackendRegistration;
use arrow_memory_core::{AllocationManager, ManagerError};

mod arenas;
mod caches;
mod error;
mod mallctl;
mod manager;

pub use error::JemallocError;
pub use manager::{JemallocBuilder, JemallocManager};

arrow_memory_core::register_backend!(BackendRegistration {
    name: manager::NAME,
    preference: 30,
    manager: start,
});

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(JemallocManager::new()))
}

#![doc = include_str!("../README.md")]

use std::sync::Arc;

use arrow_memory_core::backend::BackendRegistration;
use arrow_memory_core::{AllocationManager, ManagerError};

mod heap;
mod manager;
mod options;

pub use manager::MimallocManager;
pub use options::MimallocOption;

arrow_memory_core::register_backend!(BackendRegistration {
    name: manager::NAME,
    preference: 20,
    manager: start,
});

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(MimallocManager::new()))
}

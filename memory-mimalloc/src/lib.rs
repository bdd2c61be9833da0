#![doc = include_str!("../README.md")]

use std::sync::Arc;

use arrow_memory_manager::backend::BackendRegistration;
use arrow_memory_manager::{AllocationManager, ManagerError};

mod heap;
mod manager;
mod options;

pub use manager::MimallocManager;
pub use options::MimallocOption;

/// The registration of this backend, which is made at link time.
///
/// In a static library the linker may drop it, since nothing refers to it. There the program registers it by hand:
///
/// ```
/// arrow_memory_manager::backend::register(&arrow_memory_mimalloc::REGISTRATION);
/// ```
pub static REGISTRATION: BackendRegistration = BackendRegistration {
    name: manager::NAME,
    preference: 20,
    manager: start,
};

arrow_memory_manager::register_backend!(REGISTRATION);

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(MimallocManager::new()))
}

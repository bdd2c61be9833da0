#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

use std::sync::Arc;

use arrow_memory_manager::backend::BackendRegistration;
use arrow_memory_manager::{AllocationManager, ManagerError};

mod heap;
mod manager;
mod options;

pub use manager::MimallocManager;
pub use options::MimallocOption;

/// mimalloc as a program's global allocator: the type of the crate `mimalloc`, so that the program and this backend
/// link one library in one version. They use heaps of their own.
///
/// ```
/// use arrow_memory_mimalloc::MiMalloc;
///
/// #[global_allocator]
/// static GLOBAL: MiMalloc = MiMalloc;
/// # fn main() { assert_eq!(vec![1; 1000].len(), 1000); }
/// ```
#[cfg(feature = "global")]
pub use mimalloc::MiMalloc;

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

#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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

/// jemalloc as a program's global allocator: the type of the crate `tikv-jemallocator`, so that the program and this
/// backend link one library in one version. They share thread caches for blocks up to 32 KiB.
///
/// ```
/// use arrow_memory_jemalloc::Jemalloc;
///
/// #[global_allocator]
/// static GLOBAL: Jemalloc = Jemalloc;
/// # fn main() { assert_eq!(vec![1; 1000].len(), 1000); }
/// ```
#[cfg(feature = "global")]
pub use tikv_jemallocator::Jemalloc;

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

#![doc = include_str!("../README.md")]

use std::sync::Arc;

use arrow_memory_core::backend::BackendRegistration;
use arrow_memory_core::{ALIGNMENT, AllocationManager, ManagerError};

mod arena;
mod charged;
mod chunk;
mod error;
mod state;

pub use arena::{Arena, ArenaBuilder};
pub use error::ArenaError;

/// `size` as it is cut from a chunk: a multiple of 64, at least 64. No layout's size overflows.
#[inline]
fn padded(size: usize) -> usize {
    (size.max(1) + (ALIGNMENT - 1)) & !(ALIGNMENT - 1)
}

/// The registration of this backend, which is made at link time.
///
/// In a static library the linker may drop it, since nothing refers to it. There the program registers it by hand:
///
/// ```
/// arrow_memory_core::backend::register(&arrow_memory_arena::REGISTRATION);
/// ```
pub static REGISTRATION: BackendRegistration = BackendRegistration {
    name: arena::NAME,
    preference: 0, // only by name
    manager: start,
};

arrow_memory_core::register_backend!(REGISTRATION);

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    match Arena::builder().build() {
        Ok(arena) => Ok(Arc::new(arena)),
        Err(error) => Err(ManagerError::new("the arena backend cannot start").with_source(error)),
    }
}

#![doc = include_str!("../README.md")]

pub use arrow_memory_core::*;

#[cfg(feature = "arena")]
pub use arrow_memory_arena::{Arena, ArenaBuilder, ArenaError};
#[cfg(feature = "jemalloc")]
pub use arrow_memory_jemalloc::{JemallocBuilder, JemallocError, JemallocManager};
#[cfg(feature = "mimalloc")]
pub use arrow_memory_mimalloc::{MimallocManager, MimallocOption};
#[cfg(feature = "system")]
pub use arrow_memory_system::SystemManager;

#[cfg(feature = "arrow")]
pub use arrow_memory_arrow as arrow;

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

#[cfg(any(feature = "arrow", feature = "arrow-59"))]
pub use arrow_memory_arrow as arrow;

#[cfg(feature = "profile")]
pub use arrow_memory_profile as profile;

/// The guides of the repository's folder `docs/`.
pub mod guides {
    #[doc = include_str!("../docs/maps-and-vectors.md")]
    pub mod maps_and_vectors {}

    #[doc = include_str!("../docs/events.md")]
    pub mod events {}
}

// The README's links lead to files, which docs.rs does not have. Of two definitions of a link the first counts:
// these come before the README's own, and lead to this documentation or to the repository.
//! [attribution]: guides::attribution
//! [coming-from]: guides::coming_from
//! [leaks]: guides::leaks
//! [profiling]: guides::profiling
//! [numbers]: guides::numbers
//! [events]: guides::events
//! [maps and vectors]: guides::maps_and_vectors
//! [short of memory]: guides::short_of_memory
//! [server]: https://github.com/arrow-memory/arrow-memory/blob/main/examples/server.rs
//! [why]: guides::why_it_is_fast
//! [benches]: https://github.com/arrow-memory/arrow-memory/blob/main/benches/README.md
//! [depth]: https://raw.githubusercontent.com/arrow-memory/arrow-memory/main/benches/results/depth.svg
//! [query]: https://github.com/arrow-memory/arrow-memory/blob/main/examples/query.rs
//! [own_backend]: https://github.com/arrow-memory/arrow-memory/blob/main/examples/own_backend.rs
//! [tour]: guides::tour
//! [architecture]: https://github.com/arrow-memory/arrow-memory/blob/main/ARCHITECTURE.md
//! [contributing]: https://github.com/arrow-memory/arrow-memory/blob/main/CONTRIBUTING.md
//! [manager]: https://docs.rs/arrow-memory-manager
//! [core]: https://docs.rs/arrow-memory-core
//! [system]: https://docs.rs/arrow-memory-system
//! [jemalloc]: https://docs.rs/arrow-memory-jemalloc
//! [mimalloc]: https://docs.rs/arrow-memory-mimalloc
//! [arena]: https://docs.rs/arrow-memory-arena
//! [arrow]: https://docs.rs/arrow-memory-arrow
//! [cli]: https://github.com/arrow-memory/arrow-memory/tree/main/memory-cli
//! [profile]: https://docs.rs/arrow-memory-profile
//! [device]: https://docs.rs/arrow-memory-device
//! [host]: https://docs.rs/arrow-memory-host
//! [global]: https://docs.rs/arrow-memory-global
//!
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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

#[cfg(feature = "device")]
pub use arrow_memory_device as device;

#[cfg(feature = "global")]
pub use arrow_memory_global as global;

#[cfg(feature = "host")]
pub use arrow_memory_host as host;

#[cfg(feature = "profile")]
pub use arrow_memory_profile as profile;

/// The guides of the repository's folder `docs/`. Their programs are tested.
pub mod guides {
    #[doc = include_str!("../docs/attribution.md")]
    pub mod attribution {}

    #[doc = include_str!("../docs/coming-from.md")]
    pub mod coming_from {}

    #[doc = include_str!("../docs/events.md")]
    pub mod events {}

    #[doc = include_str!("../docs/leaks.md")]
    pub mod leaks {}

    #[doc = include_str!("../docs/maps-and-vectors.md")]
    pub mod maps_and_vectors {}

    #[doc = include_str!("../docs/numbers.md")]
    pub mod numbers {}

    /// [leaks]: self::leaks
    ///
    #[doc = include_str!("../docs/profiling.md")]
    pub mod profiling {}

    /// [events]: self::events
    ///
    #[doc = include_str!("../docs/short-of-memory.md")]
    pub mod short_of_memory {}

    #[doc = include_str!("../docs/tour.md")]
    pub mod tour {}

    /// [benches]: https://github.com/arrow-memory/arrow-memory/blob/main/benches/README.md
    ///
    #[doc = include_str!("../docs/why-it-is-fast.md")]
    pub mod why_it_is_fast {}
}

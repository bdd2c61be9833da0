//! The jemalloc backend.
mod arenas;
mod caches;
mod error;
mod mallctl;
mod manager;

pub use error::JemallocError;
pub use manager::{JemallocBuilder, JemallocManager};

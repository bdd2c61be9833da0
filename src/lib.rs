//! Facade.
pub use arrow_memory_core::*;

//! The mimalloc backend.
mod heap;
mod manager;
mod options;

pub use manager::MimallocManager;
pub use options::MimallocOption;

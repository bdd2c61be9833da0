//! Collections on a tree's memory, and managers on other allocators.

mod global;
#[cfg(feature = "allocator-api2")]
mod manager;
#[cfg(feature = "allocator-api2")]
mod tree;
#[cfg(feature = "allocator-api2")]
mod vec;

pub use global::GlobalAllocManager;
#[cfg(feature = "allocator-api2")]
pub use manager::AllocatorManager;
#[cfg(feature = "allocator-api2")]
pub use tree::TreeAllocator;
#[cfg(feature = "allocator-api2")]
pub use vec::AccountedVec;

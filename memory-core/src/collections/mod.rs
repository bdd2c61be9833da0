//! Collections whose memory is charged to a tree.

#[cfg(feature = "allocator-api2")]
mod tree;
#[cfg(feature = "allocator-api2")]
mod vec;

#[cfg(feature = "allocator-api2")]
pub use tree::TreeAllocator;
#[cfg(feature = "allocator-api2")]
pub use vec::AccountedVec;

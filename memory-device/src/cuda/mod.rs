//! CUDA: the memory of NVIDIA's GPUs, and pinned memory of the host (feature `cuda`).
//!
//! The driver is loaded when the first manager is created, so that a program with this feature builds and runs on machines
//! without CUDA. There, [`CudaManager::new`] returns an error that says so, and
//! [`is_available`] is `false`.
//!
//! ```
//! use arrow_memory_device::DeviceRoot;
//! use arrow_memory_device::cuda::{self, CudaManager};
//!
//! match CudaManager::new(0) {
//!     Ok(manager) => {
//!         let root = DeviceRoot::builder().limit(1 << 30).manager(manager).build()?;
//!         let buffer = root.allocate(1 << 20)?.freeze();
//!         assert_eq!(buffer.device().to_string(), "cuda:0");
//!     }
//!     Err(error) => assert!(!cuda::is_available() && error.to_string().contains("CUDA")),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Kernels
//!
//! This crate launches none. Who does passes [`CudaStream::as_raw`] to the launcher, makes the stream wait for the
//! buffers' [`ready`](crate::DeviceBuf::ready) events before, and records an event after it.
//!
//! # Threads
//!
//! All of this uses the primary context of the device, which it makes current for the duration of each call and not
//! longer: a program that has other contexts keeps them.

mod context;
mod event;
mod manager;
mod pinned;
mod stream;

pub use context::is_available;
pub use event::CudaEvent;
pub use manager::CudaManager;
pub use pinned::PinnedManager;
pub use stream::CudaStream;

/// The guide to devices, whose program is compiled as it stands.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/devices.md")]
mod guide {}

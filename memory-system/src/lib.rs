//! The backend on the platform's allocator, and on pages for large blocks: [`SystemManager`].
//!
//! Depending on this crate and naming it once is enough; it registers itself as `system`:
//!
//! ```
//! use arrow_memory_manager::backend;
//! use arrow_memory_system as _;
//!
//! assert!(backend::supported().contains(&"system"));
//! assert_eq!(backend::manager("system")?.name(), "system");
//! # Ok::<(), arrow_memory_manager::BackendError>(())
//! ```
//!
//! # Where blocks come from
//!
//! | size | Linux | other Unix | Windows |
//! |---|---|---|---|
//! | below 2 MiB | `malloc` | `malloc` | `std::alloc::System` |
//! | from 2 MiB | `mmap`, `mremap` | `malloc` | `std::alloc::System` |
//!
//! Two modules explain their choices: `heap`, how a block gets 64-byte alignment at `malloc`'s price, and
//! `pages`, why large blocks have pages of their own, from 2 MiB on. `cargo bench -p
//! arrow-memory-benches --bench backends` measures this backend beside `posix_memalign`, size by size.
//!
//! # Platforms
//!
//! Linux on x86-64 with glibc is tested. The rest is kept compiling.

mod heap;
mod manager;
mod pages;

pub use manager::{REGISTRATION, SystemManager};

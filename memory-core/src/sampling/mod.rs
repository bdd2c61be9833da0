//! Sampling for production: which code allocated the memory that is held, at almost no cost.
//!
//! [`start`] switches sampling on, at run time, for the allocators whose own names match a pattern. The
//! pattern `*` matches all; the descendants of a match are sampled only if their names match too. From
//! then on one allocation in a mean of N bytes is recorded with its stack until it is released.
//! [`who_holds`] says which allocators are charged for memory now, and which sites allocated the memory
//! that is still held. [`report`] lists the sites, with all that was allocated there. Both return data
//! that prints as text. The crate `arrow-memory-profile` writes a report as a pprof profile, and as
//! folded stacks for a flame graph.
//!
//! ```
//! # use arrow_memory_system as _;
//! use arrow_memory_core::{RootAllocator, sampling};
//!
//! let root = RootAllocator::unlimited();
//! let query = root.child("query-7").build()?;
//! sampling::start("query-*", 4096);
//! let buffers: Vec<_> = (0..100).map(|_| query.buffer(64 << 10)).collect::<Result<_, _>>()?;
//!
//! let holders = sampling::who_holds();
//! let query = &holders.allocators.iter().find(|held| &*held.allocator.name == "query-7").unwrap();
//! assert_eq!(query.charged_bytes, 100 * (64 << 10));
//! assert!(query.sites[0].bytes > 90 * (64 << 10));
//! sampling::stop_all();
//! # drop(buffers);
//! # Ok::<(), arrow_memory_core::AllocError>(())
//! ```
//!
//! # Why the numbers are unbiased
//!
//! Each thread walks through the bytes that it allocates and picks points whose distances are drawn from
//! an exponential distribution of mean N, so that each byte is equally likely to be picked, independently
//! of all bytes before it. An allocation of s bytes is recorded if it contains at least one point: with
//! probability p = 1 − exp(−s/N). It then stands for 1/p allocations and s/p bytes. Large allocations are
//! nearly always recorded and stand for themselves.
//!
//! The distance is measured in units of N, so that a change of the interval takes effect at once and
//! other threads need not be told (the exponential distribution has no memory).
//!
//! # Bounds
//!
//! At most [`MAX_SITES`] stacks and [`MAX_LIVE`] live samples are kept. Stacks beyond that are counted as
//! `(other)`, and samples beyond that as dropped. Growth counts as an allocation of the added bytes.
//! External bytes, reservations, and allocations made before `start` are not sampled. `stop` keeps all
//! records.

mod gap;
mod holders;
mod live;
mod registry;
mod text;

// `who_holds` visits the allocators, which are in a layer above this one.
pub use crate::holders::who_holds;
pub use holders::{Held, HeldSite, Holders};
pub use live::{Estimate, MAX_LIVE, MAX_SITES, SampleReport, SiteReport, report, reset};
pub use registry::{DEFAULT_INTERVAL, patterns, start, stop, stop_all};

pub(crate) use gap::{comes_to_point, due, passes_point};
pub(crate) use live::{forget, moved, record, resized};
pub(crate) use registry::{adopt, adopt_root, roots};

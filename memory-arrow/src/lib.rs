//! arrow-rs arrays in an allocator tree: adopted, built, read, and exchanged, with every byte charged
//! once and none copied.
//!
//! ```text
//!            adopt, claim                    into_buffer
//!  Buffer, ─────────────────▶  ArrowBuf on  ─────────────▶  Buffer that holds the
//!  arrays   ◀─────────────────  a ledger    ◀─────────────  ledger: arrays, batches
//!               detach           of a tree      arrow_buf
//!                                  ▲   ▲
//!         import_array, readers ───┘   └─── builders
//! ```
//!
//! * [`Accounted`] puts existing arrays and batches under an allocator, as a whole or not at all, also out
//!   of a reservation that was made for them, moves them between allocators, measures them and lets them
//!   go. Slices and clones add nothing. **What is not adopted is not charged.**
//! * [`into_buffer`] and [`arrow_buf`] lead from a tree's buffer to arrow's and back to the same one.
//! * [`builder`] builds arrays from an allocator, with errors where arrow-rs aborts.
//! * [`export_array`] and [`import_array`] are the C Data Interface, which is not trusted.
//! * `ipc`, `csv` and `parquet` (features) read files; [`Destination`] says what is charged to whom.
//! * `TreePool` (feature `pool`) is arrow-rs' own `MemoryPool`.
//!
//! ```
//! use arrow_memory_arrow::Accounted;
//! use arrow_memory_arrow::builder::Int64Builder;
//! use arrow_memory_arrow::deps::arrow_array::{Array, Int64Array};
//! use arrow_memory_core::RootAllocator;
//! # use arrow_memory_system as _;
//!
//! let root = RootAllocator::new(1 << 20);
//! let query = root.new_child_allocator("query", 0, 1 << 16)?;
//!
//! let theirs = Int64Array::from(vec![1, 2, 3, 4]).adopt(&query)?;
//! let mut builder = Int64Builder::new(&query);
//! builder.append_slice(&[5, 6])?;
//! let ours = builder.finish();
//! assert_eq!(query.allocated_memory(), 32 + 64);
//!
//! assert!(Int64Array::from(vec![0; 10_000]).adopt(&query).is_err());
//! drop((theirs, ours));
//! assert_eq!(query.allocated_memory(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is counted when
//!
//! Adopted and imported buffers are foreign memory, charged at their capacity from the adoption until
//! the last buffer that came of it goes. **A clone that was made before the adoption is not charged, and
//! keeps the memory when what was adopted has gone.** What a kernel of arrow-rs makes exists before it is
//! adopted: [`adopt_from`](Accounted::adopt_from) takes it into bytes that were reserved before. Builders and readers allocate from the tree, so that the
//! charge comes before the memory. What arrow-rs allocates on its own way (a decoder's scratch, a
//! schema, the array structures) is not counted.
//!
//! What adopted arrays lose is arrow-rs' mutation in place; see [`Accounted`].
//!
//! # Versions
//!
//! Features `arrow-59` and `arrow-60` (default) compile one source against each; modules `arrow_59` and
//! `arrow_60` have the same names, and the crate's root re-exports the newest that is enabled. A library
//! that needs one of them says which by naming the module. The arrow crates themselves are in `deps`.
#![cfg_attr(
    all(feature = "arrow-59", feature = "arrow-60"),
    allow(
        clippy::duplicate_mod,
        reason = "one source, compiled against two versions of arrow"
    )
)]

#[cfg(any(feature = "arrow-59", feature = "arrow-60"))]
mod c_data;
mod error;
#[cfg(any(feature = "arrow-59", feature = "arrow-60"))]
mod guard;
#[cfg(any(test, feature = "arrow-59", feature = "arrow-60"))]
mod registry;
#[cfg(any(test, feature = "arrow-59", feature = "arrow-60"))]
mod sync;

#[cfg(feature = "arrow-59")]
pub mod arrow_59;
#[cfg(feature = "arrow-60")]
pub mod arrow_60;

pub use error::{MemoryError, Refused};

#[cfg(all(feature = "arrow-59", not(feature = "arrow-60")))]
pub use arrow_59::*;
#[cfg(feature = "arrow-60")]
pub use arrow_60::*;

//! The Arrow C Device Data Interface: arrays on devices, to and from other libraries in the process.
//!
//! ```text
//!  DeviceSchema ── to_c / from_c ──► ArrowSchema             the type
//!  DeviceArray  ── export / import ─► ArrowDeviceArray        one array or batch, its device and its event
//!  iterator of arrays ── export_stream / ImportedStream ──► ArrowDeviceArrayStream
//! ```
//!
//! An exported array keeps its buffers charged until the consumer releases it. An imported one is charged as foreign memory,
//! and its producer's release runs once, when the last of its buffers was dropped; at once if it has none. Buffers never leave
//! their device, and no value is read, except for last offsets.
//!
//! # Invariants
//!
//! 1. Every structure is released exactly once: by its Rust value's drop, unless it was moved away, and never after it was
//!    released.
//! 2. An exported structure owns its buffers and its event until the release.
//! 3. No callback of another library, no release among them, is called while a lock of this workspace is held.
//! 4. Of a structure from elsewhere, everything that can be checked is checked before it is relied on. What cannot be checked
//!    is listed in the safety section of [`DeviceArray::import`].
//!
//! arrow-rs has no types for this interface yet. Its own, once they exist, will have the same layout: a pointer to one can be
//! cast to a pointer to the other, and [`ArrowDeviceArray::from_raw`] and [`write_to`](ArrowDeviceArray::write_to) move a
//! structure between them. With the feature `arrow`, arrays of arrow 60 in the memory of the CPU convert both ways
//! (`DeviceArray::from_arrow`, `DeviceArray::to_arrow`).

mod array;
#[cfg(feature = "arrow")]
mod arrow;
mod error;
mod export;
mod format;
mod import;
mod pointers;
mod raw;
mod schema;
mod stream;
mod sync;

#[cfg(test)]
mod tests;

pub use array::{DeviceArray, DeviceArrayBuilder};
pub use error::CDataError;
pub use raw::{ArrowArray, ArrowDeviceArray, ArrowDeviceArrayStream, ArrowSchema};
pub use schema::DeviceSchema;
pub use stream::{ImportedStream, export_stream};

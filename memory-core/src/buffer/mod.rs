//! Buffers: views of bytes on ledgers.

pub(crate) mod allocate;
mod arrow_buf;
mod arrow_buf_mut;
mod builder;
#[cfg(feature = "bytes")]
mod bytes_impls;
mod foreign;
mod hand_over;
mod typed;

pub use arrow_buf::{ArrowBuf, TransferResult};
pub use arrow_buf_mut::ArrowBufMut;
pub use builder::{BooleanBufferBuilder, BufferBuilder, TypedBufferBuilder};
pub use foreign::{ForeignAllocation, ForeignError, ForeignRoom, WeakForeign};

pub use crate::raw::release::{ForeignId, ReleaseFn};

use std::ptr::NonNull;

/// Where the empty buffer lies: 64-byte aligned, not null, never read or written.
#[repr(align(64))]
struct Nowhere;

static NOWHERE: Nowhere = Nowhere;

fn nowhere() -> NonNull<u8> {
    NonNull::from(&NOWHERE).cast()
}

//! Buffers: views of bytes on ledgers.

mod address;
pub(crate) mod allocate;
mod arrow_buf;
mod arrow_buf_mut;
pub(crate) mod block;
mod builder;
#[cfg(feature = "bytes")]
mod bytes_impls;
pub(crate) mod charge;
mod convert;
pub(crate) mod errors;
mod foreign;
pub(crate) mod grow;
mod hand_over;
pub(crate) mod notify;
mod transfer;
mod typed;

pub use arrow_buf::ArrowBuf;
pub use arrow_buf_mut::ArrowBufMut;
pub use builder::{BooleanBufferBuilder, BufferBuilder, TypedBufferBuilder};
pub use foreign::{
    ForeignAllocation, ForeignError, ForeignRoom, WeakForeign, may_move_in_place, move_in_place,
};

pub use transfer::{TransferResult, undo_transfer};

pub use crate::raw::release::{ForeignId, ReleaseFn};

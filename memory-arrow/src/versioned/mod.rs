use super::deps;

mod accounted;
mod buffers;
pub mod builder;
mod destination;
mod error;
mod ffi;
#[allow(dead_code, reason = "for the readers, each behind a feature")]
pub(crate) mod fitted;
mod handing;
mod known;
mod movable;
mod parts;
#[cfg(feature = "pool")]
mod pool;
mod region;
mod regions;
mod shared;
mod transfer;

pub use accounted::Accounted;
pub use buffers::{adopt_buffer, arrow_buf, into_buffer, into_scalar_buffer};
pub use destination::{BatchLimit, Destination};
pub use ffi::{
    FFI_ArrowArray, FFI_ArrowSchema, export_array, export_array_into, export_batch, import_array,
    import_batch, import_trusted,
};
pub use handing::TransferResult;
#[cfg(feature = "pool")]
pub use pool::TreePool;

#[cfg(test)]
#[path = "tests.rs"]
mod all_types_tests;
#[cfg(test)]
mod hand_over_tests;
#[cfg(test)]
mod malformed_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
mod reservation_tests;

//! Addresses: of a byte in a block, and of the empty buffer.
#![expect(unsafe_code, reason = "adds to pointers")]

use std::ptr::NonNull;

/// The address of a block's byte.
///
/// # Safety
///
/// `offset` lies within the block that `ptr` starts, or at its end.
pub(super) unsafe fn at(ptr: NonNull<u8>, offset: usize) -> NonNull<u8> {
    // SAFETY: the caller's promise.
    unsafe { ptr.add(offset) }
}

/// Where the empty buffer lies: 64-byte aligned, not null, never read or written.
#[repr(align(64))]
struct Nowhere;

static NOWHERE: Nowhere = Nowhere;

pub(super) fn nowhere() -> NonNull<u8> {
    NonNull::from(&NOWHERE).cast()
}

//! Moving foreign allocations, all at once and in place.
#![expect(unsafe_code, reason = "the caller controls the buffers")]

use super::{ArrowBuf, WeakForeign};
use crate::allocator::BufferAllocator;
use crate::error::TransferError;
use crate::ledger;

/// Whether it is worth to try [`move_in_place`] for the allocation of `buffer`, once that and the only other buffer of the
/// allocation have become one.
pub fn may_move_in_place(buffer: &ArrowBuf, from: &BufferAllocator, to: &BufferAllocator) -> bool {
    buffer.ledger().may_move_in_place(&from.handle, &to.handle)
}

/// Moves these allocations, each of which has one buffer, from one allocator to another, with their charges: all of them
/// or none. The buffers belong to `to` afterwards. `Some(true)` if no level that the charges reached is over its limit;
/// only a `forced` move passes one. `None` if an allocation does not belong to `from`, or has another buffer or another
/// ledger, or if the tree is in debug mode, somebody waits in it, or `to` is closed: then nothing has changed.
///
/// Takes the tree's lock once.
///
/// # Errors
///
/// [`TransferError::DoesNotFit`], with the sum of the bytes, unless it is forced; [`TransferError::SizeOverflow`].
/// Nothing has changed.
///
/// # Safety
///
/// The caller controls a buffer of each allocation: no other thread uses, clones or drops that buffer before this
/// returns.
pub unsafe fn move_in_place(
    allocations: &[WeakForeign],
    from: &BufferAllocator,
    to: &BufferAllocator,
    forced: bool,
) -> Result<Option<bool>, TransferError> {
    let allocations = allocations.iter().map(|weak| &weak.0);
    // SAFETY: the caller's promise.
    unsafe { ledger::move_in_place(allocations, &from.handle, &to.handle, forced) }
}

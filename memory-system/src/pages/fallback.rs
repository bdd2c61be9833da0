//! No pages on this system: the heap serves everything.
#![expect(unsafe_code, reason = "has the signatures of the other platforms")]

use std::alloc::Layout;
use std::ptr::NonNull;

/// Whether this module serves blocks of this layout: it serves none.
#[inline]
pub(crate) fn serve(_layout: Layout) -> bool {
    false
}

/// Never called.
pub(crate) fn allocate(_layout: Layout) -> Option<NonNull<u8>> {
    None
}

/// Never called.
pub(crate) fn allocate_zeroed(_layout: Layout) -> Option<NonNull<u8>> {
    None
}

/// Never called.
///
/// # Safety
///
/// There is nothing to promise.
pub(crate) unsafe fn deallocate(_ptr: NonNull<u8>, _layout: Layout) {}

/// Never called.
///
/// # Safety
///
/// There is nothing to promise.
pub(crate) unsafe fn reallocate(
    _ptr: NonNull<u8>,
    _old: Layout,
    _new: Layout,
) -> Option<NonNull<u8>> {
    None
}

/// Nothing is kept.
pub(crate) fn release_unused() {}

/// Nothing is kept.
pub(crate) fn cached_bytes() -> usize {
    0
}

//! The heap of other systems, through the standard library.
#![expect(unsafe_code, reason = "calls the platform's allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;

/// A block with unspecified contents.
#[inline]
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: managers are never asked for zero bytes.
    NonNull::new(unsafe { System.alloc(layout) })
}

/// A block that is zero.
pub(crate) fn allocate_zeroed(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: managers are never asked for zero bytes.
    NonNull::new(unsafe { System.alloc_zeroed(layout) })
}

/// Takes a block back.
///
/// # Safety
///
/// `ptr` is a live block of this module with `layout`, and it is not used any more.
#[inline]
pub(crate) unsafe fn deallocate(ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: by the caller's promise.
    unsafe { System.dealloc(ptr.as_ptr(), layout) };
}

/// Changes the size of a block; after `None` it is as it was.
///
/// # Safety
///
/// `ptr` is a live block of this module with `old`; `new` has the same alignment. After success
/// the old pointer is dead.
pub(crate) unsafe fn reallocate(ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
    // SAFETY: by the caller's promise; `new` is a valid layout, and not of zero bytes.
    NonNull::new(unsafe { System.realloc(ptr.as_ptr(), old, new.size()) })
}

/// This system has no such call.
pub(crate) fn release_unused() {}

//! Pointers to C structures, checked as far as they can be.
#![expect(unsafe_code, reason = "reads C structures through raw pointers")]

use std::ptr::NonNull;

use super::error::{At, CDataError};

/// A value at an address that does not change, to which C structures point. Unlike a `Box`, it does not claim that no
/// other pointer is used while it is moved.
pub(super) struct Owned<T>(NonNull<T>);

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box, in `new`, and is dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The value at a pointer; `None` if that is null. Refuses a pointer that is not aligned.
///
/// # Safety
///
/// `pointer`, if not null and aligned, is valid for reads as long as `'a`.
pub(super) unsafe fn checked<'a, T>(
    at: &At<'_>,
    pointer: *const T,
) -> Result<Option<&'a T>, CDataError> {
    if !pointer.is_aligned() {
        return at.error("a pointer to a structure is not aligned");
    }
    // SAFETY: the pointer is aligned, and the caller promises that it is valid or null.
    Ok(unsafe { pointer.as_ref() })
}

/// The `count` items at `pointer`. Refuses counts and pointers that cannot be right.
///
/// # Safety
///
/// `pointer`, if not null, leads to `count` items, if that is not negative.
pub(super) unsafe fn slice<'a, T>(
    at: &At<'_>,
    what: &str,
    pointer: *mut T,
    count: i64,
) -> Result<&'a [T], CDataError> {
    let Ok(len) = usize::try_from(count) else {
        return at.error(format!("{count} {what}"));
    };
    if len == 0 {
        return Ok(&[]);
    }
    if len > MAX_ITEMS {
        return at.error(format!("{count} {what} are too many"));
    }
    if pointer.is_null() {
        return at.error(format!("the pointer to {count} {what} is null"));
    }
    if !pointer.is_aligned() {
        return at.error(format!("the pointer to the {what} is not aligned"));
    }
    // SAFETY: the pointer is not null and is aligned, and the caller promises as many items.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// A number that is greater than that of the children or buffers of any array.
pub(super) const MAX_ITEMS: usize = 1 << 24;

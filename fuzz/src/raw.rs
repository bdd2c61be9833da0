//! The structures of the C Data Interface, to change what another library would have written.
#![expect(unsafe_code, reason = "changes C structures through raw pointers")]

use std::ffi::{CString, c_char, c_void};

use crate::Input;

/// `struct ArrowArray`.
#[repr(C)]
pub struct RawArray {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *mut *const c_void,
    pub children: *mut *mut RawArray,
    pub dictionary: *mut RawArray,
    pub release: Option<unsafe extern "C" fn(*mut RawArray)>,
    pub private_data: *mut c_void,
}

/// The first fields of `struct ArrowSchema`.
#[repr(C)]
pub struct RawSchema {
    pub format: *const c_char,
    pub name: *const c_char,
    pub metadata: *const c_char,
    pub flags: i64,
    pub n_children: i64,
}

/// A format that does not exist, so that no other width is read.
pub fn unknown_format(input: &mut Input<'_>) -> CString {
    let format = format!("{}?", char::from(input.byte() % 128).escape_default());
    CString::new(format).expect("escapes have no zero bytes")
}

/// Changes numbers and pointers of a structure, or of one of its children. Each change is detectable, or refers
/// to bytes that exist.
pub fn change(array: &mut RawArray, input: &mut Input<'_>) {
    let choice = input.byte() % 10;
    if choice >= 7 && array.n_children > 0 && array.n_children < 16 {
        let index = usize::from(input.byte()) % array.n_children as usize;
        if array.children.is_null() {
            return;
        }
        // SAFETY: the children exist as long as their number is the original one; a changed number is outside
        // of the range above, or smaller.
        let child = unsafe { *array.children.add(index) };
        // SAFETY: the child exists for the same reason, and no other reference to it is in use.
        if let Some(child) = unsafe { child.as_mut() } {
            change(child, input);
        }
        return;
    }
    match choice {
        0 => array.length = input.number().min(-1),
        // The first rows, or fewer than there are.
        1 => array.length = i64::from(input.byte()).min(array.length),
        2 if array.offset == 0 && array.length > 0 => {
            array.offset = i64::from(input.byte()) % array.length;
            array.length -= array.offset;
        }
        2 => array.offset = -1 - i64::from(input.byte()),
        3 => array.null_count = input.number(),
        4 => array.n_buffers = wrong(array.n_buffers, input),
        5 => array.n_children = wrong(array.n_children, input),
        _ if array.n_buffers > 0 && array.n_buffers < 8 && !array.buffers.is_null() => {
            let index = usize::from(input.byte()) % array.n_buffers as usize;
            // SAFETY: the buffers exist as long as their number is the original one, or smaller.
            unsafe { *array.buffers.add(index) = std::ptr::null() };
        }
        _ => array.buffers = std::ptr::null_mut(),
    }
}

/// A number other than `right`: negative, smaller by one, or absurdly large. None of them makes the importer
/// read pointers that do not exist.
fn wrong(right: i64, input: &mut Input<'_>) -> i64 {
    match input.byte() % 4 {
        0 => -1,
        1 => i64::MAX,
        2 => right.saturating_sub(1),
        _ => i64::MIN,
    }
}

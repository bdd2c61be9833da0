//! A library that imports arrays over the C Data Interface, keeps them under a limit, and exports them again:
//! the Rust side of `memory-arrow/tests/pyarrow_round_trip.py`. See `.ci/pyarrow.sh`.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CString, c_char};
use std::ptr::null_mut;

use arrow_memory_arrow::deps::arrow_array::ArrayRef;
use arrow_memory_arrow::{
    Accounted, FFI_ArrowArray, FFI_ArrowSchema, MemoryError, export_array_into, import_array,
};
use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

/// A tree of allocators.
pub struct Tree(RootAllocator);

/// An array that a tree is charged for.
pub struct Held(ArrayRef);

/// A tree with a limit in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn tree_new(limit: usize) -> *mut Tree {
    Box::into_raw(Box::new(Tree(RootAllocator::new(limit))))
}

/// Returns the allocated bytes of a tree.
///
/// # Safety
///
/// `tree` is from [`tree_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tree_allocated(tree: *const Tree) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*tree }.0.allocated_memory()
}

/// Sets the limit.
///
/// # Safety
///
/// `tree` is from [`tree_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tree_set_limit(tree: *const Tree, limit: usize) {
    // SAFETY: the caller's promise.
    unsafe { &*tree }.0.set_limit(limit);
}

/// Closes and frees a tree. Returns whether nothing was outstanding.
///
/// # Safety
///
/// `tree` is from [`tree_new`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tree_close(tree: *mut Tree) -> bool {
    // SAFETY: the caller's promise.
    let tree = unsafe { Box::from_raw(tree) };
    tree.0.verify().is_ok() && tree.0.close().is_ok()
}

/// Imports an array, moving both structures. Returns null if it is refused, and sets `message`, which
/// [`free_message`] frees.
///
/// # Safety
///
/// The same as for `import_array`; `tree` is from [`tree_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn import_from_c(
    tree: *const Tree,
    array: *mut FFI_ArrowArray,
    schema: *mut FFI_ArrowSchema,
    message: *mut *mut c_char,
) -> *mut Held {
    // SAFETY: the caller's promise.
    let array = unsafe { FFI_ArrowArray::from_raw(array) };
    // SAFETY: the caller's promise.
    let schema = unsafe { FFI_ArrowSchema::from_raw(schema) };
    // SAFETY: the caller's promise.
    let tree = unsafe { &*tree };
    // SAFETY: the caller's promise.
    let imported = unsafe { import_array(array, &schema, &tree.0) };
    match imported {
        Ok(array) => Box::into_raw(Box::new(Held(array))),
        Err(error) => {
            // SAFETY: the caller's promise.
            unsafe { message.write(text(&error)) };
            null_mut()
        }
    }
}

/// Exports rows of a held array.
///
/// # Safety
///
/// `held` is from [`import_from_c`]; the other pointers fulfil the contract of `export_array_into`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn export_to_c(
    held: *const Held,
    offset: usize,
    length: usize,
    array: *mut FFI_ArrowArray,
    schema: *mut FFI_ArrowSchema,
) -> bool {
    // SAFETY: the caller's promise.
    let sliced = unsafe { &*held }.0.slice(offset, length);
    // SAFETY: the caller's promise.
    unsafe { export_array_into(&sliced, array, schema) }.is_ok()
}

/// Returns the bytes that trees are charged for an array.
///
/// # Safety
///
/// `held` is from [`import_from_c`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accounted_size(held: *const Held) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*held }.0.accounted_size()
}

/// Drops an array.
///
/// # Safety
///
/// `held` is from [`import_from_c`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn release(held: *mut Held) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(held) });
}

/// Frees a message.
///
/// # Safety
///
/// `message` is from [`import_from_c`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_message(message: *mut c_char) {
    // SAFETY: the caller's promise.
    drop(unsafe { CString::from_raw(message) });
}

fn text(error: &MemoryError) -> *mut c_char {
    CString::new(error.to_string().replace('\0', " "))
        .unwrap_or_default()
        .into_raw()
}

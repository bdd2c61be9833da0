//! A producer of device arrays that `memory-device` does not recognise: structures around those that it exported.
#![expect(unsafe_code, reason = "makes C structures and releases them")]

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_device::c_data::{ArrowArray, ArrowDeviceArray};

use crate::raw::RawArray;

/// What a structure of the producer owns.
struct Private {
    /// What the structure shows. Its children and its dictionary were moved out.
    original: RawArray,
    children: Vec<Box<RawArray>>,
    dictionary: Option<Box<RawArray>>,
    pointers: Vec<*mut RawArray>,
    /// A copy of the pointers, so that they may be changed.
    buffers: Vec<*const c_void>,
    released: Arc<AtomicUsize>,
}

/// The fields of `array`.
pub fn raw(array: &mut ArrowDeviceArray) -> &mut RawArray {
    // SAFETY: both types have the layout of `struct ArrowArray`, which is the first field.
    unsafe { &mut *std::ptr::from_mut(array).cast::<RawArray>() }
}

/// Puts structures of this producer in the place of those of `array`. `released` counts the releases of its top.
pub fn disguise(array: &mut ArrowDeviceArray, released: &Arc<AtomicUsize>) {
    let raw = raw(array);
    let disguised = wrap(take(raw), released);
    *raw = disguised;
}

/// Moves a structure out of its place, which counts as released.
fn take(array: &mut RawArray) -> RawArray {
    RawArray {
        release: array.release.take(),
        ..*array
    }
}

fn wrap(original: RawArray, released: &Arc<AtomicUsize>) -> RawArray {
    let below = |&pointer: &*mut RawArray| {
        // SAFETY: the pointer leads to a structure that was exported, and no other reference to it is in use.
        let below = take(unsafe { &mut *pointer });
        Box::new(wrap(below, &Arc::default()))
    };
    let mut children: Vec<Box<RawArray>> = match original.n_children {
        0 => Vec::new(),
        // SAFETY: an exported structure has as many pointers as it says.
        count => unsafe { std::slice::from_raw_parts(original.children, count as usize) }
            .iter()
            .map(below)
            .collect(),
    };
    let buffers = match original.n_buffers {
        0 => Vec::new(),
        // SAFETY: an exported structure has as many pointers as it says.
        count => unsafe { std::slice::from_raw_parts(original.buffers, count as usize) }.to_vec(),
    };
    let dictionary = (!original.dictionary.is_null()).then(|| below(&original.dictionary));
    let mut private = Box::new(Private {
        pointers: children.iter_mut().map(|it| &raw mut **it).collect(),
        children,
        dictionary,
        buffers,
        original,
        released: Arc::clone(released),
    });
    RawArray {
        buffers: private.buffers.as_mut_ptr(),
        children: private.pointers.as_mut_ptr(),
        dictionary: private
            .dictionary
            .as_mut()
            .map_or(std::ptr::null_mut(), |it| &raw mut **it),
        release: Some(release),
        length: private.original.length,
        null_count: private.original.null_count,
        offset: private.original.offset,
        n_buffers: private.original.n_buffers,
        n_children: private.original.n_children,
        private_data: Box::into_raw(private).cast(),
    }
}

/// Releases a structure of this producer.
unsafe extern "C" fn release(array: *mut RawArray) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let array = unsafe { &mut *array };
    assert!(array.release.take().is_some(), "released twice");
    // SAFETY: `wrap` made the box, and the structure is released once.
    let mut private = unsafe { Box::from_raw(array.private_data.cast::<Private>()) };
    private.released.fetch_add(1, Ordering::Relaxed);
    let below = private.children.iter_mut().chain(&mut private.dictionary);
    for below in below {
        // A consumer may have moved it out.
        if let Some(release) = below.release {
            // SAFETY: the structure was not released yet.
            unsafe { release(&raw mut **below) };
        }
    }
    let original = &mut private.original;
    if let Some(release) = original.release {
        // SAFETY: the structure was not released yet.
        unsafe { release(original) };
    }
}

// The two types are cast into each other.
const _: () = assert!(size_of::<RawArray>() == size_of::<ArrowArray>());

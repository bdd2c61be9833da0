//! A producer that this crate does not recognise: structures around exported ones, which count their releases.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::ffi::c_void;
use std::ptr::null_mut;

use super::super::pointers::Owned;
use super::*;

/// What a structure of the producer owns.
struct Private {
    /// What the structure shows, released with it. Its children were moved out.
    _original: ArrowArray,
    pointers: Vec<*mut ArrowArray>,
    /// What `pointers` leads to.
    _children: Vec<Owned<ArrowArray>>,
    dictionary: Option<Owned<ArrowArray>>,
    /// A copy of the pointers, so that tests may change them.
    buffers: Vec<*const c_void>,
    released: Count,
}

/// The array as another library would export it. `released` counts the releases of its top.
pub(super) fn exported(array: &DeviceArray, released: &Count) -> ArrowDeviceArray {
    let mut exported = array.export().unwrap();
    let original = std::mem::replace(&mut exported.array, ArrowArray::empty());
    exported.array = wrapped(original, released);
    // The event was ours, too.
    exported.sync_event = null_mut();
    exported
}

fn wrapped(original: ArrowArray, released: &Count) -> ArrowArray {
    let below = |&pointer: &*mut ArrowArray| {
        // SAFETY: a pointer of an exported structure, from which the child is moved.
        Owned::new(wrapped(
            unsafe { ArrowArray::from_raw(pointer) },
            &Count::default(),
        ))
    };
    let children: Vec<Owned<ArrowArray>> = match original.n_children {
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
    let mut structure = ArrowArray::empty();
    structure.length = original.length;
    structure.null_count = original.null_count;
    structure.offset = original.offset;
    structure.n_buffers = original.n_buffers;
    structure.n_children = original.n_children;
    let mut private = Box::new(Private {
        pointers: children.iter().map(Owned::as_ptr).collect(),
        _children: children,
        dictionary,
        buffers,
        _original: original,
        released: released.clone(),
    });
    structure.buffers = private.buffers.as_mut_ptr();
    structure.children = private.pointers.as_mut_ptr();
    structure.dictionary = private
        .dictionary
        .as_ref()
        .map_or(null_mut(), Owned::as_ptr);
    structure.release = Some(release);
    structure.private_data = Box::into_raw(private).cast();
    structure
}

unsafe extern "C" fn release(array: *mut ArrowArray) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let array = unsafe { &mut *array };
    assert!(array.release.take().is_some(), "released twice");
    // SAFETY: `wrapped` made the box, and the structure is released once.
    let private = unsafe { Box::from_raw(array.private_data.cast::<Private>()) };
    private.released.add();
}

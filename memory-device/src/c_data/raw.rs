//! The structures of the Arrow C Data Interface and of the C Device Data Interface, as C lays them out.
//!
//! Each structure has the layout of its C declaration, which is asserted at compile time. So a pointer to one of
//! these types may be passed to C, and cast to and from the type of any other Rust crate that declares the same
//! structure, arrow-rs' `FFI_ArrowArray` and `FFI_ArrowSchema` among them.
#![expect(unsafe_code, reason = "calls release callbacks through raw pointers")]

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::mem::offset_of;
use std::ptr::{null, null_mut};

use crate::device::{Device, DeviceKind};

/// `struct ArrowSchema` of the C Data Interface: the type of an array.
///
/// Dropping it calls the release callback, unless it was called or the structure was moved away.
/// [`DeviceSchema`](super::DeviceSchema) makes and reads it.
#[repr(C)]
pub struct ArrowSchema {
    pub(super) format: *const c_char,
    pub(super) name: *const c_char,
    pub(super) metadata: *const c_char,
    pub(super) flags: i64,
    pub(super) n_children: i64,
    pub(super) children: *mut *mut ArrowSchema,
    pub(super) dictionary: *mut ArrowSchema,
    pub(super) release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    pub(super) private_data: *mut c_void,
}

/// `struct ArrowArray` of the C Data Interface. In an [`ArrowDeviceArray`] the pointers in `buffers` are addresses of the
/// device; everything else is memory of the CPU.
///
/// Dropping it calls the release callback, unless it was called or the structure was moved away.
#[repr(C)]
pub struct ArrowArray {
    pub(super) length: i64,
    pub(super) null_count: i64,
    pub(super) offset: i64,
    pub(super) n_buffers: i64,
    pub(super) n_children: i64,
    pub(super) buffers: *mut *const c_void,
    pub(super) children: *mut *mut ArrowArray,
    pub(super) dictionary: *mut ArrowArray,
    pub(super) release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    pub(super) private_data: *mut c_void,
}

/// `struct ArrowDeviceArray` of the C Device Data Interface: an array whose buffers are on a device.
///
/// It has 128 bytes where pointers have 64 bits. Dropping it releases the array, unless that was done or the structure
/// was moved away. A structure that C code fills in is created by [`empty`](Self::empty).
#[repr(C)]
pub struct ArrowDeviceArray {
    pub(super) array: ArrowArray,
    pub(super) device_id: i64,
    pub(super) device_type: i32,
    pub(super) sync_event: *mut c_void,
    pub(super) reserved: [i64; 3],
}

/// `struct ArrowDeviceArrayStream` of the C Device Data Interface: a source of arrays of one schema, on devices of one
/// kind.
///
/// Dropping it calls the release callback, unless it was called or the structure was moved away.
#[repr(C)]
pub struct ArrowDeviceArrayStream {
    pub(super) device_type: i32,
    pub(super) get_schema:
        Option<unsafe extern "C" fn(*mut ArrowDeviceArrayStream, *mut ArrowSchema) -> c_int>,
    pub(super) get_next:
        Option<unsafe extern "C" fn(*mut ArrowDeviceArrayStream, *mut ArrowDeviceArray) -> c_int>,
    pub(super) get_last_error:
        Option<unsafe extern "C" fn(*mut ArrowDeviceArrayStream) -> *const c_char>,
    pub(super) release: Option<unsafe extern "C" fn(*mut ArrowDeviceArrayStream)>,
    pub(super) private_data: *mut c_void,
}

// SAFETY: the C Data Interface lets a structure be released on any thread, and nothing else of it is thread-bound.
unsafe impl Send for ArrowSchema {}
// SAFETY: a shared reference only gives access to numbers and pointers, which no thread writes.
unsafe impl Sync for ArrowSchema {}
// SAFETY: the C Data Interface lets a structure be released on any thread, and nothing else of it is thread-bound.
unsafe impl Send for ArrowArray {}
// SAFETY: a shared reference only gives access to numbers and pointers, which no thread writes.
unsafe impl Sync for ArrowArray {}
// SAFETY: the C Data Interface lets a structure be released on any thread, and the event of a device may be waited for on
// any thread.
unsafe impl Send for ArrowDeviceArray {}
// SAFETY: a shared reference only gives access to numbers and pointers, which no thread writes.
unsafe impl Sync for ArrowDeviceArray {}
// SAFETY: the interface requires calls to be serialised, not to come from one thread; calls need the value itself.
unsafe impl Send for ArrowDeviceArrayStream {}

/// What all four structures have in common.
macro_rules! structure {
    ($Type:ident, $empty:expr, $released:expr) => {
        impl $Type {
            /// Creates a structure for C code to fill in. It counts as released: dropping it calls nothing.
            pub fn empty() -> Self {
                $empty
            }

            /// Returns whether the structure was released, or moved away, or never filled in.
            pub fn is_released(&self) -> bool {
                let released: fn(&Self) -> bool = $released;
                released(self)
            }

            /// Moves a structure out of memory that others own, as the C Data Interface defines it: the source counts as
            /// released afterwards, and its callback is not called.
            ///
            /// # Safety
            ///
            /// `source` is aligned and valid for reads and writes, and holds a structure with this C layout. No
            /// other thread uses it during the call.
            pub unsafe fn from_raw(source: *mut Self) -> Self {
                // SAFETY: the caller promises a valid, aligned pointer.
                unsafe { source.replace(Self::empty()) }
            }

            /// Moves this structure into memory that others own. What that memory held before is overwritten, and not
            /// released.
            ///
            /// # Safety
            ///
            /// `target` is aligned and valid for writes of this C structure.
            pub unsafe fn write_to(self, target: *mut Self) {
                // SAFETY: the caller promises a valid, aligned pointer.
                unsafe { target.write(self) }
            }
        }
    };
}

structure!(
    ArrowSchema,
    Self {
        format: null(),
        name: null(),
        metadata: null(),
        flags: 0,
        n_children: 0,
        children: null_mut(),
        dictionary: null_mut(),
        release: None,
        private_data: null_mut(),
    },
    |schema| schema.release.is_none()
);

structure!(
    ArrowArray,
    Self {
        length: 0,
        null_count: 0,
        offset: 0,
        n_buffers: 0,
        n_children: 0,
        buffers: null_mut(),
        children: null_mut(),
        dictionary: null_mut(),
        release: None,
        private_data: null_mut(),
    },
    |array| array.release.is_none()
);

structure!(
    ArrowDeviceArray,
    Self {
        array: ArrowArray::empty(),
        device_id: 0,
        device_type: 0,
        sync_event: null_mut(),
        reserved: [0; 3],
    },
    |array| array.array.is_released()
);

structure!(
    ArrowDeviceArrayStream,
    Self {
        device_type: 0,
        get_schema: None,
        get_next: None,
        get_last_error: None,
        release: None,
        private_data: null_mut(),
    },
    |stream| stream.release.is_none()
);

/// The drop of the structures that have a release callback of their own. An `ArrowDeviceArray` has its array's.
macro_rules! release_once {
    ($($Type:ident),*) => {$(
        impl Drop for $Type {
            fn drop(&mut self) {
                if let Some(release) = self.release {
                    // SAFETY: the structure was not released, so its producer lets the callback be called once.
                    unsafe { release(self) };
                    // A producer that forgot to say so would be called again by whoever gets the structure next.
                    self.release = None;
                }
            }
        }
    )*};
}

release_once!(ArrowSchema, ArrowArray, ArrowDeviceArrayStream);

impl ArrowDeviceArray {
    /// Creates the structure of an array on a device that nothing is to be waited for.
    #[cfg_attr(
        not(any(test, feature = "arrow")),
        expect(dead_code, reason = "for arrays of arrow-rs")
    )]
    pub(super) fn new(array: ArrowArray, device: Device) -> Self {
        Self {
            array,
            device_id: device.id(),
            device_type: device.kind().number(),
            ..Self::empty()
        }
    }

    /// Returns the device that the structure names; `None` for a kind that this crate does not know.
    ///
    /// An importing program that has several devices chooses the allocator by it.
    pub fn device(&self) -> Option<Device> {
        DeviceKind::from_number(self.device_type).map(|kind| Device::new(kind, self.device_id))
    }

    /// Returns the number of rows as the structure states it, unchecked.
    pub fn length(&self) -> i64 {
        self.array.length
    }

    /// Returns the event that the consumer has to synchronise on before it reads the buffers, as the structure states it:
    /// a pointer to the event type of the device, or null.
    pub fn sync_event(&self) -> *mut c_void {
        self.sync_event
    }
}

impl fmt::Debug for ArrowDeviceArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowDeviceArray")
            .field("device_type", &self.device_type)
            .field("device_id", &self.device_id)
            .field("array", &self.array)
            .field("sync_event", &self.sync_event)
            .finish()
    }
}

impl fmt::Debug for ArrowArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowArray")
            .field("length", &self.length)
            .field("null_count", &self.null_count)
            .field("offset", &self.offset)
            .field("n_buffers", &self.n_buffers)
            .field("n_children", &self.n_children)
            .field("released", &self.is_released())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ArrowSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowSchema")
            .field("n_children", &self.n_children)
            .field("released", &self.is_released())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ArrowDeviceArrayStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowDeviceArrayStream")
            .field("device_type", &self.device_type)
            .field("released", &self.is_released())
            .finish_non_exhaustive()
    }
}

// The layouts of Arrow's `abi.h` where pointers have 64 bits. On targets of 32 bits the C compiler and `repr(C)` follow
// the same rules, but the numbers differ.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<ArrowSchema>() == 72 && align_of::<ArrowSchema>() == 8);
    assert!(offset_of!(ArrowSchema, format) == 0 && offset_of!(ArrowSchema, name) == 8);
    assert!(offset_of!(ArrowSchema, metadata) == 16 && offset_of!(ArrowSchema, flags) == 24);
    assert!(offset_of!(ArrowSchema, n_children) == 32 && offset_of!(ArrowSchema, children) == 40);
    assert!(offset_of!(ArrowSchema, dictionary) == 48 && offset_of!(ArrowSchema, release) == 56);
    assert!(offset_of!(ArrowSchema, private_data) == 64);

    assert!(size_of::<ArrowArray>() == 80 && align_of::<ArrowArray>() == 8);
    assert!(offset_of!(ArrowArray, length) == 0 && offset_of!(ArrowArray, null_count) == 8);
    assert!(offset_of!(ArrowArray, offset) == 16 && offset_of!(ArrowArray, n_buffers) == 24);
    assert!(offset_of!(ArrowArray, n_children) == 32 && offset_of!(ArrowArray, buffers) == 40);
    assert!(offset_of!(ArrowArray, children) == 48 && offset_of!(ArrowArray, dictionary) == 56);
    assert!(offset_of!(ArrowArray, release) == 64 && offset_of!(ArrowArray, private_data) == 72);

    assert!(size_of::<ArrowDeviceArray>() == 128 && align_of::<ArrowDeviceArray>() == 8);
    assert!(offset_of!(ArrowDeviceArray, array) == 0);
    assert!(offset_of!(ArrowDeviceArray, device_id) == 80);
    assert!(offset_of!(ArrowDeviceArray, device_type) == 88);
    assert!(offset_of!(ArrowDeviceArray, sync_event) == 96);
    assert!(offset_of!(ArrowDeviceArray, reserved) == 104);

    assert!(size_of::<ArrowDeviceArrayStream>() == 48);
    assert!(align_of::<ArrowDeviceArrayStream>() == 8);
    assert!(offset_of!(ArrowDeviceArrayStream, device_type) == 0);
    assert!(offset_of!(ArrowDeviceArrayStream, get_schema) == 8);
    assert!(offset_of!(ArrowDeviceArrayStream, get_next) == 16);
    assert!(offset_of!(ArrowDeviceArrayStream, get_last_error) == 24);
    assert!(offset_of!(ArrowDeviceArrayStream, release) == 32);
    assert!(offset_of!(ArrowDeviceArrayStream, private_data) == 40);
};

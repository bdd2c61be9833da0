//! Exporting arrays: what a C structure owns until it is released.
//!
//! # Invariants
//!
//! 1. An exported structure owns a clone of each buffer of its level, and the event of the whole array (D4 of the crate's
//!    invariants). Its release drops them, and runs once: it is called by whoever holds the structure, and sets the
//!    structure's `release` to null first.
//! 2. Children and dictionaries are structures of their own. A consumer may move one out, which then outlives its parent.
#![expect(unsafe_code, reason = "makes C structures and releases them")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use super::array::DeviceArray;
use super::error::{At, CDataError, unreadable};
use super::format::Part;
use super::pointers::Owned;
use super::raw::{ArrowArray, ArrowDeviceArray};
use super::sync;
use crate::buf::DeviceBuf;
use crate::event::Event;
use crate::manager::DeviceManager;

impl DeviceArray {
    /// Exports the array over the C Device Data Interface. The buffers stay charged until the consumer releases the
    /// structure, which it may do on any thread. Nothing is copied. The type is exported by
    /// [`DeviceSchema::to_c`](super::DeviceSchema::to_c).
    ///
    /// If work that writes the buffers is unfinished, `sync_event` has its event on CUDA devices and on the simulated one.
    /// The interface has none for the CPU, so there, and on other devices, this waits for the work.
    ///
    /// Arrow C++ refuses an array of strings or lists without rows whose offsets are a null pointer. On the CPU such an
    /// array is exported with one offset. On other devices it needs a buffer with one, or Arrow C++ refuses it.
    ///
    /// # Errors
    ///
    /// [`CDataError::Device`] if the work failed, the device cannot join the events of several buffers, or the array is on the
    /// CPU and a buffer's manager does not let the CPU read it at its address.
    ///
    /// ```
    /// use arrow_memory_device::c_data::{DeviceArray, DeviceSchema};
    /// use arrow_memory_device::{DeviceRoot, SimDevice};
    ///
    /// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let values = gpu.allocate(64)?.freeze();
    /// let schema = DeviceSchema::new("l", [])?;
    /// let array = DeviceArray::builder(schema, gpu.device()).length(8).buffers([None, Some(values)]).build()?;
    ///
    /// let exported = array.export()?;
    /// drop(array);
    /// assert_eq!((exported.device(), gpu.allocated_memory()), (Some(gpu.device()), 64));
    /// drop(exported); // which releases it
    /// assert_eq!(gpu.allocated_memory(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias("ExportDeviceArray", "ExportDeviceRecordBatch"))]
    pub fn export(&self) -> Result<ArrowDeviceArray, CDataError> {
        let (done, unfinished): (Vec<Event>, Vec<Event>) =
            self.events().into_iter().partition(Event::is_done);
        // Work that failed is done, too, and this says so.
        done.iter().try_for_each(Event::wait)?;
        let event = sync::Exported::of(&unfinished, self.manager())?.map(Arc::new);
        let sync_event = event.as_ref().map_or(null_mut(), |event| event.address());
        Ok(ArrowDeviceArray {
            array: structure(self, event, &At::Top("array"))?,
            device_id: self.device().id(),
            device_type: self.device().kind().number(),
            sync_event,
            reserved: [0; 3],
        })
    }

    /// The manager of the buffers, if there are any on some level.
    fn manager(&self) -> Option<&Arc<dyn DeviceManager>> {
        let own = self.buffers().iter().flatten().next();
        own.map(DeviceBuf::manager).or_else(|| {
            let mut below = self.children().iter().chain(self.dictionary());
            below.find_map(DeviceArray::manager)
        })
    }
}

/// What a structure owns until it is released. Its pointers lead into this.
pub(super) struct Exported {
    buffers: Vec<Option<DeviceBuf>>,
    pointers: Vec<*const c_void>,
    /// The lengths of the variadic buffers, for arrays of views. The interface has them in memory of the CPU.
    lengths: Vec<i64>,
    child_pointers: Vec<*mut ArrowArray>,
    /// What `child_pointers` leads to.
    _children: Vec<Owned<ArrowArray>>,
    dictionary: Option<Owned<ArrowArray>>,
    event: Option<Arc<sync::Exported>>,
}

impl Exported {
    /// The buffers that a structure shows, if this copy of the crate exported it and nobody has released it.
    ///
    /// # Safety
    ///
    /// `array` is a structure as its producer made it, but for its numbers.
    pub(super) unsafe fn of(array: &ArrowArray) -> Option<&Self> {
        let ours: unsafe extern "C" fn(*mut ArrowArray) = release_array;
        // The linker could only give another function this address whose code is the same, which frees the same type.
        if !array
            .release
            .is_some_and(|release| std::ptr::fn_addr_eq(release, ours))
        {
            return None;
        }
        // SAFETY: `structure` is the only one that sets this release, together with this private data.
        unsafe { array.private_data.cast_const().cast::<Self>().as_ref() }
    }

    /// The buffer at an index of the structure's buffers.
    pub(super) fn buffer(&self, index: usize) -> Option<&DeviceBuf> {
        self.buffers.get(index)?.as_ref()
    }

    /// The event of the whole array.
    pub(super) fn event(&self) -> Option<&Event> {
        self.event.as_deref().map(sync::Exported::event)
    }
}

/// Makes the structure of one level, and of those below it.
fn structure(
    array: &DeviceArray,
    event: Option<Arc<sync::Exported>>,
    at: &At<'_>,
) -> Result<ArrowArray, CDataError> {
    // An error drops the structures that were made so far, which releases them.
    let mut children = Vec::with_capacity(array.children().len());
    for (index, child) in array.children().iter().enumerate() {
        let child = structure(child, event.clone(), &At::Child(at, index))?;
        children.push(Owned::new(child));
    }
    let dictionary = match array.dictionary() {
        Some(values) => {
            let values = structure(values, event.clone(), &At::Dictionary(at))?;
            Some(Owned::new(values))
        }
        None => None,
    };
    let mut exported = Box::new(Exported {
        pointers: Vec::new(),
        lengths: Vec::new(),
        buffers: array.buffers().to_vec(),
        child_pointers: children.iter().map(Owned::as_ptr).collect(),
        _children: children,
        dictionary,
        event,
    });
    exported.lay_out(array, at)?;
    Ok(ArrowArray {
        // Lengths are checked when an array is built, and counts are those of vectors.
        length: array.len() as i64,
        null_count: array.null_count().map_or(-1, |nulls| nulls as i64),
        offset: array.offset() as i64,
        n_buffers: exported.pointers.len() as i64,
        n_children: exported.child_pointers.len() as i64,
        buffers: start(&mut exported.pointers),
        children: start(&mut exported.child_pointers),
        dictionary: exported
            .dictionary
            .as_ref()
            .map_or(null_mut(), Owned::as_ptr),
        release: Some(release_array),
        private_data: Box::into_raw(exported).cast(),
    })
}

impl Exported {
    /// Sets the pointers to the buffers, and the lengths of variadic ones.
    fn lay_out(&mut self, array: &DeviceArray, at: &At<'_>) -> Result<(), CDataError> {
        let layout = array.schema().layout(at)?;
        let without_rows = array.offset() + array.len() == 0 && array.device().is_cpu();
        let mut parts = layout.fixed();
        for buffer in &self.buffers {
            check_readable(buffer.as_ref())?;
            let address = buffer.as_ref().map_or(0, DeviceBuf::address);
            let Ok(address) = usize::try_from(address) else {
                return at.error(format!("address {address:#x} does not fit in a pointer"));
            };
            let found = buffer.as_ref().map_or(0, DeviceBuf::len);
            let no_offset = match parts.next() {
                Some(Part::Offsets(width)) => without_rows && found < width,
                _ => false,
            };
            // On the CPU the consumer reads through this pointer.
            self.pointers.push(match address {
                // Arrow C++ refuses a null pointer here, and arrow-rs reads an offset. On other devices there is no memory to
                // point at.
                _ if no_offset => std::ptr::from_ref(&NO_ROWS).cast(),
                0 => null(),
                address => std::ptr::with_exposed_provenance(address),
            });
        }
        if layout.is_variadic() {
            let fixed = layout.fixed().count();
            let variadic = self.buffers.get(fixed..).unwrap_or_default();
            let length =
                |buffer: &Option<DeviceBuf>| buffer.as_ref().map_or(0, DeviceBuf::len) as i64;
            self.lengths = variadic.iter().map(length).collect();
            self.pointers.push(self.lengths.as_ptr().cast());
        }
        Ok(())
    }
}

/// Refuses a buffer of the CPU whose address is not one of the CPU's.
fn check_readable(buffer: Option<&DeviceBuf>) -> Result<(), CDataError> {
    let Some(buffer) = buffer.filter(|buffer| buffer.is_cpu() && !buffer.is_empty()) else {
        return Ok(());
    };
    let manager = &**buffer.manager();
    let seen = (buffer.start()).and_then(|start| manager.view_on_cpu(start, buffer.len()));
    match seen {
        Some(seen) if seen.addr().get() as u64 == buffer.address() => Ok(()),
        _ => Err(unreadable(manager).into()),
    }
}

/// The offsets of an array without rows, of either width.
static NO_ROWS: i64 = 0;

/// The address of a vector's first item; null if there is none.
fn start<T>(items: &mut Vec<T>) -> *mut T {
    match items.as_mut_slice() {
        [] => null_mut(),
        items => items.as_mut_ptr(),
    }
}

/// Releases a structure that `structure` made.
unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let array = unsafe { &mut *array };
    array.release = None;
    let exported = array.private_data.cast::<Exported>();
    array.private_data = null_mut();
    // SAFETY: `structure` made the box, and the structure is released once.
    let exported = unsafe { Box::from_raw(exported) };
    // It may have the last reference to memory of others, whose drop may panic, which must not unwind into C.
    arrow_memory_core::__private::events::catch(|| drop(exported));
}

//! A library that imports arrays over the C Device Data Interface, keeps them under a limit, moves them to a simulated device
//! and back, and exports them again: the Rust side of
//! `memory-device/tests/pyarrow_round_trip.py` and `arrow_cpp.cc` there. See `.ci/pyarrow.sh`.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Arc;

use arrow_memory_device::c_data::{
    ArrowDeviceArray, ArrowDeviceArrayStream, ArrowSchema, CDataError, DeviceArray, DeviceSchema,
    ImportedStream, export_stream,
};
use arrow_memory_device::{DeviceAddress, DeviceRoot, SimDevice};
use arrow_memory_system as _;

/// A tree of the CPU's memory, and one of a device's.
pub struct Trees {
    cpu: DeviceRoot,
    sim: DeviceRoot,
}

/// Arrays that a tree is charged for: one, or all of a stream.
pub struct Held {
    schema: Arc<DeviceSchema>,
    arrays: Vec<DeviceArray>,
}

/// Makes two trees, the CPU's with a limit in bytes. Returns null if there is no backend.
#[unsafe(no_mangle)]
pub extern "C" fn trees_new(limit: usize) -> *mut Trees {
    let cpu = DeviceRoot::builder().limit(limit).build();
    let sim = DeviceRoot::builder().manager(SimDevice::new()).build();
    match (cpu, sim) {
        (Ok(cpu), Ok(sim)) => Box::into_raw(Box::new(Trees { cpu, sim })),
        _ => null_mut(),
    }
}

/// Returns the allocated bytes of a tree: the device's, or the CPU's.
///
/// # Safety
///
/// `trees` is from [`trees_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trees_allocated(trees: *const Trees, device: bool) -> usize {
    // SAFETY: the caller's promise.
    let trees = unsafe { &*trees };
    match device {
        true => trees.sim.allocated_memory(),
        false => trees.cpu.allocated_memory(),
    }
}

/// Sets the limit of the CPU's tree.
///
/// # Safety
///
/// `trees` is from [`trees_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trees_set_limit(trees: *const Trees, limit: usize) {
    // SAFETY: the caller's promise.
    unsafe { &*trees }.cpu.set_limit(limit);
}

/// Copies bytes from the simulated device to the host. Returns whether that succeeded.
///
/// # Safety
///
/// `trees` is from [`trees_new`]; the bytes at `from` are in an array on its device, and there is room for them at `to`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn device_read(
    trees: *const Trees,
    from: u64,
    to: *mut u8,
    len: usize,
) -> bool {
    // SAFETY: the caller's promise.
    let trees = unsafe { &*trees };
    // SAFETY: the caller promises room for the bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<u8>>(), len) };
    let Some(from) = DeviceAddress::new(from) else {
        return len == 0;
    };
    // SAFETY: the caller promises bytes of the device. The copy is done when this returns.
    unsafe { trees.sim.manager().copy_out(from, to, None) }.is_ok()
}

/// Closes and frees both trees. Returns whether nothing was outstanding.
///
/// # Safety
///
/// `trees` is from [`trees_new`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trees_close(trees: *mut Trees) -> bool {
    // SAFETY: the caller's promise.
    let trees = unsafe { Box::from_raw(trees) };
    trees.cpu.close().is_ok() && trees.sim.close().is_ok()
}

/// Imports an array into the tree of its device, moving both structures. Returns null if it is refused, and sets `message`, which [`free_message`] frees.
///
/// # Safety
///
/// The same as for `DeviceArray::import`; `trees` is from [`trees_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn import_array(
    trees: *const Trees,
    array: *mut ArrowDeviceArray,
    schema: *mut ArrowSchema,
    message: *mut *mut c_char,
) -> *mut Held {
    // SAFETY: the caller's promise.
    let array = unsafe { ArrowDeviceArray::from_raw(array) };
    // SAFETY: the caller's promise.
    let schema = unsafe { ArrowSchema::from_raw(schema) };
    // SAFETY: the caller's promise.
    let trees = unsafe { &*trees };
    let import = || -> Result<Held, CDataError> {
        // SAFETY: the caller's promise.
        let schema = Arc::new(unsafe { DeviceSchema::from_c(&schema) }?);
        let on_device = array.device() == Some(trees.sim.device());
        let target = if on_device { &trees.sim } else { &trees.cpu };
        // SAFETY: the caller's promise.
        let array = unsafe { DeviceArray::import(array, Arc::clone(&schema), target) }?;
        let arrays = vec![array];
        Ok(Held { schema, arrays })
    };
    // SAFETY: the caller's promise.
    unsafe { handle(import(), message) }
}

/// Imports a stream, moving its structure, and reads it to its end. Returns null if it is refused or fails, and sets
/// `message`.
///
/// # Safety
///
/// The same as for `ImportedStream::import`; `trees` is from [`trees_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn import_stream(
    trees: *const Trees,
    stream: *mut ArrowDeviceArrayStream,
    message: *mut *mut c_char,
) -> *mut Held {
    // SAFETY: the caller's promise.
    let stream = unsafe { ArrowDeviceArrayStream::from_raw(stream) };
    // SAFETY: the caller's promise.
    let trees = unsafe { &*trees };
    let import = || -> Result<Held, CDataError> {
        // SAFETY: the caller's promise.
        let mut stream = unsafe { ImportedStream::import(stream, &trees.cpu) }?;
        let arrays = stream.by_ref().collect::<Result<_, _>>()?;
        let schema = Arc::clone(stream.schema());
        Ok(Held { schema, arrays })
    };
    // SAFETY: the caller's promise.
    unsafe { handle(import(), message) }
}

/// Copies arrays to the simulated device, or from there to the CPU.
///
/// # Safety
///
/// `held` is from a function of this library, `trees` is from [`trees_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_to(
    trees: *const Trees,
    held: *const Held,
    device: bool,
    message: *mut *mut c_char,
) -> *mut Held {
    // SAFETY: the caller's promise.
    let trees = unsafe { &*trees };
    // SAFETY: the caller's promise.
    let held = unsafe { &*held };
    let target = if device { &trees.sim } else { &trees.cpu };
    let copies: Result<_, _> = held
        .arrays
        .iter()
        .map(|array| array.copy_to(target))
        .collect();
    let copied = copies.map(|arrays| Held {
        schema: Arc::clone(&held.schema),
        arrays,
    });
    // SAFETY: the caller's promise.
    unsafe { handle(copied, message) }
}

/// Exports rows of the first array. Returns whether that succeeded.
///
/// # Safety
///
/// `held` is from a function of this library; the other pointers are valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn export_array(
    held: *const Held,
    offset: usize,
    length: usize,
    array: *mut ArrowDeviceArray,
    schema: *mut ArrowSchema,
) -> bool {
    // SAFETY: the caller's promise.
    let held = unsafe { &*held };
    let (Some(first), Ok(exported_schema)) = (held.arrays.first(), held.schema.to_c()) else {
        return false;
    };
    let Ok(exported) = first.slice(offset, length).export() else {
        return false;
    };
    // SAFETY: the caller's promise.
    unsafe { exported.write_to(array) };
    // SAFETY: the caller's promise.
    unsafe { exported_schema.write_to(schema) };
    true
}

/// Exports all arrays as a stream.
///
/// # Safety
///
/// `held` is from a function of this library and has an array; `stream` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn export_arrays(held: *const Held, stream: *mut ArrowDeviceArrayStream) {
    // SAFETY: the caller's promise.
    let held = unsafe { &*held };
    let kind = held.arrays[0].device().kind();
    let arrays = held.arrays.clone().into_iter().map(Ok);
    // SAFETY: the caller's promise.
    unsafe { export_stream(Arc::clone(&held.schema), kind, arrays).write_to(stream) };
}

/// Drops arrays.
///
/// # Safety
///
/// `held` is from a function of this library, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn release(held: *mut Held) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(held) });
}

/// Frees a message.
///
/// # Safety
///
/// `message` is from a function of this library, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_message(message: *mut c_char) {
    // SAFETY: the caller's promise.
    drop(unsafe { CString::from_raw(message) });
}

/// Hands out a result: a pointer, or null and a message.
///
/// # Safety
///
/// `message` is valid for writes.
unsafe fn handle(result: Result<Held, impl Display>, message: *mut *mut c_char) -> *mut Held {
    match result {
        Ok(held) => Box::into_raw(Box::new(held)),
        Err(error) => {
            let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
            // SAFETY: the caller's promise.
            unsafe { message.write(text.into_raw()) };
            null_mut()
        }
    }
}

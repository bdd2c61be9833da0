//! Arrays of CUDA devices over the C Device Data Interface.
#![expect(unsafe_code, reason = "calls the interface as C code would")]

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_device::c_data::{ArrowDeviceArray, DeviceArray, DeviceSchema};
use arrow_memory_device::cuda::CudaManager;
use arrow_memory_device::{AnyBuffer, DeviceRoot};

pub(crate) fn all() {
    an_array_takes_its_event_along_and_comes_back();
    the_events_of_several_buffers_become_one();
    the_event_of_another_library_is_waited_for();
    a_refused_array_is_released_after_its_event();
}

fn device() -> DeviceRoot {
    DeviceRoot::builder()
        .manager(CudaManager::new(0).unwrap())
        .build()
        .unwrap()
}

/// An array of 64-bit integers whose buffer is still being copied.
fn unfinished(device: &DeviceRoot, value: u8) -> DeviceArray {
    let host = RootAllocator::new(1 << 20);
    let source = host.buffer_from_slice(&[value; 80]).unwrap();
    let stream = device.stream().unwrap();
    let copied = source.copy_to_on(&device.to_allocator(), &stream).unwrap();
    let schema = DeviceSchema::new("l", []).unwrap();
    DeviceArray::builder(schema, device.device())
        .length(10)
        .buffers([None, Some(copied)])
        .build()
        .unwrap()
}

fn an_array_takes_its_event_along_and_comes_back() {
    let (one, other, host) = (device(), device(), RootAllocator::new(1 << 20));
    let array = unfinished(&one, 6);

    let mut exported = array.export().unwrap();
    assert!(!exported.sync_event().is_null());
    let schema = Arc::clone(array.schema());
    drop(array);
    // SAFETY: the structure is in place; this is how a consumer moves it.
    let moved = unsafe { ArrowDeviceArray::from_raw(&raw mut exported) };
    // SAFETY: this crate made the structure, on this device.
    let back = unsafe { DeviceArray::import(moved, schema, &other) }.unwrap();

    assert_eq!(
        (one.allocated_memory(), other.allocated_memory()),
        (128, 80)
    );
    let values = back.buffers()[1].as_ref().unwrap();
    assert_eq!(values.copy_to(&host).unwrap().as_slice(), [6; 80]);
    drop(back);
    assert_eq!((one.allocated_memory(), other.allocated_memory()), (0, 0));
}

fn the_events_of_several_buffers_become_one() {
    let (one, host) = (device(), RootAllocator::new(1 << 20));
    let columns = [unfinished(&one, 1), unfinished(&one, 2)];
    let schemas = columns.each_ref().map(|column| (**column.schema()).clone());
    let batch = DeviceArray::builder(DeviceSchema::new("+s", schemas).unwrap(), one.device())
        .length(10)
        .buffers([None])
        .children(columns)
        .build()
        .unwrap();

    let exported = batch.export().unwrap();
    assert!(!exported.sync_event().is_null());
    // SAFETY: this crate made the structure, on this device.
    let back = unsafe { DeviceArray::import(exported, Arc::clone(batch.schema()), &one) }.unwrap();
    drop(batch);

    back.synchronize().unwrap();
    for (column, value) in back.children().iter().zip([1, 2]) {
        let values = column.buffers()[1].as_ref().unwrap();
        assert_eq!(values.copy_to(&host).unwrap().as_slice(), [value; 80]);
    }
}

/// `struct ArrowDeviceArray`, as another library declares it.
#[repr(C)]
struct Foreign {
    numbers: [i64; 5],
    buffers: *mut *const c_void,
    children: *mut c_void,
    dictionary: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut Foreign)>,
    private: *mut ArrowDeviceArray,
    device_id: i64,
    device_type: i32,
    sync_event: *mut c_void,
    reserved: [i64; 3],
}

unsafe extern "C" fn release(array: *mut Foreign) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let array = unsafe { &mut *array };
    array.release = None;
    // SAFETY: the test made the box, and the structure is released once.
    drop(unsafe { Box::from_raw(array.private) });
    array.private = null_mut();
}

/// A valid structure of another library.
fn foreign(array: &DeviceArray) -> Foreign {
    let ours = Box::into_raw(Box::new(array.export().unwrap()));
    // SAFETY: both types have the layout of the C structure. The copy does not release what it was copied from.
    let mut foreign = unsafe { ours.cast::<Foreign>().read() };
    foreign.private = ours;
    foreign.release = Some(release);
    foreign
}

fn a_refused_array_is_released_after_its_event() {
    let device = device();
    let array = unfinished(&device, 7);
    let event = array.buffers()[1]
        .as_ref()
        .unwrap()
        .ready()
        .unwrap()
        .clone();
    let mut foreign = foreign(&array);
    foreign.numbers[0] = -1; // rows
    // SAFETY: the structure is in place; this is how a consumer moves it.
    let moved = unsafe { ArrowDeviceArray::from_raw((&raw mut foreign).cast()) };

    // SAFETY: the structure is one that is refused, on this device, with an event of the driver.
    let error = unsafe { DeviceArray::import(moved, Arc::clone(array.schema()), &device) };

    assert!(error.is_err());
    assert!(event.is_done(), "the release has waited for it");
}

fn the_event_of_another_library_is_waited_for() {
    let (one, other, host) = (device(), device(), RootAllocator::new(1 << 20));
    let array = unfinished(&one, 8);
    let mut foreign = foreign(&array);
    // SAFETY: the structure is in place; this is how a consumer moves it.
    let moved = unsafe { ArrowDeviceArray::from_raw((&raw mut foreign).cast()) };
    let schema = Arc::clone(array.schema());
    drop(array);

    // SAFETY: the structure is a valid one, on this device, with an event of the driver.
    let back = unsafe { DeviceArray::import(moved, schema, &other) }.unwrap();

    let values = back.buffers()[1].as_ref().unwrap();
    assert!(values.ready().is_some(), "the stand-in is late");
    assert_eq!(values.copy_to(&host).unwrap().as_slice(), [8; 80]);
    assert_eq!(
        (one.allocated_memory(), other.allocated_memory()),
        (128, 80)
    );
    drop(back);
    assert_eq!((one.allocated_memory(), other.allocated_memory()), (0, 0));
}

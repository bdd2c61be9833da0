//! Streams and events of CUDA devices.

use std::alloc::Layout;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_device::cuda::{CudaEvent, CudaManager, CudaStream};
use arrow_memory_device::{
    AnyBuffer, DeviceBuf, DeviceError, DeviceManager, DeviceRoot, Event, SimDevice, Stream,
};

pub(crate) fn all() {
    a_block_of_a_stream_is_freed_after_its_allocation();
    an_event_is_done_once_its_work_is();
    a_stream_waits_for_events_of_other_devices();
    the_devices_own_errors_are_reported();
    a_copy_between_managers_of_one_device_is_made_there();
    a_read_does_not_wait_for_what_is_freed();
    a_device_without_room_waits_for_what_is_freed();
}

fn device() -> DeviceRoot {
    DeviceRoot::builder()
        .manager(CudaManager::new(0).unwrap())
        .build()
        .unwrap()
}

fn a_block_of_a_stream_is_freed_after_its_allocation() {
    let device = device();
    let stream = device.stream().unwrap();

    // The stand-in ends the process if the free is done before the allocation.
    drop(device.allocate_on(4096, &stream).unwrap());
    drop(device.allocate_on(4096, &stream).unwrap().freeze());

    assert_eq!(
        (
            device.allocated_memory(),
            device.manager().stats().live_bytes
        ),
        (0, Some(0))
    );
}

fn an_event_is_done_once_its_work_is() {
    let (device, host) = (device(), RootAllocator::new(1 << 20));
    let stream = device.stream().unwrap();
    assert!(
        !stream
            .downcast_ref::<CudaStream>()
            .unwrap()
            .as_raw()
            .is_null()
    );

    let source = host.buffer_from_slice(&[3; 100]).unwrap();
    let copied = source.copy_to_on(&device.to_allocator(), &stream).unwrap();

    let event = copied.ready().expect("the stand-in is late").clone();
    assert!(
        !event
            .downcast_ref::<CudaEvent>()
            .unwrap()
            .as_raw()
            .is_null()
    );
    event.wait().unwrap();
    assert!(event.is_done() && copied.ready().is_none());
    assert_eq!(copied.copy_to(&host).unwrap().as_slice(), [3; 100]);
}

fn a_stream_waits_for_events_of_other_devices() {
    let (cuda, host) = (device(), RootAllocator::new(1 << 20));
    let sim = SimDevice::builder().late(true).build();
    let other = DeviceRoot::builder()
        .manager(Arc::clone(&sim) as Arc<_>)
        .build()
        .unwrap();

    let source = host.buffer_from_slice(&[4; 100]).unwrap();
    let there = source
        .copy_to_on(&other.to_allocator(), &other.stream().unwrap())
        .unwrap();
    let stream = cuda.stream().unwrap();
    let copied = there.copy_to_on(&cuda.to_allocator(), &stream).unwrap();
    drop((source, there));

    assert_eq!(copied.copy_to(&host).unwrap().as_slice(), [4; 100]);
    assert_eq!(sim.hazards(), []);
}

fn the_devices_own_errors_are_reported() {
    let device = device();

    let error = device.allocate(1 << 40).unwrap_err();

    assert!(error.is_out_of_memory(), "{error}");
    assert!(
        error
            .to_string()
            .contains("device `cuda:0`: allocation failed"),
        "{error}"
    );
    assert_eq!(device.allocated_memory(), 0);
    // The manager checks streams itself, for those who call it.
    let stream = SimDevice::new().stream().unwrap();
    let layout = Layout::from_size_align(64, 64).unwrap();
    let error = device
        .manager()
        .allocate(layout, Some(&stream))
        .unwrap_err();
    assert!(matches!(error, DeviceError::WrongDevice { .. }), "{error}");
    let layout = Layout::from_size_align(64, 512).unwrap();
    let error = device.manager().allocate(layout, None).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("aligned to 256 bytes, not to 512"), "{text}");
}

fn a_copy_between_managers_of_one_device_is_made_there() {
    let (one, other) = (device(), device());
    let host = RootAllocator::new(1 << 20);
    let there = host
        .buffer_from_slice(&[5; 1000])
        .unwrap()
        .copy_to(&one.to_allocator())
        .unwrap();

    let copied = there.copy_to(&other.to_allocator()).unwrap();
    let viewed = there
        .view_on(&other.to_allocator())
        .unwrap()
        .expect("the same addresses");

    assert_eq!(viewed.address(), there.address());
    assert_eq!(copied.copy_to(&host).unwrap().as_slice(), [5; 1000]);
    assert_eq!(one.manager().stats().live_bytes, Some(1024));
}

fn a_read_does_not_wait_for_what_is_freed() {
    let (device, host) = (device(), RootAllocator::new(1 << 20));
    let source = host.buffer_from_slice(&[6; 100]).unwrap();
    let there = source.copy_to(&device.to_allocator()).unwrap();
    let stream = device.stream().unwrap();

    let unfinished = there.copy_to_on(&device.to_allocator(), &stream).unwrap();
    let event = unfinished.ready().expect("the stand-in is late").clone();
    drop(unfinished);
    assert_eq!(there.copy_to(&host).unwrap().as_slice(), [6; 100]);

    // Without pools, freeing has waited.
    let waits = std::env::var("FAKE_CUDA_POOLS").is_ok();
    assert_eq!(event.is_done(), waits);
}

fn a_device_without_room_waits_for_what_is_freed() {
    let device = device();
    let stream = device.stream().unwrap();

    for _ in 0..4 {
        let all = device.allocate_on(1 << 30, &stream).unwrap();
        drop(all);
    }

    assert_eq!(device.allocated_memory(), 0);
}

/// All queries of events are refused, which says nothing about the work.
pub(crate) fn untold() {
    let (device, host) = (device(), RootAllocator::new(1 << 20));
    let stream = device.stream().unwrap();
    let source = host.buffer_from_slice(&[8; 100]).unwrap();

    let copied = source.copy_to_on(&device.to_allocator(), &stream).unwrap();
    drop(source);
    let event = copied.ready().expect("nobody said that it is done").clone();
    assert!(!event.is_done());
    assert!(host.allocated_memory() > 0, "the copy may still read it");
    assert_eq!(copied.copy_to(&host).unwrap().as_slice(), [8; 100]);
    // The stand-in ends the process if the block is freed before the copy.
    drop(unfinished(&device, &stream));

    event.wait().unwrap();
    assert!(event.is_done(), "it was waited for");
}

/// A buffer that is still being written.
fn unfinished(device: &DeviceRoot, stream: &Stream) -> DeviceBuf {
    let host = RootAllocator::new(1 << 20);
    let source = host.buffer_from_slice(&[9; 100]).unwrap();
    source.copy_to_on(&device.to_allocator(), stream).unwrap()
}

/// All streams are captured by somebody.
pub(crate) fn captured() {
    let (device, host) = (device(), RootAllocator::new(1 << 20));
    let stream = device.stream().unwrap();
    let source = host.buffer_from_slice(&[7; 100]).unwrap();

    let errors = [
        source
            .copy_to_on(&device.to_allocator(), &stream)
            .map(drop)
            .unwrap_err(),
        device.allocate_on(100, &stream).map(drop).unwrap_err(),
        stream.record().map(drop).unwrap_err(),
        stream.wait_for(&Event::done()).unwrap_err(),
    ];

    for error in errors {
        let text = format!("{error:#}");
        assert!(text.contains("captured into a graph"), "{text}");
    }
    // The manager's own stream is nobody else's.
    let copied = source.copy_to(&device.to_allocator()).unwrap();
    assert_eq!(copied.copy_to(&host).unwrap().as_slice(), [7; 100]);
}

/// All waits and queries return an error after which the device does nothing more.
pub(crate) fn failed() {
    let device = device();
    let stream = device.stream().unwrap();

    let event = stream.record().unwrap();
    let error = format!("{:#}", event.wait().unwrap_err());

    assert!(error.contains("waiting for an event"), "{error}");
    assert!(event.is_done(), "nothing is left to wait for");
    assert!(device.allocate(64).is_err());
    assert_eq!(device.allocated_memory(), 0);
}

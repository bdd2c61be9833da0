//! Buffers of the host as buffers that may be anywhere.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_device::{
    AnyAllocator, AnyBuffer, AnyBufferMut, CpuManager, Device, DeviceError, DeviceRoot,
    DeviceStream, Event, SimDevice, Stream,
};

/// A stream that anyone can write, for a device of which it knows nothing. Counts the events that it was asked for.
#[derive(Debug, Default)]
struct Pretender(Arc<AtomicUsize>);

impl DeviceStream for Pretender {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn wait_for(&self, _event: &Event) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(&self) -> Result<Event, DeviceError> {
        // Relaxed: all is on this thread.
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Event::done())
    }
}

#[test]
fn the_cpu_accepts_its_own_streams_only() {
    let (host, cpu) = (
        RootAllocator::new(1 << 20),
        DeviceRoot::builder().build().unwrap(),
    );
    let stream = Stream::new(Pretender::default());
    let (here, there) = (
        host.buffer_from_slice(&[1; 100]).unwrap(),
        cpu.allocate(100).unwrap().freeze(),
    );

    for refused in [
        cpu.allocate_on(100, &stream).map(drop),
        here.copy_to_on(&cpu, &stream).map(drop),
        there.copy_to_on(&cpu, &stream).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, DeviceError::WrongDevice { .. }), "{error}");
    }
    let own = cpu.stream().unwrap();
    assert!(here.copy_to_on(&cpu, &own).unwrap().ready().is_none());
}

#[test]
fn a_copy_within_the_host_is_in_the_order_of_a_stream_of_the_cpu() {
    let host = RootAllocator::new(1 << 20);
    let here = host.buffer_from_slice(&[1; 100]).unwrap();
    let asked = Arc::<AtomicUsize>::default();

    let sim = SimDevice::new();
    let other = arrow_memory_device::DeviceManager::stream(&*sim).unwrap();
    let error = here.copy_to_on(&host, &other).unwrap_err();
    assert!(matches!(error, DeviceError::WrongDevice { .. }), "{error}");
    let stream = Stream::new(Pretender(asked.clone()));
    let copy = here.copy_to_on(&host, &stream).unwrap();
    assert_eq!(
        (copy.as_slice(), asked.load(Ordering::Relaxed)),
        (&[1; 100][..], 1)
    );
}

#[test]
fn a_buffer_of_the_host_is_on_the_cpu() {
    let host = RootAllocator::new(1 << 20);
    let buffer = host.buffer_from_slice(b"columnar").unwrap();

    assert!(AnyBuffer::is_cpu(&buffer) && !AnyBuffer::is_empty(&buffer));
    assert_eq!(
        (AnyBuffer::device(&buffer), AnyBuffer::len(&buffer)),
        (Device::CPU, 8)
    );
    assert_eq!(AnyAllocator::device(&host), Device::CPU);
}

#[test]
fn a_view_within_a_tree_of_the_host_is_shared() {
    let host = RootAllocator::new(1 << 20);
    let join = host.child("join").build().unwrap();
    let buffer = host.buffer_from_slice(&[1; 100]).unwrap();

    let same = buffer.view_on(&host).unwrap().unwrap();
    let shared = buffer.view_or_copy(&join).unwrap();
    assert_eq!(
        (same.as_ptr(), shared.as_ptr()),
        (buffer.as_ptr(), buffer.as_ptr())
    );
    assert_eq!((host.allocated_memory(), join.allocated_memory()), (128, 0));
}

#[test]
fn a_view_between_trees_of_the_host_is_not_charged_twice() {
    let (one, two) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
    let buffer = one.buffer_from_slice(&[1; 100]).unwrap();

    let view = buffer.slice(50..).view_on(&two).unwrap().unwrap();
    drop(buffer);
    assert_eq!(
        (view.as_slice(), view.allocator()),
        (&[1; 50][..], BufferAllocator::clone(&two))
    );
    assert_eq!((one.allocated_memory(), two.allocated_memory()), (128, 1));
    let clone = view.slice(10..);
    drop(view);
    assert_eq!((one.allocated_memory(), two.allocated_memory()), (128, 1));
    drop(clone);
    assert_eq!((one.allocated_memory(), two.allocated_memory()), (0, 0));
}

#[test]
fn a_view_that_its_target_has_no_byte_for_is_refused() {
    let (one, two) = (RootAllocator::new(1 << 20), RootAllocator::new(0));
    let cpu = DeviceRoot::builder()
        .limit(0)
        .manager(CpuManager::new().unwrap())
        .build()
        .unwrap();
    let buffer = one.buffer_from_slice(&[1; 100]).unwrap();

    assert!(buffer.view_on(&two).unwrap_err().is_out_of_memory());
    assert!(buffer.view_on(&cpu).unwrap_err().is_out_of_memory());
    assert_eq!(buffer.ref_count(), 1);
}

#[test]
fn a_closed_target_refuses_views_and_copies() {
    let host = RootAllocator::new(1 << 20);
    let cpu = DeviceRoot::builder().build().unwrap();
    let (closed, retired) = (
        host.child("closed").build().unwrap(),
        cpu.child("retired").build().unwrap(),
    );
    closed.close().unwrap();
    retired.retire();
    let buffer = host.buffer_from_slice(&[1; 100]).unwrap();
    let there = buffer.copy_to(&cpu).unwrap();

    assert!(matches!(
        buffer.view_on(&closed),
        Err(DeviceError::Transfer(_))
    ));
    assert!(matches!(
        there.view_on(&closed),
        Err(DeviceError::Refused(_))
    ));
    assert!(matches!(
        buffer.view_on(&retired),
        Err(DeviceError::Refused(_))
    ));
    assert!(matches!(
        there.view_on(&retired),
        Err(DeviceError::Transfer(_))
    ));
    assert!(buffer.copy_to(&closed).is_err() && there.copy_to(&retired).is_err());
    assert_eq!((buffer.ref_count(), there.ref_count()), (1, 1));
}

#[test]
fn memory_of_the_host_is_viewed_on_the_cpu_as_a_device() {
    let host = RootAllocator::new(1 << 20);
    let cpu = DeviceRoot::builder().build().unwrap();
    let buffer = host.buffer_from_slice(&[3; 100]).unwrap();

    let view = buffer.view_on(&cpu).unwrap().unwrap();
    assert_eq!(view.address(), buffer.memory_address() as u64);
    drop(buffer);
    assert_eq!((host.allocated_memory(), cpu.allocated_memory()), (128, 1));
    let back = view.slice(1..).view_on(&host).unwrap().unwrap(); // a view of a view
    drop(view);
    assert_eq!(
        (back.as_slice(), host.allocated_memory()),
        (&[3; 99][..], 129)
    );
    drop(back);
    assert_eq!((host.allocated_memory(), cpu.allocated_memory()), (0, 0));
}

#[test]
fn memory_of_the_host_cannot_be_viewed_on_a_device_that_does_not_see_it() {
    let host = RootAllocator::new(1 << 20);
    let gpu = DeviceRoot::builder()
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let other = DeviceRoot::builder()
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let buffer = host.buffer_from_slice(&[3; 100]).unwrap();
    let there = buffer.copy_to(&gpu).unwrap();

    assert!(buffer.view_on(&gpu).unwrap().is_none());
    assert!(there.view_on(&host).unwrap().is_none());
    assert!(there.view_on(&other).unwrap().is_none()); // of the same number, and another device
}

#[test]
fn empty_buffers_are_viewed_and_copied_without_memory() {
    let (host, other) = (RootAllocator::new(0), RootAllocator::new(0));
    let gpu = DeviceRoot::builder()
        .limit(0)
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let here = host.buffer(0).unwrap().freeze();
    let there = gpu.allocate(0).unwrap().freeze();

    assert!(here.view_on(&gpu).unwrap().unwrap().is_empty());
    assert!(there.view_on(&host).unwrap().unwrap().is_empty());
    assert!(here.view_on(&other).unwrap().unwrap().is_empty());
    assert!(here.copy_to(&gpu).unwrap().is_empty());
    assert!(there.copy_to(&host).unwrap().is_empty());
    assert_eq!((host.allocated_memory(), gpu.allocated_memory()), (0, 0));
}

#[test]
fn a_reader_and_a_writer_work_on_the_host_too() {
    let host = RootAllocator::new(1 << 20);
    let mut buffer = host.buffer_zeroed(200_000).unwrap();
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();

    let mut writer = buffer.writer();
    assert_eq!(writer.write(&bytes).unwrap(), 64 * 1024);
    writer.rewind().unwrap();
    writer.write_all(&bytes).unwrap();
    assert_eq!(writer.write(&[1]).unwrap(), 0);
    let buffer = buffer.freeze();
    let mut reader = buffer.reader();
    drop(buffer); // the reader keeps it
    let mut read = Vec::new();
    reader.seek(SeekFrom::Start(3)).unwrap();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes[3..]);
    assert_eq!(host.allocated_memory(), 200_000_usize.next_multiple_of(64));
}

#[test]
fn a_tree_of_a_device_has_no_memory_of_the_host() {
    let gpu = DeviceRoot::builder()
        .name("gpu")
        .manager(SimDevice::new())
        .build()
        .unwrap();

    let error = gpu.accounting().buffer(64).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "backend `ext-dev:0` could not serve 64 bytes for allocator `gpu`: this is the tree of device `ext-dev:0`: \
         allocate with `DeviceAllocator::allocate`"
    );
    assert_eq!(gpu.allocated_memory(), 0);
}

#[test]
fn a_refusal_names_the_bytes_that_were_asked_for() {
    let gpu = DeviceRoot::builder()
        .limit(1000)
        .manager(SimDevice::new())
        .build()
        .unwrap();

    let error = gpu.allocate(1000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "allocator `ext-dev:0` is out of room: 1000 bytes requested (1024 after rounding), 1000 left of its limit \
         of 1000"
    );
}

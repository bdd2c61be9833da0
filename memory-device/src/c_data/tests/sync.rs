//! The events of exported and imported arrays.

use std::ptr::null_mut;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::{DeviceError, DeviceEvent, Event};

/// A device whose copies are done only when they are waited for.
fn late() -> Arc<SimDevice> {
    SimDevice::builder().late(true).build()
}

/// An array whose only buffer is still being copied to the device.
fn unfinished(root: &DeviceRoot, values: &[i32]) -> DeviceArray {
    let host = arrow_memory_core::RootAllocator::new(1 << 20);
    let source = host.buffer_from_slice(&bytes_of(values)).unwrap();
    let stream = root.stream().unwrap();
    let copied = source.copy_to_on(&root.to_allocator(), &stream).unwrap();
    DeviceArray::builder(schema("i"), root.device())
        .length(values.len())
        .buffers([None, Some(copied)])
        .build()
        .unwrap()
}

#[test]
fn an_array_that_is_still_written_takes_its_event_along() {
    let device = late();
    let (one, other) = (sim_with(Arc::clone(&device)), sim_with(Arc::clone(&device)));
    let array = unfinished(&one, &[1, 2, 3]);

    let exported = array.export().unwrap();
    assert!(!exported.sync_event().is_null());
    let back = import(exported, array.schema(), &other).unwrap();

    let copied = back.buffers()[1].as_ref().unwrap();
    assert!(copied.ready().is_some(), "the copy has not been waited for");
    assert_eq!(read(&back.buffers()[1]), bytes_of(&[1, 2, 3]));
    assert!(copied.ready().is_none());
    assert_eq!(device.hazards(), []);
}

#[test]
fn a_forgotten_synchronisation_is_caught() {
    let device = late();
    let (one, other) = (sim_with(Arc::clone(&device)), sim_with(Arc::clone(&device)));
    let array = unfinished(&one, &[1, 2, 3]);
    let released = Count::default();

    // This producer drops the event.
    let back = import(foreign::exported(&array, &released), array.schema(), &other).unwrap();
    let bytes = read(&back.buffers()[1]);

    assert_eq!(bytes, [SimDevice::POISON; 12]);
    assert_eq!(device.hazards().len(), 1);
}

#[test]
fn the_events_of_several_buffers_become_one() {
    let device = late();
    let (one, other) = (sim_with(Arc::clone(&device)), sim_with(Arc::clone(&device)));
    let array = batch([unfinished(&one, &[1, 2]), unfinished(&one, &[3, 4])]);

    let exported = array.export().unwrap();
    assert!(!exported.sync_event().is_null());
    let back = import(exported, array.schema(), &other).unwrap();
    drop(array);

    back.synchronize().unwrap();
    assert_eq!(read(&back.children()[0].buffers()[1]), bytes_of(&[1, 2]));
    assert_eq!(read(&back.children()[1].buffers()[1]), bytes_of(&[3, 4]));
    assert_eq!(device.hazards(), []);
}

#[test]
fn an_array_that_is_written_has_no_event() {
    let root = sim_with(late());
    let array = unfinished(&root, &[1]);
    array.synchronize().unwrap();

    assert!(array.export().unwrap().sync_event().is_null());
    assert!(ints(&root, &[1]).export().unwrap().sync_event().is_null());
}

#[test]
fn an_export_that_nobody_waits_for_frees_its_memory_after_the_copy() {
    let device = late();
    let root = sim_with(Arc::clone(&device));
    let array = unfinished(&root, &[1, 2, 3]);

    let exported = array.export().unwrap();
    drop(array);
    drop(exported);

    assert_eq!(root.allocated_memory(), 0);
    assert_eq!(device.hazards(), []);
}

#[test]
fn the_last_offset_is_read_after_the_event() {
    let device = late();
    let (root, other) = (sim_with(Arc::clone(&device)), sim_with(Arc::clone(&device)));
    let offsets = unfinished(&root, &[0, 2, 5]).buffers()[1].clone();
    let array = DeviceArray::builder(schema("u"), root.device())
        .length(2)
        .buffers([None, offsets, buffer(&root, b"abcde")])
        .build()
        .unwrap();

    let back = import(array.export().unwrap(), array.schema(), &other).unwrap();

    assert_eq!(back.buffers()[2].as_ref().map(DeviceBuf::len), Some(5));
    assert_eq!(device.hazards(), []);
}

#[test]
fn events_from_elsewhere_are_refused_where_they_have_no_meaning() {
    let (root, cpu) = (sim(), DeviceRoot::builder().build().unwrap());
    let mut event = Event::done();
    for root in [root, cpu] {
        let released = Count::default();
        let array = ints(&root, &[1]);
        let mut exported = foreign::exported(&array, &released);
        exported.sync_event = std::ptr::from_mut(&mut event).cast();

        let error = import(exported, array.schema(), &root).unwrap_err();

        assert!(
            error.to_string().contains("from elsewhere are unknown"),
            "{error}"
        );
        assert_eq!(released.get(), 1);
    }
}

#[test]
fn the_reserved_bytes_are_zero_and_the_cpu_has_no_event() {
    let cpu = DeviceRoot::builder().build().unwrap();

    let exported = ints(&cpu, &[1]).export().unwrap();

    assert_eq!((exported.device_type, exported.device_id), (1, -1));
    assert_eq!(
        (exported.sync_event, exported.reserved),
        (null_mut(), [0; 3])
    );
}

/// Work that fails.
#[derive(Clone, Debug, Default)]
struct Fails(Arc<AtomicBool>);

impl DeviceEvent for Fails {
    fn is_done(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.0.store(true, Ordering::SeqCst);
        Err(DeviceError::unavailable("the work failed"))
    }
}

#[test]
fn an_array_whose_writer_failed_is_not_one_that_is_written() {
    let (one, other, work) = (sim(), sim(), Fails::default());
    let mut values = one.allocate(4).unwrap();
    values.written_by(Event::new(work.clone()));
    let array = DeviceArray::builder(schema("i"), one.device())
        .length(1)
        .buffers([None, Some(values.freeze())])
        .build()
        .unwrap();

    let exported = array.export().unwrap();
    assert!(work.wait().is_err());
    let back = import(exported, array.schema(), &other).unwrap();

    assert!(back.synchronize().is_err(), "the failure came along");
    assert!(array.synchronize().is_err());
    let error = array.export().map(drop).unwrap_err().to_string();
    assert!(error.contains("the work failed"), "{error}");
}

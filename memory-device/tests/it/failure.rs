//! Work that fails, and events that panic.

use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_device::{
    AnyBuffer, DeviceBuf, DeviceError, DeviceEvent, DeviceRoot, Event, SimDevice, SimOperation,
    Stream,
};

fn tree(sim: &Arc<SimDevice>) -> DeviceRoot {
    DeviceRoot::builder().manager(sim.clone()).build().unwrap()
}

fn late() -> Arc<SimDevice> {
    SimDevice::builder().late(true).build()
}

/// The device's copy, on that stream, of a buffer that is dropped at once.
fn copied(gpu: &DeviceRoot, stream: &Stream) -> DeviceBuf {
    let here = RootAllocator::new(1 << 20)
        .buffer_from_slice(&[7; 1000])
        .unwrap();
    here.copy_to_on(gpu, stream).unwrap()
}

fn assert_failed<T>(result: Result<T, DeviceError>) {
    let Err(error) = result else {
        panic!("the work has failed")
    };
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
}

#[test]
fn a_copy_that_has_failed_already_is_an_error_of_all_that_reads_it() {
    // The copy is over, with its error, before the buffer is frozen.
    let sim = SimDevice::new();
    let (gpu, other) = (tree(&sim), tree(&sim));
    let (host, stream) = (RootAllocator::new(1 << 20), gpu.stream().unwrap());
    sim.fail_nth(SimOperation::Finish, 1);

    let there = copied(&gpu, &stream);
    assert!(there.ready().is_none());
    assert_failed(there.synchronize());
    assert_failed(there.synchronize()); // as often as it is asked
    assert_failed(there.slice(10..20).copy_to(&host));
    assert_failed(there.copy_to(&gpu));
    assert_failed(there.copy_to_on(&gpu, &gpu.stream().unwrap()));
    assert!(std::io::read_to_string(there.reader()).is_err());
    let view = there.view_on(&other).unwrap().unwrap();
    assert_failed(view.synchronize());
    assert_eq!((gpu.allocated_memory(), sim.hazards()), (1024, vec![]));
}

#[test]
fn a_copy_that_fails_is_an_error_of_the_copy_that_another_stream_makes_of_it() {
    for source_first in [true, false] {
        let sim = late();
        let gpu = tree(&sim);
        let (one, two, three) = (
            gpu.stream().unwrap(),
            gpu.stream().unwrap(),
            gpu.stream().unwrap(),
        );
        sim.fail_nth(SimOperation::Finish, 1);

        let source = copied(&gpu, &one);
        let copy = source.copy_to_on(&gpu, &two).unwrap();
        let (first, second) = if source_first {
            (&source, &copy)
        } else {
            (&copy, &source) // the second stream does the work of the first one
        };
        assert_failed(first.synchronize());
        assert_failed(second.synchronize());
        assert_failed(two.synchronize()); // what comes later fails, too
        three.synchronize().unwrap();
        copied(&gpu, &three).synchronize().unwrap();
        assert_eq!(sim.hazards(), []);
    }
}

#[test]
fn a_buffer_that_several_works_write_is_ready_after_all_of_them() {
    let sim = late();
    let gpu = tree(&sim);
    let (one, two) = (gpu.stream().unwrap(), gpu.stream().unwrap());
    let (first, second) = (copied(&gpu, &one), copied(&gpu, &two));
    let mut buffer = gpu.allocate(64).unwrap();

    buffer.written_by(first.ready().unwrap().clone());
    buffer.written_by(second.ready().unwrap().clone());
    buffer.written_by(Event::done()); // takes nothing back
    let buffer = buffer.freeze();
    second.synchronize().unwrap();
    assert!(buffer.ready().is_some());
    let copy = buffer.copy_to_on(&gpu, &two).unwrap();
    copy.synchronize().unwrap();
    assert!(first.ready().is_none() && buffer.ready().is_none());
    buffer.synchronize().unwrap();
}

#[test]
fn a_buffer_of_which_one_write_failed_has_failed() {
    let sim = SimDevice::new();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    sim.fail_nth(SimOperation::Finish, 1);
    drop(copied(&gpu, &stream));
    let failing = stream.record().unwrap();
    let mut buffer = gpu.allocate(64).unwrap();

    buffer.written_by(failing);
    buffer.written_by(gpu.stream().unwrap().record().unwrap()); // succeeds
    assert_failed(buffer.synchronize());
    assert_failed(buffer.write_at(0, &[1]));
    assert_failed(buffer.freeze().synchronize());
}

#[test]
fn an_allocation_on_a_stream_is_not_forgotten_for_an_event_that_is_done() {
    let sim = late();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let mut buffer = gpu.allocate_on(64, &stream).unwrap();

    buffer.written_by(Event::done());
    let buffer = buffer.freeze();
    assert!(buffer.ready().is_some());
    buffer.synchronize().unwrap();
    assert!(buffer.ready().is_none());
}

/// Work of which nobody knows whether it is over.
#[derive(Debug)]
struct Panics;

impl DeviceEvent for Panics {
    fn is_done(&self) -> bool {
        panic!("by the test")
    }

    fn wait(&self) -> Result<(), DeviceError> {
        panic!("by the test")
    }
}

#[test]
fn an_event_that_panics_loses_no_other_one_and_its_block_is_not_freed() {
    let sim = late();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let source = gpu.allocate(64).unwrap().freeze();

    source.used_until(&Event::new(Panics));
    let copy = source.copy_to_on(&gpu, &stream).unwrap();
    source.used_until(&Event::new(Panics));
    drop(source);
    copy.synchronize().unwrap();
    assert_eq!(sim.hazards(), []);
    assert_eq!((gpu.allocated_memory(), sim.used_bytes()), (64, 128));
}

#[test]
fn a_stream_that_waits_for_an_event_that_panics_fails() {
    let sim = late();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();

    stream.wait_for(&Event::new(Panics)).unwrap();
    let there = copied(&gpu, &stream);
    assert_failed(there.synchronize());
    drop(there);
    assert_eq!((gpu.allocated_memory(), sim.used_bytes()), (0, 0));
}

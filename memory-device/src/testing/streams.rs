//! Work that is not done when a call returns.

use std::sync::Arc;

use super::{host, pattern, tree};
use crate::any::AnyBuffer;
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::{DeviceStream, Event, Stream};
use crate::manager::DeviceManager;
use crate::sim::SimDevice;

/// A copy on a stream has its bytes once its event is done, and everything that reads them waits for that.
///
/// # Panics
///
/// If the bytes are others.
pub fn a_copy_on_a_stream_is_there_once_it_is_ready(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let stream = root.stream().expect("the device has streams");
    let bytes = pattern(100_000, 10);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let there = here.copy_to_on(&root, &stream).expect("there is no limit");
    drop(here); // the copy keeps it
    let back = there.copy_to(&host).expect("there is no limit");
    assert!(back.as_slice() == bytes);
    assert!(there.ready().is_none());
    there.synchronize().expect("the copy is done");
    drop(back);
    assert_eq!(host.allocated_memory(), 0);
}

/// What is given to a stream begins after what it was given before.
///
/// # Panics
///
/// If it does not.
pub fn work_on_a_stream_is_in_order(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let stream = root.stream().expect("the device has streams");
    let bytes = pattern(10_000, 11);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let first = here.copy_to_on(&root, &stream).expect("there is no limit");
    let second = first.copy_to_on(&root, &stream).expect("there is no limit");
    let third = second
        .slice(100..)
        .copy_to_on(&root, &stream)
        .expect("there is no limit");
    drop((first, second)); // the copies keep their blocks
    stream.synchronize().expect("the copies succeed");
    assert!(third.ready().is_none());
    let last = here.copy_to_on(&root, &stream).expect("there is no limit");
    let back = third.copy_to_on(&host, &stream).expect("there is no limit");
    assert!(last.ready().is_none()); // it came before
    drop(last);
    assert!(back.as_slice() == &bytes[100..]);
    drop(third);
    assert_eq!(root.allocated_memory(), 0);
}

/// A stream that waits for an event does its later work after that.
///
/// # Panics
///
/// If it does not.
pub fn a_stream_waits_for_the_event_of_another_one(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let one = root.stream().expect("the device has streams");
    let two = root.stream().expect("the device has streams");
    let here = host
        .buffer_from_slice(&pattern(5000, 12))
        .expect("there is no limit");

    let _there = here.copy_to_on(&root, &one).expect("there is no limit");
    let copied = one.record().expect("the device records");
    two.wait_for(&copied).expect("the device waits");
    two.synchronize().expect("the copies succeed");
    assert!(copied.is_done());
}

/// A copy on a stream that reads what another stream writes waits for that.
///
/// # Panics
///
/// If it does not.
pub fn what_is_read_on_another_stream_is_waited_for(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let one = root.stream().expect("the device has streams");
    let two = root.stream().expect("the device has streams");
    let bytes = pattern(5000, 13);
    let here = host.buffer_from_slice(&bytes).expect("there is no limit");

    let first = here.copy_to_on(&root, &one).expect("there is no limit");
    let second = first.copy_to_on(&root, &two).expect("there is no limit");
    let back = second.copy_to(&host).expect("there is no limit");
    assert!(back.as_slice() == bytes);
}

/// A stream of another device is refused, and so is one that only names this device; and nothing stays charged.
///
/// # Panics
///
/// If it is accepted.
pub fn a_stream_of_another_device_is_refused(manager: &Arc<dyn DeviceManager>) {
    let (host, root) = (host(), tree(manager));
    let other = SimDevice::builder().id(78).build();
    let stream = other.stream().expect("it has streams");
    let pretender = Stream::new(Pretender(manager.device()));
    let here = host
        .buffer_from_slice(&[1; 100])
        .expect("there is no limit");

    for refused in [
        root.allocate_on(100, &stream).map(drop),
        here.copy_to_on(&root, &stream).map(drop),
        root.allocate_on(100, &pretender).map(drop),
        here.copy_to_on(&root, &pretender).map(drop),
    ] {
        let error = refused.expect_err("it is a stream of another device");
        assert!(matches!(error, DeviceError::WrongDevice { .. }), "{error}");
    }
    assert_eq!(root.allocated_memory(), 0);
}

/// A stream that safe code makes, for a device that does not know it.
#[derive(Debug)]
struct Pretender(Device);

impl DeviceStream for Pretender {
    fn device(&self) -> Device {
        self.0
    }

    fn wait_for(&self, _event: &Event) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(&self) -> Result<Event, DeviceError> {
        Ok(Event::done())
    }
}

/// A buffer that is dropped while a copy uses it gives its memory and the copy's source back.
///
/// # Panics
///
/// If anything stays charged.
pub fn a_buffer_that_is_dropped_while_it_is_copied_gives_everything_back(
    manager: &Arc<dyn DeviceManager>,
) {
    let (host, root) = (host(), tree(manager));
    let stream = root.stream().expect("the device has streams");

    for _ in 0..10 {
        let here = host
            .buffer_from_slice(&pattern(10_000, 14))
            .expect("there is no limit");
        let there = here.copy_to_on(&root, &stream).expect("there is no limit");
        let other = there.copy_to_on(&root, &stream).expect("there is no limit");
        drop((here, there, other));
    }
    stream.synchronize().expect("the copies succeed");
    assert_eq!((host.allocated_memory(), root.allocated_memory()), (0, 0));
    root.close().expect("nothing is outstanding");
}

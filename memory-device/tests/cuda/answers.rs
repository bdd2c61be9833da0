//! A driver that from some time on answers each question about streams and events with a code.
//!
//! The time comes with the fourth stream: `begin` makes it. The manager has two, and each test one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::RootAllocator;
use arrow_memory_device::cuda::CudaManager;
use arrow_memory_device::{AnyBuffer, DeviceBuf, DeviceManager, DeviceRoot, Event, Stream};

/// What a test begins with.
struct Setup {
    manager: Arc<CudaManager>,
    device: DeviceRoot,
    host: RootAllocator,
    /// A buffer that is being copied, from a buffer of `host` that nobody else has.
    copied: DeviceBuf,
    event: Event,
    /// Work that was seen to be done.
    before: Event,
    stream: Stream,
}

fn setup() -> Setup {
    let manager = CudaManager::new(0).unwrap();
    let device = DeviceRoot::builder().manager(Arc::clone(&manager) as Arc<_>);
    let (device, host) = (device.build().unwrap(), RootAllocator::new(1 << 20));
    let stream = device.stream().unwrap();
    let before = stream.record().unwrap();
    before.wait().unwrap();
    let source = host.buffer_from_slice(&[1; 100]).unwrap();
    let copied = source.copy_to_on(&device.to_allocator(), &stream).unwrap();
    drop(source);
    let event = copied.ready().expect("the stand-in is late").clone();
    assert!(host.allocated_memory() > 0);
    Setup {
        manager,
        device,
        host,
        copied,
        event,
        before,
        stream,
    }
}

/// From now on, the driver has one answer only.
fn begin(setup: &Setup) -> Option<Stream> {
    setup.device.stream().ok()
}

/// Drops what uses the unfinished copy, and returns what stays charged on the host and the device, and how long that took.
fn drop_copy(setup: Setup) -> (usize, usize, Duration) {
    let Setup {
        device,
        host,
        copied,
        event,
        ..
    } = setup;
    let start = Instant::now();
    drop((copied, event));
    let took = start.elapsed();
    (host.allocated_memory(), device.allocated_memory(), took)
}

/// The work fails: an error, each time the same, and nothing hangs.
pub(crate) fn the_work_fails() {
    let setup = setup();
    let _stream = begin(&setup);

    let errors = [(); 2].map(|()| format!("{:#}", setup.event.wait().unwrap_err()));

    assert!(errors[0].contains("waiting for an event"), "{}", errors[0]);
    assert_eq!(errors[0], errors[1]);
    assert!(setup.event.is_done());
    assert!(setup.copied.copy_to(&setup.host).is_err());
    // Without pools, the stand-in allocates at once, and nothing is waited for.
    let allocates = std::env::var("FAKE_CUDA_POOLS").is_ok();
    assert_eq!(setup.device.allocate(64).is_ok(), allocates);
    assert!(setup.stream.record().is_err());
    // What has succeeded has not failed since.
    assert!(setup.before.wait().is_ok() && setup.before.is_done());
    let (host, device, _) = drop_copy(setup);
    assert_eq!((host, device), (0, 0));
}

/// The driver or the context is gone: all work is over, also for who does not wait.
pub(crate) fn the_context_is_gone() {
    let setup = setup();
    let _stream = begin(&setup);

    assert!(setup.event.is_done());
    assert_eq!(setup.host.allocated_memory(), 0, "the copy reads nothing");
    let errors = [(); 2].map(|()| format!("{:#}", setup.event.wait().unwrap_err()));
    assert_eq!(errors[0], errors[1]);
    assert!(setup.before.wait().is_ok());
    let (host, device, _) = drop_copy(setup);
    assert_eq!((host, device), (0, 0));
}

/// As in a process that was forked: nobody asks before the drop, and that ends.
pub(crate) fn the_driver_is_not_initialised() {
    let setup = setup();
    let _stream = begin(&setup);

    let (host, device, took) = drop_copy(setup);

    assert_eq!((host, device), (0, 0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Nothing is known about the work: a drop ends after a while, and leaks what the work uses.
pub(crate) fn nothing_is_known() {
    let setup = setup();
    // The stand-in ends the process if the context is released while a block is left.
    std::mem::forget(Arc::clone(&setup.manager));
    let live = setup.manager.stats().live_bytes;
    let _stream = begin(&setup);

    assert!(!setup.event.is_done() && setup.before.is_done());
    let manager = Arc::clone(&setup.manager);
    let (host, device, took) = drop_copy(setup);

    assert!(host > 0, "the copy may still read it");
    assert_eq!(device, 0);
    assert!(manager.stats().live_bytes < live);
    let (least, most) = (Duration::from_millis(300), Duration::from_secs(10));
    assert!(least <= took && took < most, "{took:?}");
}

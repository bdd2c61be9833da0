//! Device memory that exists already.
#![expect(unsafe_code, reason = "takes in memory of a device")]

use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_core::RootAllocator;
use arrow_memory_device::{
    AnyBuffer, CpuManager, DeviceAddress, DeviceBuf, DeviceError, DeviceEvent, DeviceManager,
    DeviceRoot, Event, SimDevice,
};

const LAYOUT: Layout = match Layout::from_size_align(1000, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

/// Memory of a device that no tree knows, and how often it was released.
struct Theirs {
    sim: Arc<SimDevice>,
    at: DeviceAddress,
    releases: Arc<AtomicUsize>,
}

impl Theirs {
    fn new(late: bool) -> Self {
        let sim = SimDevice::builder().late(late).build();
        let at = sim.allocate(LAYOUT, None).unwrap();
        // SAFETY: a live block of that size, and the copy is done when this returns.
        let copied = unsafe { sim.copy_in(&[7; 1000], at, None) }.unwrap();
        assert!(copied.is_done());
        let releases = Arc::default();
        Self { sim, at, releases }
    }

    fn releases(&self) -> usize {
        // Relaxed: the releases of these tests are on this thread.
        self.releases.load(Ordering::Relaxed)
    }

    fn wrap(&self, root: &DeviceRoot, ready: Option<Event>) -> Result<DeviceBuf, DeviceError> {
        let (sim, at, releases) = (self.sim.clone(), self.at, self.releases.clone());
        let release = move || {
            // SAFETY: the block is released once.
            unsafe { sim.deallocate(at, LAYOUT, &[]) };
            // Relaxed: as above.
            releases.fetch_add(1, Ordering::Relaxed);
        };
        // SAFETY: the block lives until the release, and nothing writes it.
        unsafe { root.wrap_foreign(at, 1000, ready, release) }
    }
}

fn root(theirs: &Theirs, limit: usize) -> DeviceRoot {
    let root = DeviceRoot::builder().limit(limit);
    root.manager(theirs.sim.clone()).build().unwrap()
}

#[test]
fn foreign_memory_is_charged_at_its_size_and_released_once() {
    let theirs = Theirs::new(false);
    let root = root(&theirs, 1000);

    let buffer = theirs.wrap(&root, None).unwrap();
    assert_eq!(
        (buffer.address(), buffer.capacity()),
        (theirs.at.get(), 1000)
    );
    assert_eq!(
        (root.allocated_memory(), root.stats().foreign_bytes),
        (1000, 1000)
    );
    let slice = buffer.slice(990..);
    drop(buffer);
    assert_eq!((root.allocated_memory(), theirs.releases()), (1000, 0));
    let host = RootAllocator::new(1 << 20);
    assert_eq!(slice.copy_to(&host).unwrap().as_slice(), [7; 10]);
    drop(slice);
    assert_eq!((root.allocated_memory(), theirs.releases()), (0, 1));
    assert_eq!(theirs.sim.used_bytes(), 0);
}

#[test]
fn foreign_memory_that_is_refused_is_released() {
    let theirs = Theirs::new(false);
    let root = root(&theirs, 999);

    let refused = theirs.wrap(&root, None).unwrap_err();
    assert!(refused.is_out_of_memory(), "{refused}");
    assert!(
        refused.to_string().contains("1000 bytes requested"),
        "{refused}"
    );
    assert_eq!((root.allocated_memory(), theirs.releases()), (0, 1));
}

#[test]
fn foreign_memory_is_read_after_its_event() {
    let theirs = Theirs::new(true);
    let root = root(&theirs, 1000);
    let stream = theirs.sim.stream().unwrap();
    let bytes = [9; 1000];
    // SAFETY: a live block of that size; the bytes stay until the event is done, for which this test waits.
    let written = unsafe { theirs.sim.copy_in(&bytes, theirs.at, Some(&stream)) }.unwrap();

    let buffer = theirs.wrap(&root, Some(written)).unwrap();
    assert!(buffer.ready().is_some());
    let host = RootAllocator::new(1 << 20);
    assert_eq!(buffer.copy_to(&host).unwrap().as_slice(), bytes);
    assert!(buffer.ready().is_none());
    assert_eq!(theirs.sim.hazards(), []);
}

#[test]
fn foreign_memory_is_released_after_the_work_that_uses_it() {
    let theirs = Theirs::new(true);
    let root = root(&theirs, 10_000);
    let stream = theirs.sim.stream().unwrap();

    let buffer = theirs.wrap(&root, None).unwrap();
    let copy = buffer.copy_to_on(&root, &stream).unwrap();
    drop(buffer); // waits for the copy
    assert_eq!(theirs.releases(), 1);
    assert!(copy.ready().is_none());
    let host = RootAllocator::new(1 << 20);
    assert_eq!(copy.copy_to(&host).unwrap().as_slice(), [7; 1000]);
    assert_eq!(theirs.sim.hazards(), []);
}

/// Begins to write memory of a late device; the event, and the bytes that are to stay until it is done.
fn begin_to_write(theirs: &Theirs) -> (Event, &'static [u8]) {
    let bytes: &'static [u8] = &[9; 1000];
    let stream = theirs.sim.stream().unwrap();
    // SAFETY: a live block of that size, which stays until the event is done; the bytes are constant.
    let written = unsafe { theirs.sim.copy_in(bytes, theirs.at, Some(&stream)) }.unwrap();
    (written, bytes)
}

#[test]
fn foreign_memory_is_released_after_the_work_that_writes_it() {
    // The release of dropped memory once was called while the work of `ready` still wrote it.
    let theirs = Theirs::new(true);
    let root = root(&theirs, 1000);
    let (written, _) = begin_to_write(&theirs);

    drop(theirs.wrap(&root, Some(written.clone())).unwrap());
    assert!(written.is_done());
    assert_eq!((theirs.releases(), theirs.sim.hazards()), (1, vec![]));
}

#[test]
fn foreign_memory_that_is_refused_is_released_after_the_work_that_writes_it() {
    let theirs = Theirs::new(true);
    let root = root(&theirs, 999);
    let (written, _) = begin_to_write(&theirs);

    assert!(theirs.wrap(&root, Some(written.clone())).is_err());
    assert!(written.is_done());
    assert_eq!((theirs.releases(), theirs.sim.hazards()), (1, vec![]));
}

#[test]
fn foreign_memory_of_no_bytes_or_too_many_is_released_after_its_work() {
    for bytes in [0, usize::MAX] {
        let theirs = Theirs::new(true);
        let root = root(&theirs, 1000);
        let (written, _) = begin_to_write(&theirs);
        let (event, released) = (written.clone(), Arc::new(AtomicUsize::new(0)));
        let count = released.clone();
        let release = move || {
            assert!(event.is_done());
            // Relaxed: all is on this thread.
            count.fetch_add(1, Ordering::Relaxed);
        };

        // SAFETY: no byte is used: there are none, or the size is refused.
        let wrapped = unsafe { root.wrap_foreign(theirs.at, bytes, Some(written), release) };
        assert_eq!(wrapped.is_ok(), bytes == 0);
        assert_eq!(released.load(Ordering::Relaxed), 1);
    }
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

/// These leak on purpose.
mod leaks {
    use super::{Event, Panics, Theirs, root};

    #[test]
    fn foreign_memory_that_may_be_in_use_is_not_released() {
        let theirs = Theirs::new(false);
        let root = root(&theirs, 1000);

        drop(theirs.wrap(&root, Some(Event::new(Panics))).unwrap());
        let buffer = theirs.wrap(&root, None).unwrap();
        buffer.used_until(&Event::new(Panics));
        drop(buffer);
        assert_eq!((root.allocated_memory(), theirs.releases()), (0, 0));
    }
}

#[test]
fn a_block_of_the_cpu_that_may_be_in_use_is_not_freed() {
    let cpu = CpuManager::new().unwrap();
    let at = cpu.allocate(LAYOUT, None).unwrap();

    // SAFETY: a live block of that layout, which the manager leaks, since the event panics.
    unsafe { cpu.deallocate(at, LAYOUT, &[Event::new(Panics)]) };
    // SAFETY: the block still lives.
    let written = unsafe { cpu.copy_in(&[1; 1000], at, None) }.unwrap();
    assert!(written.is_done());
    // SAFETY: as above; it is freed once.
    unsafe { cpu.deallocate(at, LAYOUT, &[]) };
}

/// Work that is done once it was waited for.
#[derive(Debug, Default)]
struct OnDemand(Arc<AtomicUsize>);

impl DeviceEvent for OnDemand {
    fn is_done(&self) -> bool {
        // Relaxed: all is on this thread.
        self.0.load(Ordering::Relaxed) > 0
    }

    fn wait(&self) -> Result<(), DeviceError> {
        // Relaxed: all is on this thread.
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_view_on_the_host_waits_for_the_work_that_writes_the_bytes() {
    let cpu = DeviceRoot::builder().build().unwrap();
    let host = RootAllocator::new(1 << 20);
    let bytes: &'static [u8] = &[7; 100];
    let at = DeviceAddress::new(bytes.as_ptr().expose_provenance() as u64).unwrap();
    let waits = Arc::<AtomicUsize>::default();
    let ready = Event::new(OnDemand(waits.clone()));
    // SAFETY: the bytes are constant: no thread writes or frees them.
    let buffer = unsafe { cpu.wrap_foreign(at, 100, Some(ready), || {}) }.unwrap();

    let on_cpu = DeviceRoot::builder().build().unwrap();
    let passed_on = buffer.view_on(&on_cpu).unwrap().unwrap();
    assert!(buffer.ready().is_some() && passed_on.ready().is_some());
    let view = passed_on.view_on(&host).unwrap().unwrap();
    assert_eq!((view.as_slice(), waits.load(Ordering::Relaxed)), (bytes, 1));
    assert!(buffer.ready().is_none());
}

#[test]
fn a_release_that_panics_is_caught() {
    let theirs = Theirs::new(false);
    let root = root(&theirs, 1000);
    // SAFETY: the block lives longer than the test's buffer, and nothing writes it.
    let buffer = unsafe { root.wrap_foreign(theirs.at, 1000, None, || panic!("by the test")) };

    drop(buffer.unwrap());
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn foreign_memory_of_no_bytes_is_released_at_once() {
    let theirs = Theirs::new(false);
    let root = root(&theirs, 1000);
    let released = Arc::new(AtomicUsize::new(0));
    let count = released.clone();
    // SAFETY: no byte is used. (Relaxed: all is on this thread.)
    let buffer = unsafe {
        root.wrap_foreign(theirs.at, 0, None, move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    };

    assert!(buffer.unwrap().is_empty());
    assert_eq!(
        (released.load(Ordering::Relaxed), root.allocated_memory()),
        (1, 0)
    );
}

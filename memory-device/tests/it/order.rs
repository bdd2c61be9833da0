//! The order of charges, blocks and events, seen by a manager; and what debug mode knows.
#![expect(unsafe_code, reason = "implements a manager around another one")]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::{RootAllocator, WeakBufferAllocator};
use arrow_memory_device::{
    AnyBuffer, Device, DeviceAddress, DeviceError, DeviceManager, DeviceRoot, Event, SimDevice,
    Stream,
};

/// A simulated device that notes what its tree was charged whenever it was called.
#[derive(Debug)]
struct Spy {
    sim: Arc<SimDevice>,
    tree: OnceLock<WeakBufferAllocator>,
    seen: Mutex<Vec<(&'static str, usize)>>,
}

impl Spy {
    fn tree() -> (Arc<Self>, DeviceRoot) {
        let spy = Arc::new(Self {
            sim: SimDevice::builder().late(true).build(),
            tree: OnceLock::new(),
            seen: Mutex::default(),
        });
        let root = DeviceRoot::builder().manager(spy.clone());
        let root = root.options(|root| root.debug(true)).build().unwrap();
        spy.tree.set(root.accounting().downgrade()).unwrap();
        (spy, root)
    }

    /// Notes a call. The tree answers, so none of its locks is held.
    fn note(&self, call: &'static str) {
        let charged = self.tree.get().and_then(WeakBufferAllocator::upgrade);
        let charged = charged.map_or(0, |tree| tree.allocated_memory());
        self.seen.lock().unwrap().push((call, charged));
    }

    fn take(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

// SAFETY: everything is the simulated device's.
unsafe impl DeviceManager for Spy {
    fn device(&self) -> Device {
        self.sim.device()
    }

    fn name(&self) -> &str {
        "spy"
    }

    fn allocate(&self, layout: Layout, on: Option<&Stream>) -> Result<DeviceAddress, DeviceError> {
        self.note("allocate");
        self.sim.allocate(layout, on)
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        let waits = after.iter().any(|event| !event.is_done());
        self.note(if waits {
            "deallocate after"
        } else {
            "deallocate"
        });
        // SAFETY: the caller's promise.
        unsafe { self.sim.deallocate(at, layout, after) };
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.note("copy in");
        // SAFETY: the caller's promise.
        unsafe { self.sim.copy_in(from, to, stream) }
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.note("copy out");
        // SAFETY: the caller's promise.
        unsafe { self.sim.copy_out(from, to, stream) }
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.note("copy within");
        // SAFETY: the caller's promise.
        unsafe { self.sim.copy_within(from, to, len, stream) }
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        self.sim.stream()
    }
}

#[test]
fn a_block_is_charged_before_it_is_allocated_and_given_back_after_it_was_freed() {
    let (spy, root) = Spy::tree();

    drop(root.allocate(100).unwrap());
    assert_eq!(spy.take(), [("allocate", 128), ("deallocate", 128)]);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_block_that_the_device_refuses_was_charged_and_is_not_freed() {
    let (spy, root) = Spy::tree();
    spy.sim
        .fail_nth(arrow_memory_device::SimOperation::Allocate, 1);

    assert!(root.allocate(100).is_err());
    assert_eq!(spy.take(), [("allocate", 128)]);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_request_that_a_limit_refuses_does_not_reach_the_device() {
    let (spy, root) = Spy::tree();
    root.set_limit(127);

    assert!(root.allocate(100).is_err());
    assert_eq!(spy.take(), []);
}

#[test]
fn a_source_is_given_back_with_the_event_of_the_copy_that_reads_it() {
    let (spy, root) = Spy::tree();
    let stream = root.stream().unwrap();
    let source = root.allocate(100).unwrap().freeze();
    let copy = source.copy_to_on(&root, &stream).unwrap();
    spy.take();

    drop(source);
    assert_eq!(spy.take(), [("deallocate after", 256)]);
    copy.synchronize().unwrap();
    drop(copy);
    assert_eq!(spy.take(), [("deallocate", 128)]);
    assert_eq!(spy.sim.hazards(), []);
}

#[test]
fn a_target_that_is_dropped_is_given_back_with_the_event_of_its_copy() {
    let (spy, root) = Spy::tree();
    let stream = root.stream().unwrap();
    let source = root.allocate(100).unwrap().freeze();
    let copy = source.copy_to_on(&root, &stream).unwrap();
    spy.take();

    drop(copy);
    assert_eq!(spy.take(), [("deallocate after", 256)]);
    drop(source);
    stream.synchronize().unwrap();
    assert_eq!((spy.sim.hazards(), spy.sim.used_bytes()), (vec![], 0));
}

#[test]
fn a_block_that_a_stream_allocates_is_used_elsewhere_after_the_stream() {
    let (spy, root) = Spy::tree();
    let stream = root.stream().unwrap();
    let (source, mut target) = (
        root.allocate(64).unwrap().freeze(),
        root.allocate_on(64, &stream).unwrap(),
    );
    let copy = source.copy_to_on(&root, &stream).unwrap(); // later work of the stream is not waited for

    target.write_at(0, &[1; 64]).unwrap();
    assert!(copy.ready().is_some());
    let frozen = root.allocate_on(64, &stream).unwrap().freeze();
    assert!(frozen.ready().is_some());
    frozen.synchronize().unwrap();
    assert!(copy.ready().is_none()); // the allocation came after the copy
    drop((source, target, copy, frozen));
    assert_eq!((spy.sim.hazards(), spy.sim.used_bytes()), (vec![], 0));
}

#[test]
fn a_kernel_keeps_what_it_reads_and_writes() {
    let (spy, root) = Spy::tree();
    let stream = root.stream().unwrap();
    let (input, mut output) = (
        root.allocate(64).unwrap().freeze(),
        root.allocate(64).unwrap(),
    );
    let (from, to) = (
        DeviceAddress::new(input.address()),
        DeviceAddress::new(output.address()),
    );
    // SAFETY: as a kernel would: the event is noted with both, which keeps them.
    let done = unsafe { spy.copy_within(from.unwrap(), to.unwrap(), 64, Some(&stream)) }.unwrap();
    input.used_until(&done);
    output.written_by(done.clone());
    let output = output.freeze();
    spy.take();

    assert!(output.ready().is_some());
    drop((input, output));
    assert_eq!(
        spy.take(),
        [("deallocate after", 128), ("deallocate after", 64)]
    );
    assert!(!done.is_done());
    stream.synchronize().unwrap();
    assert!(done.is_done());
    assert_eq!((spy.sim.hazards(), spy.sim.used_bytes()), (vec![], 0));
}

#[test]
fn what_the_host_writes_comes_after_earlier_work_on_the_buffer() {
    let (spy, root) = Spy::tree();
    let stream = root.stream().unwrap();
    let input = root.allocate(64).unwrap().freeze();
    let mut output = root.allocate(64).unwrap();
    let (from, to) = (input.address(), output.address());
    let (from, to) = (
        DeviceAddress::new(from).unwrap(),
        DeviceAddress::new(to).unwrap(),
    );
    // SAFETY: as a kernel would: the event is noted with both, which keeps them.
    let done = unsafe { spy.copy_within(from, to, 64, Some(&stream)) }.unwrap();
    input.used_until(&done);
    output.written_by(done);

    output.write_at(0, &[7; 32]).unwrap();
    let mut bytes = [0; 64];
    output.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes[..32], [7; 32]);
    assert_eq!(bytes[32..], [SimDevice::POISON; 32]); // what the input contained
    assert_eq!(spy.sim.hazards(), []);
}

#[test]
fn a_view_from_another_tree_leaves_its_uses_to_the_source() {
    let sim = SimDevice::builder().late(true).build();
    let tree = || DeviceRoot::builder().manager(sim.clone()).build().unwrap();
    let (one, two) = (tree(), tree());
    let stream = two.stream().unwrap();
    let source = one.allocate(64).unwrap().freeze();
    let view = source.view_on(&two).unwrap().unwrap();

    let copy = view.copy_to_on(&two, &stream).unwrap();
    drop((source, view)); // does not wait
    assert!(copy.ready().is_some());
    assert_eq!((one.allocated_memory(), sim.used_bytes()), (0, 128));
    copy.synchronize().unwrap();
    assert_eq!((sim.used_bytes(), sim.hazards()), (64, vec![]));
}

#[test]
fn a_leak_on_the_device_is_reported_with_the_line_that_made_it() {
    let (_spy, root) = Spy::tree();
    let query = root.child("query").build().unwrap();
    let leak = query.allocate(100).unwrap().freeze();

    let report = format!("{:#}", query.close().unwrap_err());
    assert!(
        report.contains("query") && report.contains("128"),
        "{report}"
    );
    assert!(report.contains("order.rs"), "{report}");
    drop(leak);
    query.close().unwrap();
}

#[test]
fn a_host_source_is_kept_until_the_copy_that_reads_it_is_done() {
    let sim = SimDevice::builder().late(true).build();
    let gpu = DeviceRoot::builder().manager(sim.clone()).build().unwrap();
    let (host, stream) = (RootAllocator::new(1 << 20), gpu.stream().unwrap());
    let here = host.buffer_from_slice(&[7; 100]).unwrap();

    let there = here.copy_to_on(&gpu, &stream).unwrap();
    drop(here);
    assert_eq!(host.allocated_memory(), 128);
    there.synchronize().unwrap();
    assert_eq!(host.allocated_memory(), 0);
    let back = there.copy_to(&host).unwrap();
    assert_eq!(back.as_slice(), [7; 100]);
}

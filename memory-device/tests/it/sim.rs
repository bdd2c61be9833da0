//! What the simulated device finds: forgotten synchronisation, wrong order, failures.
#![expect(
    unsafe_code,
    reason = "uses a manager as a kernel would, with its mistakes"
)]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBuf, RootAllocator};
use arrow_memory_device::{
    AnyBuffer, DeviceAddress, DeviceBuf, DeviceError, DeviceManager, DeviceRoot, Hazard, SimDevice,
    SimOperation,
};

fn tree(sim: &Arc<SimDevice>) -> DeviceRoot {
    DeviceRoot::builder().manager(sim.clone()).build().unwrap()
}

fn host() -> RootAllocator {
    RootAllocator::new(1 << 30)
}

fn late() -> Arc<SimDevice> {
    SimDevice::builder().late(true).build()
}

/// Reads a buffer by its address, without waiting for what writes it: the mistake that a kernel can make.
fn read_at_once(sim: &SimDevice, buffer: &DeviceBuf) -> Vec<u8> {
    let mut bytes = vec![MaybeUninit::new(0); buffer.len()];
    let from = DeviceAddress::new(buffer.address()).unwrap();
    // SAFETY: the buffer lives. That it may be written meanwhile is what the test is about, and this device does one
    // after the other.
    let copied = unsafe { sim.copy_out(from, &mut bytes, None) }.unwrap();
    copied.wait().unwrap();
    // SAFETY: the copy has initialised all of it.
    bytes
        .into_iter()
        .map(|byte| unsafe { byte.assume_init() })
        .collect()
}

fn copied_late(gpu: &DeviceRoot, bytes: &[u8]) -> (ArrowBuf, DeviceBuf) {
    let here = host().buffer_from_slice(bytes).unwrap();
    let stream = gpu.stream().unwrap();
    let there = here.copy_to_on(gpu, &stream).unwrap();
    (here, there)
}

#[test]
fn a_forgotten_synchronisation_reads_poison_and_is_recorded() {
    let sim = late();
    let (_here, there) = copied_late(&tree(&sim), &[7; 100]);

    assert_eq!(read_at_once(&sim, &there), [SimDevice::POISON; 100]);
    let hazards = sim.hazards();
    assert!(
        matches!(hazards[..], [Hazard::ReadTooEarly { at, len: 100, .. }] if at == there.address()),
        "{hazards:?}"
    );
    there.synchronize().unwrap();
    assert_eq!(read_at_once(&sim, &there), [7; 100]);
    assert_eq!(sim.hazards(), []);
}

#[test]
fn a_stream_that_does_not_wait_for_another_one_reads_poison() {
    let sim = late();
    let gpu = tree(&sim);
    let (_here, there) = copied_late(&gpu, &[7; 128]);
    let other = gpu.stream().unwrap();
    let target = gpu.allocate(128).unwrap();
    let (from, to) = (there.address(), target.address());
    let (from, to) = (
        DeviceAddress::new(from).unwrap(),
        DeviceAddress::new(to).unwrap(),
    );

    // SAFETY: both buffers live until the copy is done; it is not ordered after the first one, which is the mistake.
    let copied = unsafe { sim.copy_within(from, to, 128, Some(&other)) }.unwrap();
    copied.wait().unwrap();
    assert!(matches!(sim.hazards()[..], [Hazard::ReadTooEarly { .. }]));
    let mut bytes = [0; 128];
    target.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [SimDevice::POISON; 128]);

    other.wait_for(there.ready().unwrap()).unwrap(); // as it should be
    // SAFETY: as above, and in order.
    let copied = unsafe { sim.copy_within(from, to, 128, Some(&other)) }.unwrap();
    copied.wait().unwrap();
    target.read_at(0, &mut bytes).unwrap();
    assert_eq!((bytes, sim.hazards()), ([7; 128], vec![]));
}

#[test]
fn memory_that_is_written_while_a_copy_reads_it_is_recorded() {
    let sim = late();
    let gpu = tree(&sim);
    let source = gpu.allocate(64).unwrap().freeze();
    let stream = gpu.stream().unwrap();
    let copy = source.copy_to_on(&gpu, &stream).unwrap();

    let at = DeviceAddress::new(source.address()).unwrap();
    // SAFETY: the buffer lives; that a copy still reads it is the mistake.
    let written = unsafe { sim.copy_in(&[1; 64], at, None) }.unwrap();
    assert!(written.is_done());
    assert!(matches!(
        sim.hazards()[..],
        [Hazard::WrittenTooEarly { len: 64, .. }]
    ));
    copy.synchronize().unwrap();
}

#[test]
fn a_block_that_is_freed_without_the_event_of_a_copy_is_recorded() {
    let sim = late();
    let layout = Layout::from_size_align(64, 64).unwrap();
    let stream = sim.stream().unwrap();
    let at = sim.allocate(layout, None).unwrap();
    let bytes = [1; 64];
    // SAFETY: the block lives until the copy is done, since the device keeps it; the bytes do, too.
    let copied = unsafe { sim.copy_in(&bytes, at, Some(&stream)) }.unwrap();

    // SAFETY: a live block; that the event is missing is the mistake.
    unsafe { sim.deallocate(at, layout, &[]) };
    assert!(matches!(sim.hazards()[..], [Hazard::FreedTooEarly { .. }]));
    assert_eq!(sim.used_bytes(), 64); // the memory stays until the copy is over
    copied.wait().unwrap();
    assert_eq!(sim.used_bytes(), 0);
}

#[test]
fn a_block_that_is_freed_while_a_copy_uses_it_stays_until_the_copy_is_over() {
    let sim = late();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let source = gpu.allocate(64).unwrap().freeze();
    let copy = source.copy_to_on(&gpu, &stream).unwrap();

    drop(source);
    assert_eq!((gpu.allocated_memory(), sim.used_bytes()), (64, 128));
    copy.synchronize().unwrap();
    assert_eq!((gpu.allocated_memory(), sim.used_bytes()), (64, 64));
    assert_eq!(sim.hazards(), []);
}

#[test]
fn addresses_of_no_live_block_are_refused_and_recorded() {
    let sim = SimDevice::new();
    let layout = Layout::from_size_align(64, 64).unwrap();
    let at = sim.allocate(layout, None).unwrap();
    let beyond = at.checked_add(1).unwrap();

    // SAFETY: the device checks what it is given.
    assert!(unsafe { sim.copy_in(&[1; 64], beyond, None) }.is_err());
    // SAFETY: a live block.
    unsafe { sim.deallocate(at, layout, &[]) };
    // SAFETY: the device checks what it is given.
    assert!(unsafe { sim.copy_in(&[1; 64], at, None) }.is_err());
    // SAFETY: as above.
    unsafe { sim.deallocate(at, layout, &[]) };
    let hazards = sim.hazards();
    assert_eq!(hazards.len(), 3);
    assert!(
        hazards
            .iter()
            .all(|hazard| matches!(hazard, Hazard::NoBlock { len: 64, .. }))
    );
}

#[test]
fn unwritten_memory_is_poison() {
    let sim = SimDevice::new();
    let buffer = tree(&sim).allocate(100).unwrap().freeze();

    let read = buffer.copy_to(&host()).unwrap();
    assert_eq!(read.as_slice(), [SimDevice::POISON; 100]);
    assert_eq!(sim.hazards(), []);
}

#[test]
fn host_memory_is_poison_until_a_copy_to_it_is_done() {
    let sim = late();
    let gpu = tree(&sim);
    let mut buffer = gpu.allocate(64).unwrap();
    buffer.write_at(0, &[7; 64]).unwrap();
    let stream = gpu.stream().unwrap();
    let mut bytes = [MaybeUninit::new(0); 64];
    let from = DeviceAddress::new(buffer.address()).unwrap();
    // SAFETY: the buffer and the bytes live until the copy is done, and nothing else uses them.
    let copied = unsafe { sim.copy_out(from, &mut bytes, Some(&stream)) }.unwrap();

    assert!(!copied.is_done());
    stream.synchronize().unwrap();
    assert!(copied.is_done());
    // SAFETY: the copy has initialised all of it.
    assert!(bytes.iter().all(|byte| unsafe { byte.assume_init() } == 7));
}

#[test]
fn a_copy_takes_its_latency() {
    let latency = Duration::from_millis(30);
    let sim = SimDevice::builder().latency(latency).build();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let here = host().buffer_from_slice(&[1; 64]).unwrap();
    let begun = Instant::now();

    let there = here.copy_to_on(&gpu, &stream).unwrap();
    let ready = there.ready().is_some();
    assert!(ready || begun.elapsed() >= latency);
    there.synchronize().unwrap();
    assert!(begun.elapsed() >= latency);
    let begun = Instant::now();
    here.copy_to(&gpu).unwrap();
    assert!(begun.elapsed() >= latency);
}

#[test]
fn a_latency_beyond_the_end_of_all_clocks_is_one() {
    /// The drop of the device would wait for the copy.
    static KEPT: OnceLock<Arc<SimDevice>> = OnceLock::new();
    let sim = SimDevice::builder().latency(Duration::MAX).build();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let source = gpu.allocate(64).unwrap().freeze();

    let there = source.copy_to_on(&gpu, &stream).unwrap();
    assert!(there.ready().is_some());
    KEPT.set(sim).unwrap();
}

#[test]
fn a_full_device_refuses_and_nothing_stays_charged() {
    let sim = SimDevice::builder().capacity(4096).build();
    let gpu = tree(&sim);
    let held = gpu.allocate(4000).unwrap();

    let error = gpu.allocate(65).unwrap_err();
    assert!(error.is_out_of_memory());
    assert_eq!(
        format!("{error:#}"),
        "device `ext-dev:0`: allocation failed: no memory for 128 bytes aligned to 64"
    );
    assert_eq!(gpu.allocated_memory(), 4032);
    drop(held);
    assert!(gpu.allocate(4096).is_ok());
}

#[test]
fn a_full_device_waits_for_memory_that_was_given_back() {
    let sim = SimDevice::builder().capacity(128).late(true).build();
    let gpu = tree(&sim);
    let stream = gpu.stream().unwrap();
    let source = gpu.allocate(64).unwrap().freeze();
    let copy = source.copy_to_on(&gpu, &stream).unwrap();

    drop(source); // the copy still reads it
    assert!(gpu.allocate(64).is_ok());
    assert!(copy.ready().is_none());
}

#[test]
fn each_operation_can_be_made_to_fail() {
    let sim = SimDevice::new();
    let (gpu, host) = (tree(&sim), host());
    let here = host.buffer_from_slice(&[1; 1000]).unwrap();
    let there = here.copy_to(&gpu).unwrap();
    let attempt = |operation| match operation {
        SimOperation::Allocate => gpu.allocate(1).map(drop),
        SimOperation::CopyIn => here.copy_to(&gpu).map(drop),
        SimOperation::CopyOut => there.copy_to(&host).map(drop),
        SimOperation::CopyWithin => there.copy_to(&gpu).map(drop),
        _ => gpu.stream().map(drop),
    };

    for operation in [
        SimOperation::Allocate,
        SimOperation::CopyIn,
        SimOperation::CopyOut,
        SimOperation::CopyWithin,
        SimOperation::Stream,
    ] {
        sim.fail_nth(operation, 2);
        attempt(operation).unwrap();
        let error = attempt(operation).unwrap_err();
        assert!(
            format!("{error:#}").ends_with("failed: injected failure"),
            "{error:#}"
        );
        attempt(operation).unwrap();
        assert_eq!(
            (host.allocated_memory(), gpu.allocated_memory()),
            (1024, 1024)
        );
        assert_eq!(
            (sim.used_bytes(), here.ref_count(), there.ref_count()),
            (1024, 1, 1)
        );
    }
}

#[test]
fn a_copy_that_fails_late_is_an_error_of_its_event() {
    let sim = late();
    let (gpu, host) = (tree(&sim), host());
    let stream = gpu.stream().unwrap();
    let here = host.buffer_from_slice(&[1; 1000]).unwrap();
    sim.fail_nth(SimOperation::Finish, 1);

    let there = here.copy_to_on(&gpu, &stream).unwrap();
    assert!(there.ready().is_some());
    let error = there.copy_to(&host).unwrap_err();
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
    drop((here, there));
    assert_eq!(
        (
            host.allocated_memory(),
            gpu.allocated_memory(),
            sim.used_bytes()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_panic_of_the_device_leaves_nothing_charged() {
    let sim = SimDevice::new();
    let (gpu, host) = (tree(&sim), host());
    let here = host.buffer_from_slice(&[1; 1000]).unwrap();

    for operation in [SimOperation::Allocate, SimOperation::CopyIn] {
        sim.panic_nth(operation, 1);
        let copy = std::panic::AssertUnwindSafe(|| here.copy_to(&gpu).map(drop));
        assert!(std::panic::catch_unwind(copy).is_err());
        assert_eq!((gpu.allocated_memory(), sim.used_bytes()), (0, 0));
        assert_eq!(here.ref_count(), 1);
    }
    assert!(here.copy_to(&gpu).is_ok());
    gpu.accounting().verify().unwrap();
}

#[test]
fn a_call_that_is_to_fail_twice_fails_once() {
    let sim = SimDevice::new();
    let (gpu, host) = (tree(&sim), host());
    let here = host.buffer_from_slice(&[1; 100]).unwrap();

    sim.fail_nth(SimOperation::Allocate, 1);
    sim.panic_nth(SimOperation::Allocate, 1);
    assert!(gpu.allocate(100).is_err());

    let there = here.copy_to(&gpu).unwrap();
    assert_eq!(there.copy_to(&host).unwrap().as_slice(), [1; 100]);
    assert!(gpu.allocate(100).is_ok());
}

#[test]
fn statistics_of_the_device_are_those_of_its_blocks() {
    let sim = SimDevice::new();
    let gpu = tree(&sim);

    let held = gpu.allocate(100).unwrap();
    drop(gpu.allocate(1000).unwrap());
    let stats = sim.stats();
    assert_eq!(
        (stats.live_bytes, stats.peak_bytes),
        (Some(128), Some(1152))
    );
    assert_eq!(
        (stats.total_bytes, stats.allocations),
        (Some(1152), Some(2))
    );
    drop(held);
    assert_eq!(sim.stats().live_bytes, Some(0));
}

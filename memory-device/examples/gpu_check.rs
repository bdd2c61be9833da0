//! What `memory-device/gpu-check.sh` runs on an NVIDIA GPU. It asserts what it shows.
#![expect(unsafe_code, reason = "calls the driver's own copies, to compare with")]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, RootAllocator};
use arrow_memory_device::cuda::{CudaManager, PinnedManager};
use arrow_memory_device::{AnyBuffer, DeviceBufMut, DeviceManager, DeviceRoot};
use arrow_memory_system as _;
use cudarc::driver::{result, sys};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    // SAFETY: this loads NVIDIA's library, if there is one, whose initialisers may run on any thread.
    if !unsafe { sys::is_culib_present() } {
        println!("no CUDA driver: skipped");
        return Ok(());
    }
    let started = Instant::now();
    let gpu = CudaManager::new(0)?;
    let (free, total) = gpu.memory()?;
    let (device, name) = (gpu.device(), gpu.device_name());
    println!(
        "{device}: {name}, {} of {} MiB free",
        free >> 20,
        total >> 20
    );
    let manager: Arc<dyn DeviceManager> = gpu.clone();
    for (name, promise) in arrow_memory_device::testing::SUITE {
        promise(&manager);
        println!("suite: {name}");
    }
    limit_and_leak(&gpu)?;
    let host = RootAllocator::unlimited();
    pinned(&gpu, &host)?;
    bandwidth(&gpu, &host)?;
    assert_eq!(
        (gpu.stats().live_bytes, host.allocated_memory()),
        (Some(0), 0)
    );
    println!("all passed in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// A limit refuses what does not fit, and a leak is reported with the line that made it.
fn limit_and_leak(gpu: &Arc<CudaManager>) -> Outcome {
    let root = DeviceRoot::builder()
        .options(|root| root.debug(true))
        .manager(gpu.clone())
        .build()?;
    let query = root.child("query-7").limit(1 << 20).build()?;

    let refused = query
        .allocate((1 << 20) + 1)
        .expect_err("it is over the limit");
    println!("limit: {refused}");
    assert!(refused.is_out_of_memory());

    let leaked = query.allocate(4096)?.freeze();
    let report = query.close().expect_err("a buffer is left").to_string();
    println!("leak: {report}");
    assert!(report.contains("4096") && report.contains("gpu_check.rs"));
    drop(leaked);
    assert_eq!(root.allocated_memory(), 0);
    Ok(())
}

/// Pinned memory is memory of the host, charged to a node there.
fn pinned(gpu: &Arc<CudaManager>, host: &RootAllocator) -> Outcome {
    let staging = host.child("pinned").limit(1 << 20).build()?;
    let pinned = RootAllocator::builder()
        .allocation_manager(Arc::new(PinnedManager::new(gpu, &staging)))
        .build()?;
    let root = DeviceRoot::builder().manager(gpu.clone()).build()?;

    let source = pinned.buffer_from_slice(&[7; 4096])?;
    assert_eq!(staging.allocated_memory(), 4096);
    assert!(pinned.buffer(1 << 20).is_err(), "the host's limit holds");
    let stream = root.stream()?;
    let there = source.copy_to_on(&root.to_allocator(), &stream)?;
    let back = there.copy_to(&pinned)?;
    assert_eq!(back.as_slice(), source.as_slice());
    drop((source, back, there));
    assert_eq!(staging.allocated_memory(), 0);
    println!("pinned memory: charged to `{}`", staging.name());
    Ok(())
}

/// Copies each way, through this crate and by the driver's own function, which is what `cudaMemcpy` calls.
fn bandwidth(gpu: &Arc<CudaManager>, host: &RootAllocator) -> Outcome {
    let bytes = match std::env::var("GPU_CHECK_BYTES") {
        Ok(bytes) => bytes.parse()?,
        Err(_) => 1 << 30,
    };
    let pinned = RootAllocator::builder()
        .allocation_manager(Arc::new(PinnedManager::new(gpu, host)))
        .build()?;
    let root = DeviceRoot::builder().manager(gpu.clone()).build()?;
    println!("copies of {} MiB, best of {ROUNDS}, in GB/s:", bytes >> 20);
    println!("memory of the host   direction   this crate   cudaMemcpy");
    for (kind, tree) in [("pinned", &pinned), ("pageable", host)] {
        let mut memory = tree.buffer(bytes)?;
        memory.resize(bytes, 0x5A)?;
        let mut there = root.allocate(bytes)?;
        compare(kind, &mut memory, &mut there)?;
    }
    Ok(())
}

fn compare(kind: &str, memory: &mut ArrowBufMut, there: &mut DeviceBufMut) -> Outcome {
    let address = there.address();
    let device = result::device::get(0)?;
    // SAFETY: the driver returned the device just now. The reference is released below.
    let context = unsafe { result::primary_ctx::retain(device) }?;
    // SAFETY: the context is retained.
    unsafe { result::ctx::set_current(context) }?;

    let ours = best(|| Ok(there.write_at(0, memory)?))?;
    // SAFETY: the block lives, and has as many bytes; the context is current.
    let driver = best(|| Ok(unsafe { result::memcpy_htod_sync(address, memory) }?))?;
    show(kind, "to GPU", memory.len(), ours, driver);

    memory.fill(0);
    let ours = best(|| Ok(there.read_at(0, memory)?))?;
    assert!(
        memory.iter().all(|&byte| byte == 0x5A),
        "the bytes came back"
    );
    // SAFETY: the block lives, and has as many bytes; the context is current.
    let driver = best(|| Ok(unsafe { result::memcpy_dtoh_sync(memory, address) }?))?;
    show(kind, "to host", memory.len(), ours, driver);
    black_box(&memory[..]);

    // SAFETY: null means that no context is current.
    unsafe { result::ctx::set_current(std::ptr::null_mut()) }?;
    // SAFETY: the driver returned the device, and it was retained above.
    Ok(unsafe { result::primary_ctx::release(device) }?)
}

fn best(mut copy: impl FnMut() -> Outcome) -> Result<Duration, Box<dyn Error>> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        copy()?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

fn show(kind: &str, direction: &str, bytes: usize, ours: Duration, driver: Duration) {
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    println!(
        "{kind:<20} {direction:<11} {:>10.1}   {:>10.1}",
        rate(ours),
        rate(driver)
    );
}

const ROUNDS: usize = 5;

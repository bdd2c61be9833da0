//! Gets an arbitrary buffer to the CPU: a view where the CPU can read it, else a copy. Arrow C++'s guide shows the same
//! with `Buffer::ViewOrCopy`.

use std::error::Error;
use std::sync::Arc;

use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};
use arrow_memory_device::{
    AnyBuffer, CpuManager, DeviceBuf, DeviceError, DeviceManager, DeviceRoot, SimDevice,
};
use arrow_memory_system as _;

fn main() -> Result<(), Box<dyn Error>> {
    let host = RootAllocator::builder()
        .name("host")
        .limit(1 << 20)
        .build()?;
    let query = host.child("query").build()?;

    // The same code, whatever the device is.
    let cpu = device("cpu", CpuManager::new()?)?;
    let gpu = device("gpu", SimDevice::new())?;
    let on_cpu = fill(&cpu, 1000)?;
    let on_gpu = fill(&gpu, 1000)?;
    let here = query.buffer_from_slice(&[7; 1000])?;

    // A buffer of the host is shared, that of the CPU's device viewed, and that of the other device copied.
    assert_eq!(sum(&here, &query)?, 7000);
    assert_eq!(sum(&on_cpu, &query)?, 7000);
    assert_eq!(sum(&on_gpu, &query)?, 7000);
    assert_eq!(
        (here.is_cpu(), on_cpu.is_cpu(), on_gpu.is_cpu()),
        (true, true, false)
    );

    let shared = here.view_or_copy(&query)?;
    assert_eq!(
        (shared.as_ptr(), query.allocated_memory()),
        (here.as_ptr(), 1024)
    );
    let viewed = on_cpu.view_or_copy(&query)?;
    assert_eq!(viewed.memory_address() as u64, on_cpu.address());
    assert_eq!(query.allocated_memory(), 1024 + 1); // the bytes stay charged to the device's tree
    let copied = on_gpu.view_or_copy(&query)?;
    assert_eq!(query.allocated_memory(), 1024 + 1 + 1024); // charged where it landed
    assert_eq!(
        (viewed.as_slice(), copied.as_slice()),
        (&[7; 1000][..], &[7; 1000][..])
    );

    // A view of the device fails, rather than to be a copy without a word.
    assert!(on_gpu.view_on(&query)?.is_none());

    println!(
        "{}\n{}",
        host.to_verbose_string(),
        gpu.accounting().to_verbose_string()
    );
    drop((here, shared, viewed, copied, on_cpu, on_gpu));
    assert_eq!((host.allocated_memory(), gpu.allocated_memory()), (0, 0));
    Ok(())
}

/// A tree for a device.
fn device(name: &str, manager: Arc<dyn DeviceManager>) -> Result<DeviceRoot, Box<dyn Error>> {
    let root = DeviceRoot::builder().name(name).limit(1 << 20);
    Ok(root.manager(manager).build()?)
}

/// A buffer on a device, written from the host.
fn fill(device: &DeviceRoot, len: usize) -> Result<DeviceBuf, DeviceError> {
    let mut buffer = device.allocate(len)?;
    buffer.write_at(0, &vec![7; len])?;
    Ok(buffer.freeze())
}

/// The sum of bytes that may be anywhere: the CPU has to read them.
fn sum(bytes: &impl AnyBuffer, on: &BufferAllocator) -> Result<u64, DeviceError> {
    let readable: ArrowBuf = bytes.view_or_copy(on)?;
    Ok(readable.iter().copied().map(u64::from).sum())
}

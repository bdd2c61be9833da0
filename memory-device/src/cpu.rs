//! [`CpuManager`]: the CPU as a device.
#![expect(unsafe_code, reason = "copies memory of the host by its addresses")]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use arrow_memory_core::{AllocationManager, BackendError, ManagerStats, backend};

use crate::device::{Device, DeviceAddress};
use crate::error::DeviceError;
use crate::event::{DeviceStream, Event, Stream};
use crate::manager::DeviceManager;

/// The memory of the CPU as that of a device, so that code for devices runs without one.
///
/// Its blocks come from a backend of the core, zeroed. Its addresses are the host's, so whatever is on it can be viewed
/// on the host, and the other way round. It does all work at once, on the thread that asks for it: its streams
/// have nothing to wait for.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_device::{AnyBuffer, CpuManager, DeviceRoot};
///
/// let host = RootAllocator::new(1 << 20);
/// let cpu = DeviceRoot::builder().manager(CpuManager::new()?).build()?;
/// let mut buffer = cpu.allocate(8)?;
/// buffer.write_at(0, b"columnar")?;
/// let view = buffer.freeze().view_on(&host)?.expect("it is memory of the host");
/// assert_eq!(view.as_slice(), b"columnar");
/// assert_eq!((cpu.allocated_memory(), host.allocated_memory()), (64, 1)); // not charged twice
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias("CPUMemoryManager", "CPUDevice"))]
pub struct CpuManager {
    backend: Arc<dyn AllocationManager>,
}

impl CpuManager {
    /// Creates a manager over the default backend.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if no backend is linked into the program, or the default one does not start.
    pub fn new() -> Result<Arc<Self>, BackendError> {
        Ok(Self::over(backend::default_manager()?))
    }

    /// Creates a manager over that backend.
    pub fn over(backend: Arc<dyn AllocationManager>) -> Arc<Self> {
        Arc::new(Self { backend })
    }
}

/// An error if `stream` is of another type than this manager's own, whichever device it names.
fn check(stream: Option<&Stream>) -> Result<(), DeviceError> {
    match stream {
        Some(stream) if stream.downcast_ref::<CpuStream>().is_none() => {
            Err(DeviceError::wrong_device(Device::CPU, stream.device()))
        }
        _ => Ok(()),
    }
}

/// Returns the pointer to memory of the host whose provenance was exposed.
fn pointer(at: DeviceAddress) -> *mut u8 {
    // An address of the host is as wide as a pointer.
    ptr::with_exposed_provenance_mut(at.get() as usize)
}

/// Returns the address of memory of the host.
fn address(at: NonNull<u8>) -> Option<DeviceAddress> {
    DeviceAddress::new(at.expose_provenance().get() as u64)
}

// SAFETY: the backend keeps the first promises; copies are done when they return; `view_on_cpu` returns
// the block's own bytes, which were zeroed; `deallocate` of a backend does not unwind, and panics of events are
// caught; only a `CpuStream` is accepted, whose work is done when it is given, as its events say.
unsafe impl DeviceManager for CpuManager {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn name(&self) -> &str {
        self.backend.name()
    }

    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError> {
        check(stream)?;
        let block = self.backend.allocate_zeroed(layout);
        let failed = |error| DeviceError::failed(Device::CPU, "allocation", error);
        let block = block.map_err(failed)?;
        address(block).ok_or_else(|| DeviceError::unavailable("memory at address 0"))
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        // Work of other devices may use the memory. It is over after the wait, even if it failed; but not if
        // its event panicked or gave up.
        let mut over = true;
        for event in after {
            over &= event.outcome_in_drop().is_some();
        }
        if over && let Some(block) = NonNull::new(pointer(at)) {
            // SAFETY: by the caller's promise a live block of this manager, and so of its backend.
            unsafe { self.backend.deallocate(block, layout) };
        }
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        check(stream)?;
        // SAFETY: by the caller's promise these bytes lie in live memory of the host, which nothing else
        // uses; so `from` does not overlap it.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), pointer(to), from.len()) };
        Ok(Event::done())
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        check(stream)?;
        let into = to.as_mut_ptr().cast::<u8>();
        // SAFETY: by the caller's promise the bytes lie in live memory that nothing writes, and are initialised: a block was
        // zeroed; an exclusive slice does not overlap it.
        unsafe { ptr::copy_nonoverlapping(pointer(from), into, to.len()) };
        Ok(Event::done())
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        check(stream)?;
        // SAFETY: by the caller's promise both lie in live memory and do not overlap.
        unsafe { ptr::copy_nonoverlapping(pointer(from), pointer(to), len) };
        Ok(Event::done())
    }

    unsafe fn copy_across(
        &self,
        from: &dyn DeviceManager,
        at: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Option<Event>, DeviceError> {
        check(stream)?;
        let Some(seen) = from.view_on_cpu(at, len) else {
            return Ok(None);
        };
        // SAFETY: the other manager's promise, and the caller's.
        unsafe { ptr::copy_nonoverlapping(seen.as_ptr(), pointer(to), len) };
        Ok(Some(Event::done()))
    }

    fn view_on_cpu(&self, at: DeviceAddress, _len: usize) -> Option<NonNull<u8>> {
        NonNull::new(pointer(at))
    }

    fn view_of_cpu(&self, at: NonNull<u8>, _len: usize) -> Option<DeviceAddress> {
        address(at)
    }

    fn view_of(
        &self,
        other: &dyn DeviceManager,
        at: DeviceAddress,
        len: usize,
    ) -> Option<DeviceAddress> {
        address(other.view_on_cpu(at, len)?)
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        Ok(Stream::new(CpuStream))
    }

    fn stats(&self) -> ManagerStats {
        self.backend.stats()
    }
}

/// A stream that has always done its work.
#[derive(Debug)]
struct CpuStream;

impl DeviceStream for CpuStream {
    fn device(&self) -> Device {
        Device::CPU
    }

    fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        event.wait()
    }

    fn record(&self) -> Result<Event, DeviceError> {
        Ok(Event::done())
    }
}

//! [`CudaManager`]: the memory of a GPU.
#![expect(unsafe_code, reason = "implements DeviceManager by the CUDA driver")]

use std::alloc::Layout;
use std::any::Any;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::{ManagerError, ManagerStats, Tally};
use cudarc::driver::{DriverError, result, sys};

use super::context::{self, Context, is_over};
use super::event::CudaEvent;
use super::stream::CudaStream;
use crate::device::{Device, DeviceAddress};
use crate::error::DeviceError;
use crate::event::{DeviceStream, Event, Stream};
use crate::manager::DeviceManager;

/// The memory of one NVIDIA GPU.
///
/// Memory comes from the device's default pool, in the order of a stream, where the driver has pools (`cuMemAllocAsync`),
/// and otherwise from `cuMemAlloc`. What the pool keeps is up to its release threshold, which is 0 unless the program sets
/// it. Blocks are aligned to 256 bytes.
///
/// # What waits for what
///
/// The manager has two streams of its own: one for freeing, and one for allocations and copies that no stream is given for.
///
/// * With pools, freeing a block does not block the thread, unless the block is freed after events of other devices, which the
///   thread waits for. The block is free once the stream for freeing has come to it: after the events of the block, after
///   those of all blocks that were freed before it, and after what was on the streams of allocations when those were made.
/// * Without pools, freeing waits for the same on the calling thread.
/// * A copy without a stream waits for itself, and for the other copies and allocations without a stream that the manager's
///   users began before it; not for work of other streams, and not for freeing.
/// * An allocation does so, too. If the device has no room, it waits until all that was freed before is free, and asks once
///   more. The driver itself may make an allocation wait for a block that is being freed, to use its memory again.
///
/// A block that the driver does not take back, as when the device has failed, is leaked: it is not in the statistics, and not
/// charged, any more.
///
/// Copies run on the stream that they are given. Only copies from and to pinned memory
/// ([`PinnedManager`](super::PinnedManager)) run beside the thread that starts them: for other memory of the host, the driver
/// copies through a buffer of its own, partly on the calling thread.
///
/// Pinned memory of the host can be viewed from the device without a copy; each read then crosses the bus. Two managers of
/// one GPU see each other's memory, and GPUs copy between each other directly.
pub struct CudaManager {
    context: Arc<Context>,
    /// For allocations and copies that no stream was given for. Whoever gives it work waits for it at once.
    own: CudaStream,
    /// For freeing, which may have to wait for kernels. Nothing but an allocation without room waits for it.
    freeing: CudaStream,
    pools: bool,
    device_name: String,
    tally: Tally,
}

impl CudaManager {
    /// Creates the manager of the device with this number, the driver's ordinal. Loads the driver, and starts the device's
    /// primary context if the program has not, which takes time, and memory of the device that no tree accounts for.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Unavailable`] if there is no driver, or no such device; [`DeviceError::Failed`] if the device does
    /// not start.
    pub fn new(number: usize) -> Result<Arc<Self>, DeviceError> {
        let context = Context::new(number)?;
        Ok(Arc::new(Self {
            own: CudaStream::new(&context)?,
            freeing: CudaStream::new(&context)?,
            pools: context.has_pools(),
            device_name: context.name()?,
            tally: Tally::new(),
            context,
        }))
    }

    /// Returns the number of devices that the driver has. Loads the driver.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Unavailable`] if there is no driver.
    pub fn count() -> Result<usize, DeviceError> {
        context::count()
    }

    /// Returns the device's name, as in `NVIDIA H100 80GB HBM3`.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// Returns the bytes of the device's memory that are free, and those that it has. All programs that use the device
    /// share them.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the driver fails.
    pub fn memory(&self) -> Result<(usize, usize), DeviceError> {
        let _current = self.context.enter(MEMORY)?;
        result::mem_get_info().map_err(|error| self.context.failed(MEMORY, error))
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The stream for some work: the one that was given, or the manager's own.
    fn on<'a>(
        &'a self,
        operation: &'static str,
        stream: Option<&'a Stream>,
    ) -> Result<&'a CudaStream, DeviceError> {
        let Some(stream) = stream else {
            return Ok(&self.own);
        };
        match stream.downcast_ref::<CudaStream>() {
            Some(cuda) if cuda.device() == self.device() => {
                cuda.check_not_captured(operation)?;
                Ok(cuda)
            }
            _ => Err(DeviceError::wrong_device(self.device(), stream.device())),
        }
    }

    /// Runs a copy on a stream. If that is the manager's own, or if no event can be recorded, waits for it; then the copy is
    /// over when this returns, also with an error.
    fn copy(
        &self,
        operation: &'static str,
        stream: Option<&Stream>,
        start: impl FnOnce(sys::CUstream) -> Result<(), DriverError>,
    ) -> Result<Event, DeviceError> {
        let on = self.on(operation, stream)?;
        let _current = self.context.enter(operation)?;
        start(on.raw()).map_err(|error| self.context.failed(operation, error))?;
        if stream.is_none() {
            on.synchronize(operation)?;
            return Ok(Event::done());
        }
        match on.record() {
            Ok(event) => Ok(event),
            Err(_) => {
                // Nobody could wait for the copy later.
                on.synchronize(operation)?;
                Ok(Event::done())
            }
        }
    }

    /// Asks the driver for a block on a stream, or waits for it if the stream is the manager's own.
    fn obtain(
        &self,
        size: usize,
        on: &CudaStream,
        is_own: bool,
    ) -> Result<sys::CUdeviceptr, DriverError> {
        if !self.pools {
            // SAFETY: the context is current; the contents are unspecified, as the trait says.
            return unsafe { result::malloc_sync(size) };
        }
        // SAFETY: the stream exists, and the context is current; the contents are unspecified, as the trait says.
        let block = unsafe { result::malloc_async(on.raw(), size) }?;
        // The block is freed on the stream for freeing, which must come after the allocation there.
        if (is_own || self.follow(on).is_err())
            && let Err(error) = on.until_over()
        {
            // SAFETY: the block was allocated just now on this stream, and nothing uses it.
            let _ = unsafe { result::free_async(block, on.raw()) };
            return Err(error);
        }
        Ok(block)
    }

    /// Makes later work of the stream for freeing begin after all work that was given to `stream` so far.
    fn follow(&self, stream: &CudaStream) -> Result<(), DeviceError> {
        let event = stream.event()?;
        // SAFETY: the event is alive during the call.
        unsafe { self.freeing.wait_for_raw(event.raw().cast()) }
    }

    /// Frees a block after some events.
    ///
    /// # Safety
    ///
    /// The same as for [`DeviceManager::deallocate`].
    unsafe fn free(&self, at: DeviceAddress, after: &[Event]) {
        for event in after.iter().flat_map(Event::parts) {
            let follows = event.downcast_ref::<CudaEvent>().is_some_and(|event| {
                // SAFETY: the event is alive during the call.
                unsafe { self.freeing.wait_for_raw(event.raw().cast()) }.is_ok()
            });
            // Work that failed is over, too. Without an outcome it may go on, and the block is leaked.
            if !follows && event.outcome_in_drop().is_none() {
                return;
            }
        }
        let Ok(_current) = self.context.enter(FREEING) else {
            return;
        };
        let freed = if self.pools {
            // SAFETY: by the caller's promise the block is live and, after these events, unused; the stream exists.
            unsafe { result::free_async(at.get(), self.freeing.raw()) }
        } else {
            if !self.freeing.is_over_in_drop() {
                return;
            }
            // SAFETY: by the caller's promise the block is live, and the events are over.
            unsafe { result::free_sync(at.get()) }
        };
        debug_assert!(freed.map_or_else(is_over, |()| true), "{freed:?}");
    }
}

// SAFETY:
// 1. The driver allocates blocks that do not overlap, aligned to 256 bytes; greater alignments are refused.
// 2. Any thread may use and free them: each call makes the context current.
// 3. A copy that the driver refused was not started; one that cannot be waited for later is waited for before it returns, until
//    the driver says that it is over.
// 4. The driver's copies touch their bytes only, before the event that is recorded behind them.
// 5. No view of the CPU is returned.
// 6. `deallocate` catches panics, which an event of another device may have. It leaks the block then, and if an event gives up.
// 7. `on` accepts `CudaStream` only.
// 8. `CudaEvent` is done, and its waits return an outcome, only if the driver says that the work is over (`is_over`).
unsafe impl DeviceManager for CudaManager {
    fn device(&self) -> Device {
        self.context.device()
    }

    fn name(&self) -> &str {
        "cuda"
    }

    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError> {
        let refused = |error| DeviceError::failed(self.device(), ALLOCATION, error);
        if layout.align() > ALIGNMENT {
            let align = layout.align();
            let text = format!("blocks are aligned to {ALIGNMENT} bytes, not to {align}");
            return Err(refused(ManagerError::new(text)));
        }
        let on = self.on(ALLOCATION, stream)?;
        let _current = self.context.enter(ALLOCATION)?;
        let mut block = self.obtain(layout.size(), on, stream.is_none());
        if block == Err(NO_ROOM) && self.pools {
            // What was freed may still have to wait for the work that uses it.
            self.freeing.synchronize(ALLOCATION)?;
            block = self.obtain(layout.size(), on, stream.is_none());
        }
        let block = match block {
            Ok(block) => block,
            Err(NO_ROOM) => return Err(refused(ManagerError::out_of_memory(layout))),
            Err(error) => return Err(self.context.failed(ALLOCATION, error)),
        };
        let Some(address) = DeviceAddress::new(block) else {
            return Err(refused(ManagerError::new(
                "the driver returned a null block",
            )));
        };
        self.tally.lent(layout.size());
        Ok(address)
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        // SAFETY: the caller's promise.
        catch(|| unsafe { self.free(at, after) });
        self.tally.returned(layout.size());
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy("copy from the host", stream, |on| {
            // SAFETY: by the caller's promise both sides are valid until the event; `on` is a stream of the context, which
            // is current.
            unsafe { result::memcpy_htod_async(to.get(), from, on) }
        })
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy("copy to the host", stream, |on| {
            // SAFETY: by the caller's promise both sides are valid until the event; `on` is a stream of the context, which
            // is current.
            unsafe { result::memcpy_dtoh_async(to, from.get(), on) }
        })
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy("copy on the device", stream, |on| {
            // SAFETY: by the caller's promise both blocks are live until the event; `on` is a stream of the context, which
            // is current.
            unsafe { result::memcpy_dtod_async(to.get(), from.get(), len, on) }
        })
    }

    unsafe fn copy_across(
        &self,
        from: &dyn DeviceManager,
        at: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Option<Event>, DeviceError> {
        let other: &dyn Any = from;
        let Some(other) = other.downcast_ref::<Self>() else {
            return Ok(None);
        };
        let (target, source) = (self.context.raw(), other.context.raw());
        let copied = self.copy("copy from another device", stream, |on| {
            // SAFETY: by the caller's promise both blocks are live until the event; `on` is a stream of the context, which
            // is current.
            unsafe { result::memcpy_peer_async(target, to.get(), source, at.get(), len, on) }
        })?;
        Ok(Some(copied))
    }

    /// Pinned memory of the host can be seen from the device, where all of it was pinned together.
    fn view_of_cpu(&self, at: NonNull<u8>, len: usize) -> Option<DeviceAddress> {
        use sys::CUpointer_attribute::{
            CU_POINTER_ATTRIBUTE_RANGE_SIZE as SIZE, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR as START,
        };
        let _current = self.context.enter("view of the host").ok()?;
        let (mut first, mut start, mut size) = (0, 0_u64, 0_usize);
        let host = at.as_ptr().cast();
        // SAFETY: the driver only looks the address up, and refuses one that it does not know.
        let found = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut first, host, 0) };
        found.result().ok()?;
        // SAFETY: the driver looks the address up, and writes one of the type of `start`.
        let found = unsafe { sys::cuPointerGetAttribute((&raw mut start).cast(), START, first) };
        found.result().ok()?;
        // SAFETY: the driver looks the address up, and writes a size.
        let found = unsafe { sys::cuPointerGetAttribute((&raw mut size).cast(), SIZE, first) };
        found.result().ok()?;
        let skipped = usize::try_from(first.checked_sub(start)?).ok()?;
        let is_inside = len <= size.checked_sub(skipped)?;
        DeviceAddress::new(first).filter(|_| is_inside)
    }

    /// Two managers of one GPU use the same addresses.
    fn view_of(
        &self,
        other: &dyn DeviceManager,
        at: DeviceAddress,
        _len: usize,
    ) -> Option<DeviceAddress> {
        let other: &dyn Any = other;
        let other = other.downcast_ref::<Self>()?;
        (other.device() == self.device()).then_some(at)
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        Ok(Stream::new(CudaStream::new(&self.context)?))
    }

    fn stats(&self) -> ManagerStats {
        self.tally.stats()
    }
}

impl fmt::Debug for CudaManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaManager")
            .field("device", &self.device())
            .field("name", &self.device_name)
            .field("pools", &self.pools)
            .field("stats", &self.tally.stats())
            .finish()
    }
}

/// The driver's answer if the device has no room.
const NO_ROOM: DriverError = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);

/// The alignment of the driver's blocks.
const ALIGNMENT: usize = 256;

const ALLOCATION: &str = "allocation";
const FREEING: &str = "freeing";
const MEMORY: &str = "query of the memory";

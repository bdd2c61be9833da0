//! [`PinnedManager`]: memory of the host that a GPU copies from and to at full speed.
#![expect(
    unsafe_code,
    reason = "implements AllocationManager by the CUDA driver"
)]

use std::alloc::Layout;
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::{AllocationManager, BufferAllocator, ManagerError, ManagerStats, Tally};
use cudarc::driver::{result, sys};

use super::context::{Context, is_over};
use super::manager::CudaManager;
use crate::error::DeviceError;

/// Pinned memory of the host: an ordinary [`AllocationManager`], whose buffers the CPU reads and writes as any others, and
/// which GPUs copy from and to beside the thread that starts the copy.
///
/// Pinned memory is RAM, and the operating system cannot swap it out. So it is charged twice on purpose, in two trees: a
/// root of its own over this manager accounts for the buffers, and each block that this manager gets from the driver is
/// charged to a node of the *host's* tree, as external bytes, from before it is allocated until after it is freed. A block
/// that does not fit there is refused.
///
/// A block that the driver does not take back, as when the device has failed, is leaked: it stays pinned, but is not in the
/// statistics, and not charged, any more.
///
/// Allocating pinned memory is a system call of the driver, which pins whole pages. Put an arena over this manager,
/// which takes large chunks from it (`Arena::builder().parent(…)` of `arrow-memory-arena`); the chunks are then what the host's
/// node is charged for.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_arena::Arena;
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_device::cuda::{CudaManager, PinnedManager};
/// use arrow_memory_system as _;
///
/// let host = RootAllocator::new(1 << 30);
/// let staging = host.child("pinned").limit(256 << 20).build()?;
/// if let Ok(gpu) = CudaManager::new(0) {
///     let chunks = PinnedManager::new(&gpu, &staging);
///     let arena = Arena::builder().parent(Arc::new(chunks)).chunk_size(16 << 20).build()?;
///     let pinned = RootAllocator::builder().allocation_manager(Arc::new(arena)).build()?;
///     let buffer = pinned.buffer_from_slice(b"copied at full speed")?;
///     assert_eq!(staging.allocated_memory(), 16 << 20);
///     assert_eq!(&buffer[..6], b"copied");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PinnedManager {
    context: Arc<Context>,
    host: BufferAllocator,
    tally: Tally,
}

impl PinnedManager {
    /// Creates a manager that pins memory for all GPUs of the program, through the driver of one of them, and charges it to
    /// `host`.
    ///
    /// It keeps a handle on `host`, whose tree must not itself stand on this manager.
    pub fn new(gpu: &CudaManager, host: &BufferAllocator) -> Self {
        Self {
            context: Arc::clone(gpu.context()),
            host: host.clone(),
            tally: Tally::new(),
        }
    }

    /// Returns the allocator that is charged for the blocks.
    pub fn host(&self) -> &BufferAllocator {
        &self.host
    }

    /// Asks the driver for a block that is charged already.
    fn pin(&self, size: usize) -> Result<NonNull<u8>, DeviceError> {
        let _current = self.context.enter(PINNING)?;
        // SAFETY: the context is current; the contents are unspecified, as the trait says.
        let block = unsafe { result::malloc_host(size, sys::CU_MEMHOSTALLOC_PORTABLE) };
        let block = block.map_err(|error| self.context.failed(PINNING, error))?;
        NonNull::new(block.cast()).ok_or_else(|| {
            let null = ManagerError::new("the driver returned a null block");
            DeviceError::failed(self.context.device(), PINNING, null)
        })
    }

    /// Gives a block back to the driver.
    ///
    /// # Safety
    ///
    /// `block` is from [`pin`](Self::pin), and is not used any more.
    unsafe fn unpin(&self, block: *mut c_void) {
        let Ok(_current) = self.context.enter(PINNING) else {
            return;
        };
        // SAFETY: the caller's promise.
        let freed = unsafe { result::free_host(block) };
        debug_assert!(freed.map_or_else(is_over, |()| true), "{freed:?}");
    }
}

// SAFETY:
// 1. The driver hands out whole pages, which start at a page; greater alignments are refused. Blocks do not overlap, and any
//    thread may use them.
// 2. Any thread may free them: each call makes the context current.
// 3. A failed call gives its charge back, and has no block. `reallocate` is the trait's.
// 4. `deallocate` catches panics of the driver's bindings.
unsafe impl AllocationManager for PinnedManager {
    fn name(&self) -> &str {
        "cuda-host"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        if layout.align() > PAGE {
            let align = layout.align();
            let text = format!("pinned blocks are aligned to {PAGE} bytes, not to {align}");
            return Err(ManagerError::new(text));
        }
        let size = layout.size();
        let charge = Charge::of(&self.host, size)?;
        let block = self.pin(size).map_err(|error| {
            let text = format!("no {size} bytes of pinned memory");
            ManagerError::new(text).with_source(error)
        })?;
        charge.keep();
        self.tally.lent(size);
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise: `pin` returned the block.
        catch(|| unsafe { self.unpin(ptr.as_ptr().cast()) });
        self.tally.returned(layout.size());
        self.host.release_bytes(layout.size());
    }

    fn stats(&self) -> ManagerStats {
        self.tally.stats()
    }
}

impl fmt::Debug for PinnedManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedManager")
            .field("host", &self.host.name())
            .field("stats", &self.tally.stats())
            .finish()
    }
}

/// Bytes that the host's node is charged, and that are given back unless a block takes them; by a panic, too.
struct Charge<'a> {
    host: &'a BufferAllocator,
    bytes: usize,
}

impl<'a> Charge<'a> {
    fn of(host: &'a BufferAllocator, bytes: usize) -> Result<Self, ManagerError> {
        match host.allocate_bytes(bytes) {
            Ok(()) => Ok(Self { host, bytes }),
            Err(error) => {
                let text = format!("allocator `{}` gave no {bytes} bytes", host.info());
                Err(ManagerError::new(text).with_source(error))
            }
        }
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.host.release_bytes(self.bytes);
    }
}

/// The alignment of pinned blocks: the size of a page, or less than it.
const PAGE: usize = 4096;

const PINNING: &str = "pinning memory of the host";

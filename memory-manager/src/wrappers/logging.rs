//! A `tracing` event for each call of another manager: [`LoggingManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::__forward_to_inner as forward_to_inner;
use crate::events;
use crate::manager::{AllocationManager, ManagerError};

/// Forwards to another manager, whose name it keeps, with a `tracing` event for each call.
///
/// Events have the target `arrow_memory::manager` and level DEBUG, failures WARN; their fields are
/// `pool`, `address`, `size`, `align`, for growth `old_size`, for failures `error`. They are emitted after
/// an allocation and before a deallocation, so the lives of one address do not overlap in the log.
///
/// A subscriber may use the manager from inside an event: those calls have no events. One that
/// panics is ignored.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
/// use std::sync::Arc;
///
/// use arrow_memory_manager::LoggingManager;
/// use arrow_memory_manager::testing::{Block, StdManager};
///
/// let manager = LoggingManager::new(Arc::new(StdManager));
/// // DEBUG arrow_memory::manager: allocate pool="std" address=0x55… size=100 align=64
/// let block = Block::zeroed(&manager, Layout::from_size_align(100, 64)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias = "LoggingMemoryPool")]
pub struct LoggingManager {
    inner: Arc<dyn AllocationManager>,
}

impl LoggingManager {
    /// Logs the calls to `inner`.
    pub fn new(inner: Arc<dyn AllocationManager>) -> Self {
        Self { inner }
    }

    fn log_allocated(
        &self,
        call: &'static str,
        result: &Result<NonNull<u8>, ManagerError>,
        layout: Layout,
    ) {
        quietly(|| {
            let (pool, size, align) = (self.name(), layout.size(), layout.align());
            match result {
                Ok(block) => {
                    tracing::debug!(target: TARGET, pool, address = ?block, size, align, "{call}");
                }
                Err(error) => {
                    tracing::warn!(target: TARGET, pool, size, align, %error, "{call} failed");
                }
            }
        });
    }
}

// SAFETY: every method forwards to a manager that keeps the promises; events do not unwind.
unsafe impl AllocationManager for LoggingManager {
    forward_to_inner!(name, stats);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let result = self.inner.allocate(layout);
        self.log_allocated("allocate", &result, layout);
        result
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        quietly(|| {
            let (pool, size, align) = (self.name(), layout.size(), layout.align());
            tracing::debug!(target: TARGET, pool, address = ?ptr, size, align, "deallocate");
        });
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        unsafe { self.inner.deallocate(ptr, layout) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let result = self.inner.allocate_zeroed(layout);
        self.log_allocated("allocate_zeroed", &result, layout);
        result
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        let result = unsafe { self.inner.reallocate(ptr, old, new_size) };
        quietly(|| {
            let (pool, size, old_size, align) = (self.name(), new_size, old.size(), old.align());
            match &result {
                Ok(moved) => {
                    let (from, address) = (ptr, moved);
                    tracing::debug!(
                        target: TARGET, pool, ?from, ?address, old_size, size, align, "reallocate"
                    );
                }
                Err(error) => tracing::warn!(
                    target: TARGET, pool, old_size, size, align, %error, "reallocate failed"
                ),
            }
        });
        result
    }

    fn release_unused(&self) {
        quietly(|| tracing::debug!(target: TARGET, pool = self.name(), "release_unused"));
        self.inner.release_unused();
    }
}

/// Sends an event, unless this thread is sending one; ignores panics.
fn quietly(event: impl FnOnce()) {
    if SENDING.replace(true) {
        return;
    }
    // A panic of the subscriber leaves no state of this manager half changed.
    events::catch(event);
    SENDING.set(false);
}

thread_local! {
    /// Whether this thread is inside of an event. It has no destructor, so it can be read as long as the thread
    /// runs.
    static SENDING: Cell<bool> = const { Cell::new(false) };
}

/// The target of all events.
const TARGET: &str = "arrow_memory::manager";

//! [`DeviceAllocator`]: an allocator of a device's tree.

use std::alloc::Layout;
use std::fmt;
use std::sync::Arc;

use arrow_memory_core::{
    ALIGNMENT, AllocError, AllocatorSnapshot, AllocatorStats, BufferAllocator,
    ChildAllocatorBuilder, CloseError,
};

use crate::device::Device;
use crate::error::DeviceError;
use crate::event::Stream;
use crate::manager::DeviceManager;

/// An allocator of device memory: a node of the device's tree, with a name, a limit, a reservation and exact
/// counters.
///
/// This is a handle: a clone costs two atomic additions and equals the original. The accounting is
/// that of the core: [`accounting`](Self::accounting) is the node, with everything that a [`BufferAllocator`] can
/// do. Its bytes are bytes of the device.
///
/// ```
/// use std::sync::Arc;
/// use arrow_memory_device::{DeviceRoot, SimDevice};
///
/// let gpu = DeviceRoot::builder().limit(1 << 20).manager(SimDevice::new()).build()?;
/// let query = gpu.child("query-7").limit(4096).build()?;
/// let buffer = query.allocate(1000)?.freeze();
/// assert_eq!((query.allocated_memory(), gpu.allocated_memory()), (1024, 1024));
/// assert!(query.allocate(4000).unwrap_err().is_out_of_memory());
/// drop(buffer);
/// query.close().map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias = "MemoryManager")]
pub struct DeviceAllocator {
    accounting: BufferAllocator,
    manager: Arc<dyn DeviceManager>,
}

impl DeviceAllocator {
    /// The allocator of a node of the tree that accounts for the manager's memory.
    pub(crate) fn of(accounting: BufferAllocator, manager: Arc<dyn DeviceManager>) -> Self {
        Self {
            accounting,
            manager,
        }
    }

    /// Returns a builder of a child of this allocator with that name.
    pub fn child(&self, name: &str) -> DeviceChildBuilder {
        DeviceChildBuilder {
            child: self.accounting.child(name),
            manager: Arc::clone(&self.manager),
        }
    }

    /// Returns the allocator of a node of this tree, such as one that
    /// [`admit`](BufferAllocator::admit) has made; `None` if the node is of another tree.
    ///
    /// ```
    /// # use arrow_memory_device::{DeviceRoot, SimDevice};
    /// # let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let scan = gpu.accounting().child("scan").build()?;
    /// let scan = gpu.at(&scan).expect("it is a node of this tree");
    /// assert_eq!(scan.device(), gpu.device());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn at(&self, node: &BufferAllocator) -> Option<Self> {
        let same = node.root_allocator() == self.accounting.root_allocator();
        same.then(|| Self::of(node.clone(), Arc::clone(&self.manager)))
    }

    /// Returns the node of this allocator, which accounts for bytes of the device.
    ///
    /// It can do all that an allocator of the core can: snapshots, reservations, waiting, admission, reclaim,
    /// listeners, reports, external bytes. It allocates no buffer of the host: its `buffer` returns an
    /// error.
    pub fn accounting(&self) -> &BufferAllocator {
        &self.accounting
    }

    /// Returns the device whose memory this allocates.
    pub fn device(&self) -> Device {
        self.manager.device()
    }

    /// Returns whether the CPU may read the memory that this allocates.
    pub fn is_cpu(&self) -> bool {
        self.device().is_cpu()
    }

    /// Returns the manager of the device's memory.
    #[doc(alias = "memory_manager")]
    pub fn manager(&self) -> &Arc<dyn DeviceManager> {
        &self.manager
    }

    /// Creates a stream of the device.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device has none to give.
    pub fn stream(&self) -> Result<Stream, DeviceError> {
        self.manager.stream()
    }

    /// Returns the name from the builder, which need not be unique.
    pub fn name(&self) -> &str {
        self.accounting.name()
    }

    /// Returns the bytes allocated from this allocator and those below it, as
    /// [`BufferAllocator::allocated_memory`] does. O(subtree) under the tree's lock.
    pub fn allocated_memory(&self) -> usize {
        self.accounting.allocated_memory()
    }

    /// Returns the largest [`allocated_memory`](Self::allocated_memory) so far, in bytes.
    pub fn peak_memory_allocation(&self) -> usize {
        self.accounting.peak_memory_allocation()
    }

    /// Returns the limit as it was set, in bytes; above `isize::MAX` it means unlimited.
    pub fn limit(&self) -> usize {
        self.accounting.limit()
    }

    /// Sets the limit, in bytes. Lowering it revokes nothing; raising it takes effect at once.
    #[track_caller]
    pub fn set_limit(&self, limit: usize) {
        self.accounting.set_limit(limit);
    }

    /// Returns this allocator's own numbers, without those of its children.
    pub fn stats(&self) -> AllocatorStats {
        self.accounting.stats()
    }

    /// Returns the numbers of this allocator and all below it at one instant. O(subtree) under the tree's
    /// lock.
    pub fn snapshot(&self) -> AllocatorSnapshot {
        self.accounting.snapshot()
    }

    /// Closes this allocator: it refuses new work from now on, and leaves its tree if nothing is outstanding.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with all that is outstanding; in debug mode with the lines of code that created it.
    #[expect(
        clippy::result_large_err,
        reason = "a failed close is rare, and its report is what the caller wants"
    )]
    #[track_caller]
    pub fn close(&self) -> Result<(), CloseError> {
        self.accounting.close()
    }

    /// Retires this allocator: it refuses new work from now on, as a closed one does, and leaves its tree with
    /// its last byte.
    pub fn retire(&self) {
        self.accounting.retire();
    }

    /// Returns whether this allocator was closed or retired, or has left its tree.
    pub fn is_closed(&self) -> bool {
        self.accounting.is_closed()
    }

    /// The layout of a block for `bytes`, which are not 0: rounded up by the node's policy.
    pub(crate) fn layout_of(&self, bytes: usize) -> Result<Layout, DeviceError> {
        let overflow = || DeviceError::SizeOverflow { requested: bytes };
        if bytes > isize::MAX as usize {
            return Err(overflow());
        }
        let rounded = self.accounting.rounding_policy().rounded_size(bytes);
        let padded = rounded.max(bytes).checked_next_multiple_of(ALIGNMENT);
        padded
            .and_then(|size| Layout::from_size_align(size, ALIGNMENT).ok())
            .ok_or_else(overflow)
    }

    /// An error if `stream` is that of another device.
    pub(crate) fn check_stream(&self, stream: Option<&Stream>) -> Result<(), DeviceError> {
        match stream {
            Some(stream) if stream.device() != self.device() => {
                Err(DeviceError::wrong_device(self.device(), stream.device()))
            }
            _ => Ok(()),
        }
    }
}

impl PartialEq for DeviceAllocator {
    /// Returns whether both are handles of the same node.
    fn eq(&self, other: &Self) -> bool {
        self.accounting == other.accounting
    }
}

impl Eq for DeviceAllocator {}

impl fmt::Debug for DeviceAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAllocator")
            .field("device", &self.device())
            .field("accounting", &self.accounting)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DeviceAllocator {
    /// Writes the text of the [`accounting`](DeviceAllocator::accounting).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.accounting.fmt(f)
    }
}

/// Builds a child of a [`DeviceAllocator`]; [`DeviceAllocator::child`] returns it.
///
/// ```
/// # use arrow_memory_device::{DeviceRoot, SimDevice};
/// # let gpu = DeviceRoot::builder().limit(1 << 20).manager(SimDevice::new()).build()?;
/// let query = gpu.child("query-7").group("query").reservation(4096).limit(65536).build()?;
/// assert_eq!((query.limit(), gpu.allocated_memory()), (65536, 4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct DeviceChildBuilder {
    child: ChildAllocatorBuilder,
    manager: Arc<dyn DeviceManager>,
}

impl DeviceChildBuilder {
    /// Sets the child's own limit in bytes. Without this call, or with a value above `isize::MAX`, it has
    /// none.
    pub fn limit(self, limit: usize) -> Self {
        self.options(|child| child.limit(limit))
    }

    /// Sets the reservation in bytes, for which the parent is charged at once. 0 by default.
    pub fn reservation(self, bytes: usize) -> Self {
        self.options(|child| child.reservation(bytes))
    }

    /// Sets the group of allocators that this child belongs to, such as `query` for all queries.
    pub fn group(self, group: &str) -> Self {
        self.options(|child| child.group(group))
    }

    /// Sets the number that orders who is asked first when memory is short; that of the parent by default.
    pub fn priority(self, priority: i32) -> Self {
        self.options(|child| child.priority(priority))
    }

    /// Sets other options of the core's builder, such as a listener or a rounding policy.
    pub fn options(
        mut self,
        set: impl FnOnce(ChildAllocatorBuilder) -> ChildAllocatorBuilder,
    ) -> Self {
        self.child = set(self.child);
        self
    }

    /// Builds the child.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if the reservation does not fit.
    /// * [`AllocError::Closed`] if the parent, or an allocator whose memory the reservation would need, is
    ///   closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    #[track_caller]
    pub fn build(self) -> Result<DeviceAllocator, AllocError> {
        Ok(DeviceAllocator::of(self.child.build()?, self.manager))
    }
}

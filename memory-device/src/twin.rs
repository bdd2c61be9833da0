//! [`TwinExt`]: from a node of the host to the node of the same path on a device.

use arrow_memory_core::{AllocError, BufferAllocator};

use crate::allocator::DeviceAllocator;
use crate::root::DeviceRoot;

/// The twins of allocators on devices.
pub trait TwinExt {
    /// Returns the twin of this allocator on a device: the node of the same path in the device's tree.
    ///
    /// The twin of a root is the device's root. Any other node's twin is made on first use, below the twin of its
    /// parent, with the node's name and priority and without a limit or a reservation: memory of the device is
    /// limited on the device, by [`set_limit`](DeviceAllocator::set_limit). The path is that of the nodes, not of
    /// their names: two nodes of one name have two twins.
    ///
    /// The device's root keeps the twin until this allocator has left its tree. The next call of `twin`, for any
    /// allocator, or of the root's [`close`](DeviceRoot::close) or [`retire`](DeviceRoot::retire), then retires it: it
    /// refuses new work, and leaves its tree with its last byte. To end a twin at once, close or retire it.
    ///
    /// Costs O(depth) under the host tree's lock, and a look at all twins of that root; a new twin, a copy of their
    /// list.
    ///
    /// # Errors
    ///
    /// [`AllocError::Closed`] if this allocator has left its tree, or is a closed root; or if the twin must be made
    /// and the twin of its parent is closed.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_core::RootAllocator;
    /// use arrow_memory_device::{DeviceRoot, SimDevice, TwinExt};
    ///
    /// let host = RootAllocator::new(1 << 20);
    /// let gpu = DeviceRoot::builder().limit(1 << 20).manager(SimDevice::new()).build()?;
    /// let query = host.child("query-7").build()?;
    /// let scan = query.child("scan").build()?;
    ///
    /// let twin = scan.twin(&gpu)?;
    /// assert_eq!((twin.name(), &twin), ("scan", &scan.twin(&gpu)?));
    /// assert_eq!(twin.accounting().parent_allocator().unwrap().name(), "query-7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn twin(&self, device: &DeviceRoot) -> Result<DeviceAllocator, AllocError>;
}

impl TwinExt for BufferAllocator {
    #[track_caller]
    fn twin(&self, device: &DeviceRoot) -> Result<DeviceAllocator, AllocError> {
        let node = device.twins.twin(self, device.accounting())?;
        Ok(DeviceAllocator::of(node, device.manager().clone()))
    }
}

//! [`DeviceRoot`]: the tree of a device.
#![expect(unsafe_code, reason = "implements a manager that allocates nothing")]

use std::alloc::Layout;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::{
    AllocationManager, BackendError, CloseError, ManagerError, RootAllocator, RootAllocatorBuilder,
};

use crate::allocator::DeviceAllocator;
use crate::cpu::CpuManager;
use crate::device::Device;
use crate::manager::DeviceManager;
use crate::twins::Twins;

/// The root of a device's tree.
///
/// It dereferences to the root's [`DeviceAllocator`]. Its limit is about the device's memory alone: VRAM and RAM
/// are different money, and each has a tree of its own. Dropping it drops one handle: allocated memory
/// stays valid.
///
/// ```
/// use arrow_memory_device::{DeviceRoot, SimDevice};
///
/// let gpu = DeviceRoot::builder().name("gpu").limit(1 << 30).manager(SimDevice::new()).build()?;
/// let buffer = gpu.allocate(4096)?;
/// assert_eq!(gpu.allocated_memory(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DeviceRoot {
    allocator: DeviceAllocator,
    pub(crate) twins: Arc<Twins>,
}

impl DeviceRoot {
    /// Returns a builder of a root.
    pub fn builder() -> DeviceRootBuilder {
        DeviceRootBuilder {
            root: RootAllocator::builder(),
            name: None,
            manager: None,
        }
    }

    /// Returns the root's allocator as a value, of the same type as those of children.
    pub fn to_allocator(&self) -> DeviceAllocator {
        self.allocator.clone()
    }

    /// Closes this root: it refuses new work from now on. First retires each [twin](crate::TwinExt) whose node on the
    /// host has left its tree, which would count as outstanding otherwise. The twins of other nodes do count.
    ///
    /// The `close` of [`to_allocator`](Self::to_allocator) or [`accounting`](DeviceAllocator::accounting) leaves the twins
    /// as they are.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with all that is outstanding; in debug mode with the lines of code that created it.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_core::RootAllocator;
    /// use arrow_memory_device::{DeviceRoot, SimDevice, TwinExt};
    ///
    /// let host = RootAllocator::new(1 << 20);
    /// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let query = host.child("query-7").build()?;
    /// query.twin(&gpu)?;
    /// drop(query);
    /// assert!(gpu.close().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(
        clippy::result_large_err,
        reason = "a failed close is rare, and its report is what the caller wants"
    )]
    #[track_caller]
    pub fn close(&self) -> Result<(), CloseError> {
        self.twins.retire_ended();
        self.allocator.close()
    }

    /// Retires this root: it refuses new work from now on, as a closed one does. First retires each
    /// [twin](crate::TwinExt) whose node on the host has left its tree.
    pub fn retire(&self) {
        self.twins.retire_ended();
        self.allocator.retire();
    }
}

impl Deref for DeviceRoot {
    type Target = DeviceAllocator;

    fn deref(&self) -> &DeviceAllocator {
        &self.allocator
    }
}

impl fmt::Debug for DeviceRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceRoot").field(&self.allocator).finish()
    }
}

impl fmt::Display for DeviceRoot {
    /// Writes the text of the root's [`accounting`](DeviceAllocator::accounting).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.allocator.fmt(f)
    }
}

/// Builds a [`DeviceRoot`].
///
/// ```
/// # use arrow_memory_system as _;
/// use std::time::Duration;
/// use arrow_memory_device::{Device, DeviceRoot};
///
/// let root = DeviceRoot::builder()
///     .limit(1 << 20)
///     .options(|root| root.statistics(true).patience(Duration::from_secs(5)))
///     .build()?; // without a manager: the memory of the CPU
/// assert_eq!((root.device(), root.name()), (Device::CPU, "cpu"));
/// # Ok::<(), arrow_memory_core::BackendError>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct DeviceRootBuilder {
    root: RootAllocatorBuilder,
    name: Option<String>,
    manager: Option<Arc<dyn DeviceManager>>,
}

impl DeviceRootBuilder {
    /// Sets the root's name; that of the device, as in `cuda:0`, by default.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets the limit of the whole tree in bytes of the device. Without this call, or with a value above
    /// `isize::MAX`, there is no limit.
    ///
    /// The limit is about what is charged. A block's charge is given back when the manager has taken the block back, and
    /// a manager may take it back before work that still uses it is over: then the device frees the block later,
    /// after that work. Until then the device has more bytes in use than the tree is charged for. Leave room for what is
    /// queued, or synchronise the streams before you drop what they use.
    pub fn limit(self, limit: usize) -> Self {
        self.options(|root| root.limit(limit))
    }

    /// Sets the manager of the device's memory; by default that is a [`CpuManager`], for the CPU.
    pub fn manager(mut self, manager: Arc<dyn DeviceManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Sets other options of the core's builder, such as debug mode, statistics or a listener. The core's
    /// manager, its backend and the name are set by this builder.
    pub fn options(
        mut self,
        set: impl FnOnce(RootAllocatorBuilder) -> RootAllocatorBuilder,
    ) -> Self {
        self.root = set(self.root);
        self
    }

    /// Builds the root. Asks nothing of the device but its name.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if no manager was set, and no backend for the CPU's memory is linked into the program or
    /// the default one does not start.
    #[track_caller]
    pub fn build(self) -> Result<DeviceRoot, BackendError> {
        let manager = match self.manager {
            Some(manager) => manager,
            None => CpuManager::new()?,
        };
        let device = manager.device();
        let name = self.name.unwrap_or_else(|| device.to_string());
        let root = self.root.name(&name);
        let root = root.allocation_manager(Arc::new(NoBlocks::new(device)));
        Ok(DeviceRoot {
            allocator: DeviceAllocator::of(root.build()?.into(), manager),
            twins: Arc::default(),
        })
    }
}

/// The core's manager of a device's tree: it has no memory of the host to give.
#[derive(Debug)]
struct NoBlocks {
    device: Device,
    name: String,
}

impl NoBlocks {
    fn new(device: Device) -> Self {
        let name = device.to_string();
        Self { device, name }
    }
}

// SAFETY: it lends no block.
unsafe impl AllocationManager for NoBlocks {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(&self, _layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        Err(ManagerError::new(format!(
            "this is the tree of device `{}`: allocate with `DeviceAllocator::allocate`",
            self.device
        )))
    }

    unsafe fn deallocate(&self, _ptr: NonNull<u8>, _layout: Layout) {
        // No block was lent, so there is none to take back.
    }
}

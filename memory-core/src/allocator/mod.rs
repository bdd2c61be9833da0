//! [`RootAllocator`] and [`BufferAllocator`]: the handles that programs hold.

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::sync::Arc;

use arrow_memory_manager::{AllocationManager, BackendError};

use crate::accounting::{Handle, Node, Refusal};
use crate::debug::Operation;
use crate::error::AllocError;
use crate::events;
use crate::outcome::{AllocatorId, AllocatorInfo, Purpose};
use crate::reclaim::retry_after_asking;
use crate::rounding::{PaddingRoundingPolicy, RoundingPolicy};

mod builder;
mod close;
mod reserve;
mod state;
mod weak;

pub use builder::{ChildAllocatorBuilder, RootAllocatorBuilder};
pub use weak::WeakBufferAllocator;

/// An allocator: a node of a tree, with a name, a limit, a reservation and exact counters.
///
/// This is a handle: a clone costs one atomic addition and equals the original. The node lives as long as
/// it has handles, children or charged bytes. All methods may be called from any thread and from inside
/// any callback.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(64 << 20);
/// let query = root.new_child_allocator("query-7", 0, 16 << 20)?;
/// let mut buffer = query.buffer(1000)?;
/// buffer.extend_from_slice(b"columns")?;
/// assert_eq!(query.allocated_memory(), 1024);
/// assert_eq!(root.allocated_memory(), 1024);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias("MemoryPool", "BaseAllocator", "Accountant", "MemoryConsumer"))]
pub struct BufferAllocator {
    pub(crate) handle: Handle,
}

/// The root of a tree. It owns the tree, and the tree's one [`AllocationManager`].
///
/// It dereferences to the root's [`BufferAllocator`]. Dropping it drops one handle: allocated memory
/// stays valid.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{BufferAllocator, RootAllocator};
///
/// let root = RootAllocator::new(1 << 20);
/// let buffer = root.buffer_from_slice(b"kept")?;
/// let allocator: BufferAllocator = root.into(); // one type for roots and children
/// drop(allocator);
/// assert_eq!(buffer.allocator().allocated_memory(), 64); // buffers keep their tree
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias("MemoryPool", "GreedyMemoryPool"))]
pub struct RootAllocator {
    allocator: BufferAllocator,
}

impl RootAllocator {
    /// Creates a root with a limit in bytes over the default backend (see [`backend`](crate::backend)).
    ///
    /// A `limit` above `isize::MAX` means no limit.
    ///
    /// # Panics
    ///
    /// If no backend is linked into the program, or the default one does not start; the message says what
    /// to do. [`try_new`](Self::try_new) returns an error instead.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// assert_eq!(root.limit(), 1 << 20);
    /// ```
    #[track_caller]
    #[doc(alias = "with_memory_limit")]
    pub fn new(limit: usize) -> Self {
        match Self::try_new(limit) {
            Ok(root) => root,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Creates a root with a limit in bytes over the default backend, or returns an error where
    /// [`new`](Self::new) panics.
    ///
    /// A `limit` above `isize::MAX` means no limit.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if no backend is linked into the program, or the default one does not start.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::try_new(1 << 20)?;
    /// # Ok::<(), arrow_memory_core::BackendError>(())
    /// ```
    #[track_caller]
    pub fn try_new(limit: usize) -> Result<Self, BackendError> {
        Self::builder().limit(limit).build()
    }

    /// Creates a root without a limit over the default backend.
    ///
    /// # Panics
    ///
    /// If no backend is linked into the program, or the default one does not start.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::unlimited();
    /// assert_eq!(root.headroom(), isize::MAX);
    /// ```
    #[track_caller]
    #[doc(alias = "UnboundedMemoryPool")]
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Returns a builder of a root, with all options.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_core::{PowerOfTwoRoundingPolicy, RootAllocator};
    ///
    /// let root = RootAllocator::builder()
    ///     .name("server")
    ///     .limit(8 << 30)
    ///     .backend("system")
    ///     .rounding_policy(PowerOfTwoRoundingPolicy)
    ///     .build()?;
    /// assert_eq!(root.name(), "server");
    /// # Ok::<(), arrow_memory_core::BackendError>(())
    /// ```
    pub fn builder() -> RootAllocatorBuilder {
        RootAllocatorBuilder::default()
    }
}

impl fmt::Display for RootAllocator {
    /// Writes the same text as the root's [`BufferAllocator`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.allocator, f)
    }
}

impl Deref for RootAllocator {
    type Target = BufferAllocator;

    fn deref(&self) -> &BufferAllocator {
        &self.allocator
    }
}

impl From<RootAllocator> for BufferAllocator {
    fn from(root: RootAllocator) -> Self {
        root.allocator
    }
}

impl BufferAllocator {
    pub(crate) fn from_handle(handle: Handle) -> Self {
        Self { handle }
    }

    /// Creates a child with a reservation and a limit, both in bytes.
    ///
    /// `init_reservation` is charged here at once, used or not; [`set_reservation`](Self::set_reservation)
    /// changes it. Allocations beyond it are charged here when they are made. A `max_allocation` above
    /// `isize::MAX` means no limit of its own. The child inherits the listener and the rounding policy;
    /// [`child`](Self::child) has more options. The call takes the tree's lock once.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if the reservation does not fit: in the child's own limit
    ///   (the error then names the child), here, or in an ancestor.
    /// * [`AllocError::Closed`] if this allocator, or one whose memory the reservation would need, is
    ///   closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let child = root.new_child_allocator("sort", 4096, 65536)?;
    /// assert_eq!((child.allocated_memory(), root.allocated_memory()), (0, 4096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "newChildAllocator")]
    pub fn new_child_allocator(
        &self,
        name: &str,
        init_reservation: usize,
        max_allocation: usize,
    ) -> Result<BufferAllocator, AllocError> {
        self.child(name)
            .reservation(init_reservation)
            .limit(max_allocation)
            .build()
    }

    /// Returns a builder of a child of this allocator with that name, with all options.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let child = root.child("join").limit(65536).build()?;
    /// assert_eq!(child.parent_allocator().as_ref(), Some(&*root));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias("newChildAllocator", "ProxyMemoryPool", "register"))]
    pub fn child(&self, name: &str) -> ChildAllocatorBuilder {
        ChildAllocatorBuilder::new(self.clone(), name)
    }

    /// Returns the parent; `None` for a root, and for an allocator that has left its tree.
    #[doc(alias = "getParentAllocator")]
    pub fn parent_allocator(&self) -> Option<BufferAllocator> {
        self.handle.parent().map(Self::from_handle)
    }

    /// Returns the root of the tree: this allocator itself if it is a root or has left its tree.
    #[doc(alias = "getRoot")]
    pub fn root_allocator(&self) -> BufferAllocator {
        Self::from_handle(self.handle.root())
    }

    /// Returns the children that are in the tree, in order of creation. O(children) under the tree's
    /// lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
    /// assert_eq!(root.child_allocators(), [scan.clone(), join]);
    /// assert_eq!(scan.parent_allocator().as_ref(), Some(&*root));
    /// assert_eq!(scan.root_allocator(), *root);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "getChildAllocators")]
    pub fn child_allocators(&self) -> Vec<BufferAllocator> {
        self.handle
            .children()
            .into_iter()
            .map(Self::from_handle)
            .collect()
    }

    /// Returns a weak handle, which keeps nothing alive, for listeners and exporters.
    pub fn downgrade(&self) -> WeakBufferAllocator {
        WeakBufferAllocator::of(&self.handle)
    }

    /// Returns the name from the builder, which need not be unique.
    pub fn name(&self) -> &str {
        &self.handle.info.name
    }

    /// Returns the identity, which is unique in the process and never used again.
    pub fn id(&self) -> AllocatorId {
        self.handle.info.id
    }

    /// Returns the name and the identity as plain data.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let (one, two) = (root.child("scan").build()?, root.child("scan").build()?);
    /// assert_eq!(one.name(), two.name());
    /// assert_ne!(one.id(), two.id());
    /// assert_eq!(one.info().id, one.id());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn info(&self) -> &AllocatorInfo {
        &self.handle.info
    }

    /// Returns the number that orders who is asked first when [memory is short](Self::on_shortage): what
    /// [`ChildAllocatorBuilder::priority`](crate::ChildAllocatorBuilder::priority) set for this allocator or for the nearest one above it
    /// that has one; 0 without.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let query = root.child("query").priority(3).build()?;
    /// assert_eq!((root.priority(), query.child("scan").build()?.priority()), (0, 3));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn priority(&self) -> i32 {
        self.node().priority
    }

    /// Returns the policy that decides the capacity of this allocator's buffers.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// assert_eq!(root.rounding_policy().rounded_size(100), 128);
    /// ```
    pub fn rounding_policy(&self) -> &dyn RoundingPolicy {
        self.handle
            .policy
            .as_deref()
            .unwrap_or(&PaddingRoundingPolicy)
    }

    /// Returns the backend of the tree.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// assert_eq!(root.allocation_manager().name(), "system");
    /// root.release_unused(); // asks the backend to free cached memory
    /// ```
    pub fn allocation_manager(&self) -> &Arc<dyn AllocationManager> {
        self.handle.tree.manager()
    }

    /// Returns whether debug mode is on in this tree.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::builder().debug(true).build()?;
    /// assert!(root.is_debug() && root.child("scan").build()?.is_debug());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_debug(&self) -> bool {
        self.handle.tree.config.debug
    }

    /// Asks the backend to give cached memory back to the operating system. May be slow.
    #[doc(alias = "ReleaseUnused")]
    pub fn release_unused(&self) {
        let _span = events::slow("release_unused", self.info());
        self.handle.manager().release_unused();
    }

    /// Charges `bytes` of memory that other code holds: external bytes.
    ///
    /// Zero charges nothing. The limits apply as to a buffer; the listener is not told. The cost is that
    /// of charging a buffer, usually one compare-exchange.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between here and the root would be passed.
    /// * [`AllocError::Closed`] if this allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// Nothing is charged after an error.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// root.allocate_bytes(5000)?;
    /// assert_eq!(root.allocated_memory(), 5000);
    /// root.release_bytes(5000);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "allocateBytes")]
    pub fn allocate_bytes(&self, bytes: usize) -> Result<(), AllocError> {
        if bytes == 0 {
            return self.check_open(0);
        }
        if let Err(refusal) = self.handle.charge_external(bytes) {
            self.charge_external_after(refusal, bytes)?;
        }
        self.note(Operation::ExternalCharged, bytes, Location::caller());
        Ok(())
    }

    /// Asks others for memory after a refusal, and charges once more.
    #[cold]
    fn charge_external_after(&self, refusal: Box<Refusal>, bytes: usize) -> Result<(), AllocError> {
        let charge = || self.handle.charge_external(bytes);
        retry_after_asking(&self.handle, bytes, refusal, charge)
            .map_err(|refusal| refusal.report(bytes, Purpose::Bytes))
    }

    /// Charges `bytes` even past a limit or to a closed allocator; `true` if no limit is passed.
    ///
    /// This is for memory that exists anyway. Zero charges nothing and fits. The bytes are counted (see
    /// [`AllocatorStats::forced_bytes`](crate::AllocatorStats)), and
    /// [`is_over_limit`](Self::is_over_limit) takes them into account. The call takes the tree's lock. An
    /// allocator that has left its tree counts these bytes for itself alone.
    ///
    /// # Panics
    ///
    /// If a sum would pass `isize::MAX`; nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// assert!(!root.force_allocate(1500));
    /// assert!(root.is_over_limit());
    /// root.release_bytes(1500);
    /// ```
    #[track_caller]
    #[doc(alias = "forceAllocate")]
    pub fn force_allocate(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        match self.handle.force_external(bytes) {
            Ok(fits) => {
                self.note(Operation::ExternalCharged, bytes, Location::caller());
                fits
            }
            Err(refusal) => panic!("{}", refusal.to_error(bytes, Purpose::Bytes)),
        }
    }

    /// Gives back `bytes` external bytes.
    ///
    /// # Panics
    ///
    /// If this allocator has fewer external bytes; nothing has changed then. The bytes of a reservation
    /// are not external: only the reservation gives them back.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// root.allocate_bytes(5000)?;
    /// root.release_bytes(2000); // not the amount that was charged
    /// assert_eq!(root.stats().external_bytes, 3000);
    /// root.release_bytes(3000);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "releaseBytes")]
    pub fn release_bytes(&self, bytes: usize) {
        if bytes > 0 {
            self.handle.release_external(bytes);
        }
        self.note(Operation::ExternalReleased, bytes, Location::caller());
    }

    /// In debug mode, notes an event of this allocator.
    #[inline]
    fn note(&self, operation: Operation, detail: usize, caller: &'static Location<'static>) {
        if self.node().is_debug()
            && let Some(trail) = self.node().trail()
        {
            trail.note(operation, detail, Some(caller));
        }
    }

    fn check_open(&self, requested: usize) -> Result<(), AllocError> {
        if self.is_closed() {
            return Err(AllocError::Closed {
                allocator: self.info().clone(),
                requested,
                purpose: Box::new(Purpose::Bytes),
            });
        }
        Ok(())
    }

    pub(crate) fn node(&self) -> &Node {
        &self.handle
    }
}

impl PartialEq for BufferAllocator {
    /// Returns whether both are handles of the same node.
    fn eq(&self, other: &Self) -> bool {
        self.handle.ptr() == other.handle.ptr()
    }
}

impl Eq for BufferAllocator {}

impl fmt::Debug for BufferAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferAllocator")
            .field("name", &self.name())
            .field("id", &self.id().as_u64())
            .finish_non_exhaustive()
    }
}

//! Foreign memory: wrapped, charged and shared like our own, and released exactly once.
#![expect(unsafe_code, reason = "views memory that somebody else made")]

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;

use super::ArrowBuf;
use super::charge::Charge;
use super::errors::overflow;
use super::notify::{count_allocation, tell_allocation};
use crate::accounting::Handle;
use crate::allocator::BufferAllocator;
use crate::debug::Operation;
use crate::error::AllocError;
use crate::events::quietly;
use crate::ledger::{LedgerRef, Weak};
use crate::outcome::{AllocatorInfo, Purpose};
use crate::probes;
use crate::raw::release::{ForeignId, Release, ReleaseFn};
use crate::raw::slot::{Block, MAX_SPECIAL};
use crate::size::{ALIGNMENT, MAX_SIZE};
use crate::sync::Ordering;

mod error;
mod room;

pub use error::ForeignError;
pub use room::ForeignRoom;

/// Memory that somebody else made, to be put under an allocator by
/// [`wrap_foreign_allocation`](BufferAllocator::wrap_foreign_allocation).
///
/// It is released exactly once: when the last buffer on it goes, or when this value is dropped
/// without having been wrapped.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{ForeignAllocation, RootAllocator};
///
/// let root = RootAllocator::new(100);
/// let foreign = ForeignAllocation::from_owner(vec![7_u8; 60]);
/// assert_eq!((foreign.size(), foreign.charged_size()), (60, 60));
/// let buffer = root.wrap_foreign_allocation(foreign)?;
/// let slice = buffer.slice(50..); // shared like our own
/// drop(buffer);
/// assert_eq!((slice.as_slice(), root.allocated_memory()), (&[7; 10][..], 60));
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
// Invariants:
//
// 1. `ptr` is valid for reads of `size` initialised bytes, which nobody writes, from any thread,
//    until `release` has run.
pub struct ForeignAllocation {
    ptr: NonNull<u8>,
    size: usize,
    /// What it is charged at.
    charge: usize,
    forced: bool,
    /// `None` once it was handed on.
    release: Option<Release>,
}

// SAFETY: by invariant 1 the memory may be read from any thread, and the release is Send.
unsafe impl Send for ForeignAllocation {}
// SAFETY: a shared reference leads to numbers only; the release takes the value itself. (So that
// `ForeignError` is an error that may be boxed, sent and shared, as callers of `?` expect.)
unsafe impl Sync for ForeignAllocation {}

impl ForeignAllocation {
    /// The bytes of an owner, which is kept until they are released, then dropped.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_core::{ForeignAllocation, RootAllocator};
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let buffer = root.wrap_foreign_allocation(ForeignAllocation::from_owner(vec![1, 2, 3]))?;
    /// assert_eq!((buffer.as_slice(), root.allocated_memory()), (&[1, 2, 3][..], 3));
    /// # Ok::<(), arrow_memory_core::ForeignError>(())
    /// ```
    #[doc(alias("FromVector", "FromString"))]
    pub fn from_owner(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        // At a fixed place first: some owners hold their bytes inline.
        let owner = Owner::new(owner);
        let bytes: &[u8] = owner.get().as_ref();
        let (ptr, size) = (NonNull::from(bytes).cast(), bytes.len());
        // SAFETY: the owner lent these bytes as a shared slice; it is not touched, let alone
        // written, until it is dropped by the release. It is Send and Sync.
        unsafe { Self::new(ptr, size, move || drop(owner)) }
    }

    /// `size` bytes at `ptr`, given back by `release`.
    ///
    /// A panic of `release` is caught and reported.
    ///
    /// # Safety
    ///
    /// Until `release` is called, the bytes are initialised, may be read from any thread, and are
    /// written by nobody. `size` is at most `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use std::ptr::NonNull;
    ///
    /// use arrow_memory_core::ForeignAllocation;
    ///
    /// # let (ptr, size) = (Box::into_raw(Box::new([7_u8; 8])), 8); // as from C
    /// let start = NonNull::new(ptr.cast::<u8>()).unwrap();
    /// let address = ptr.expose_provenance();
    /// let free = move || {
    ///     let ptr: *mut [u8; 8] = std::ptr::with_exposed_provenance_mut(address);
    ///     // SAFETY: from a box, and released once.
    ///     drop(unsafe { Box::from_raw(ptr) });
    /// };
    /// // SAFETY: eight bytes, which nobody writes until they are freed.
    /// let foreign = unsafe { ForeignAllocation::new(start, size, free) };
    /// assert_eq!(root.wrap_foreign_allocation(foreign)?.as_slice(), [7; 8]);
    /// # Ok::<(), arrow_memory_core::ForeignError>(())
    /// ```
    pub unsafe fn new(
        ptr: NonNull<u8>,
        size: usize,
        release: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::with(ptr, size, Release::new(release))
    }

    /// As [`new`](Self::new), given back by a function that needs no more than the address and the
    /// identity of the allocation: for registries, which have the rest.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use std::ptr::NonNull;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// use arrow_memory_core::{ForeignAllocation, ReleaseFn};
    ///
    /// static LAST: AtomicUsize = AtomicUsize::new(0);
    /// static RELEASE: ReleaseFn = ReleaseFn::new(|_start, id| {
    ///     LAST.store(id.map_or(0, |id| id.get()), Ordering::Relaxed);
    /// });
    ///
    /// let bytes: &'static [u8] = b"from a constant";
    /// let start = NonNull::from(bytes).cast();
    /// // SAFETY: nobody ever writes or frees them.
    /// let foreign = unsafe { ForeignAllocation::with_release(start, bytes.len(), &RELEASE) };
    /// let buffer = root.wrap_foreign_allocation(foreign)?;
    /// let id = buffer.downgrade().expect("it is foreign").id();
    /// drop(buffer);
    /// assert_eq!(LAST.load(Ordering::Relaxed), id.get());
    /// # Ok::<(), arrow_memory_core::ForeignError>(())
    /// ```
    pub unsafe fn with_release(ptr: NonNull<u8>, size: usize, release: &'static ReleaseFn) -> Self {
        Self::with(ptr, size, Release::by_function(release))
    }

    fn with(ptr: NonNull<u8>, size: usize, release: Release) -> Self {
        debug_assert!(size <= MAX_SIZE);
        Self {
            ptr,
            size,
            charge: size,
            forced: false,
            release: Some(release),
        }
    }

    /// Has it charged even over the limits, since the memory exists anyway.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// # use arrow_memory_core::ForeignAllocation;
    /// root.set_limit(10);
    /// let foreign = ForeignAllocation::from_owner(vec![1; 60]);
    /// let refused = root.wrap_foreign_allocation(foreign).unwrap_err();
    /// let _buffer = root.wrap_foreign_allocation(refused.allocation.forced())?;
    /// assert!(root.is_over_limit());
    /// # Ok::<(), arrow_memory_core::ForeignError>(())
    /// ```
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.forced = true;
        self
    }

    /// Has it charged as `bytes`, if that is more than its size: for memory of which only the first
    /// part may be read, as a vector's with spare capacity.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// # let root = RootAllocator::new(1 << 20);
    /// let foreign = ForeignAllocation::from_owner(vec![1, 2, 3]).charged_as(100);
    /// let buffer = root.wrap_foreign_allocation(foreign)?;
    /// assert_eq!((buffer.len(), root.allocated_memory()), (3, 100));
    /// # Ok::<(), arrow_memory_core::ForeignError>(())
    /// ```
    #[must_use]
    pub fn charged_as(mut self, bytes: usize) -> Self {
        self.charge = bytes.max(self.size);
        self
    }

    /// The size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes that it is charged at.
    pub fn charged_size(&self) -> usize {
        self.charge
    }

    /// What an error says was asked for: where more is charged than what is seen, that is said.
    fn request(&self) -> (usize, Purpose) {
        Purpose::of_buffer(self.size, self.charge)
    }

    /// Refuses what the bookkeeping of foreign memory cannot express, for `handle`.
    pub(crate) fn check_size(&self, handle: &Handle) -> Result<(), AllocError> {
        if self.charge > MAX_SPECIAL {
            return Err(overflow(handle, self.charge));
        }
        Ok(())
    }
}

/// A box, but for the claim that a `Box` makes whenever it is moved: that nothing else leads to
/// what is in it. The bytes of the owner are viewed while this moves into the release.
struct Owner<T>(NonNull<T>);

// SAFETY: as a `Box`: it owns the value.
unsafe impl<T: Send> Send for Owner<T> {}

impl<T> Owner<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    fn get(&self) -> &T {
        // SAFETY: alive until the drop, and only shared.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        // SAFETY: from a box, in `new`, and dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Drop for ForeignAllocation {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            quietly(&AllocatorInfo::nobody(), || release.call(self.ptr, None));
        }
    }
}

impl fmt::Debug for ForeignAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignAllocation")
            .field("address", &self.ptr)
            .field("size", &self.size)
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}

impl BufferAllocator {
    /// Takes foreign memory in: a buffer on it, charged to this allocator at its exact size.
    ///
    /// An empty allocation is charged nothing and released at once.
    ///
    /// # Errors
    ///
    /// [`ForeignError`] as for [`buffer`](Self::buffer); it hands the allocation back. One that is
    /// [`forced`](ForeignAllocation::forced) is refused only by an allocator that has left its
    /// tree, or if a sum would pass `isize::MAX`.
    #[track_caller]
    #[doc(alias = "wrapForeignAllocation")]
    pub fn wrap_foreign_allocation(
        &self,
        allocation: ForeignAllocation,
    ) -> Result<ArrowBuf, ForeignError> {
        if allocation.size == 0 {
            return Ok(self.empty());
        }
        // From here on a panic of the listener drops the allocation, or the buffer.
        let charged = allocation
            .check_size(&self.handle)
            .and_then(|()| charge(&self.handle, &allocation));
        match charged {
            Ok(()) => {
                let buffer = self.wrap_charged(allocation);
                tell_allocation(self.node(), buffer.ledger().allocation_size());
                Ok(buffer)
            }
            Err(source) => Err(ForeignError { allocation, source }),
        }
    }

    /// A buffer on an allocation that is not empty and whose charge was made. The listener is yet to be
    /// told.
    #[track_caller]
    #[inline]
    pub(crate) fn wrap_charged(&self, allocation: ForeignAllocation) -> ArrowBuf {
        // Its release moves into the ledger below, whatever comes between.
        let mut allocation = ManuallyDrop::new(allocation);
        let (ptr, size) = (allocation.ptr, allocation.charge);
        debug_assert!(allocation.check_size(&self.handle).is_ok());
        let release = allocation.release.take();
        debug_assert!(release.is_some());
        let node = self.node();
        // Relaxed: a number for readers.
        node.foreign.fetch_add(size, Ordering::Relaxed);
        probes::allocate(ptr, size, node.probed());
        let block = Block {
            ptr,
            align: ALIGNMENT,
        };
        // SAFETY: the bytes were charged just now; `release` gives the memory back.
        let ledger = unsafe { LedgerRef::new(self.handle.ptr(), block, size, release) };
        // SAFETY: by the allocation's invariant 1 the bytes are readable until the release, which
        // the ledger has.
        let mut buffer = unsafe { ArrowBuf::new(ptr, allocation.size, ledger) };
        if node.is_debug() {
            buffer.register(Operation::Wrapped, Location::caller());
        }
        buffer.sample(size);
        count_allocation(node, size);
        buffer
    }
}

/// Finds the buffers of a foreign allocation again, and keeps none alive.
///
/// For registries that lead from an address to the buffer that it was adopted as.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// # use arrow_memory_core::ForeignAllocation;
/// use std::ptr::NonNull;
///
/// let buffer = root.wrap_foreign_allocation(ForeignAllocation::from_owner(vec![1, 2, 3]))?;
/// let weak = buffer.downgrade().expect("it is foreign");
/// let first = NonNull::from(&buffer[..2]).cast();
/// // SAFETY: two bytes of the allocation, which `buffer` keeps from being released.
/// let found = unsafe { weak.upgrade(first, 2) }.expect("it is alive");
/// assert_eq!((found.as_slice(), buffer.ref_count()), (&[1, 2][..], 2));
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
pub struct WeakForeign(Weak);

impl WeakForeign {
    /// Which allocation this finds, as its [release](ReleaseFn) is told.
    pub fn id(&self) -> ForeignId {
        self.0.id()
    }

    /// A buffer that views `len` bytes at `ptr` on one of the allocation's ledgers, unless its last
    /// buffer has gone. Which allocator's ledger it is, is not specified.
    ///
    /// This may be called with a lock held: it raises a count, and takes the tree's mutex where the
    /// allocation has several ledgers. It allocates nothing, and so does not register the buffer in
    /// debug mode: [`registered`](ArrowBuf::registered) does that afterwards. Do not drop the buffer
    /// while the lock is held: it may be the last one.
    ///
    /// # Safety
    ///
    /// * The release of the allocation has not returned, and does not before this does.
    /// * The bytes are initialised, and may be read until the allocation is released.
    pub unsafe fn upgrade(&self, ptr: NonNull<u8>, len: usize) -> Option<ArrowBuf> {
        // SAFETY: the caller's promise.
        let ledger = unsafe { self.0.upgrade() }?;
        // SAFETY: the caller's promise; the ledger keeps the allocation.
        Some(unsafe { ArrowBuf::new(ptr, len, ledger) })
    }
}

impl fmt::Debug for WeakForeign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakForeign")
    }
}

impl ArrowBuf {
    /// This buffer, registered as made by the caller if its tree is in debug mode and it is not
    /// registered yet: what [`WeakForeign::upgrade`] returns is not.
    ///
    /// ```
    /// # use arrow_memory_core::ForeignAllocation;
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::builder().debug(true).build()?;
    /// let buffer = root.wrap_foreign_allocation(ForeignAllocation::from_owner(vec![1, 2, 3]))?;
    /// let weak = buffer.downgrade().unwrap();
    /// let start = std::ptr::NonNull::from(&buffer[..]).cast();
    /// // SAFETY: bytes of the allocation, which `buffer` keeps from being released.
    /// let found = unsafe { weak.upgrade(start, 3) }.unwrap();
    /// assert!(!found.to_verbose_string().contains("created at"));
    /// assert!(found.registered().to_verbose_string().contains("created at"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn registered(mut self) -> ArrowBuf {
        if self.ledger().node().is_debug() && !self.ledger().is_registered() {
            self.register(Operation::Retained, Location::caller());
        }
        self
    }

    /// A weak reference to this buffer's allocation, if that is foreign; `None` otherwise.
    pub fn downgrade(&self) -> Option<WeakForeign> {
        self.ledger().downgrade().map(WeakForeign)
    }

    /// A view of `len` bytes at `ptr` on this buffer's ledger, wherever they lie.
    ///
    /// # Safety
    ///
    /// The bytes are initialised, may be read as long as the allocation of this buffer is not
    /// released, and are written by nobody until then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use std::ptr::NonNull;
    ///
    /// let buffer = root.buffer_from_slice(b"columnar")?;
    /// // SAFETY: bytes of the buffer itself; here `slice` would do.
    /// let view = unsafe { buffer.view_unchecked(NonNull::from(&buffer[3..]).cast(), 3) };
    /// assert_eq!((view.as_slice(), buffer.ref_count()), (&b"umn"[..], 2));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub unsafe fn view_unchecked(&self, ptr: NonNull<u8>, len: usize) -> ArrowBuf {
        let caller = Location::caller();
        let ledger = self.ledger().share(ptr, len, Operation::Sliced, caller);
        // SAFETY: the caller's promise.
        unsafe { ArrowBuf::new(ptr, len, ledger) }
    }
}

fn charge(handle: &Handle, allocation: &ForeignAllocation) -> Result<(), AllocError> {
    let size = allocation.charge;
    if !allocation.forced {
        Charge::asking_and_retrying(handle, size, || allocation.request())?.keep();
        return Ok(());
    }
    match handle.force_block(size) {
        Ok(_) => Ok(()),
        Err(refusal) => {
            let (requested, purpose) = allocation.request();
            Err(refusal.to_error(requested, purpose))
        }
    }
}

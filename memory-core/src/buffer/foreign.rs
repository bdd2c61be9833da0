//! Foreign memory: charged and shared as the tree's own blocks are, and released exactly once.
#![expect(unsafe_code, reason = "views memory from elsewhere")]

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
mod in_place;
mod pieces;
mod room;

pub use error::ForeignError;
pub use in_place::{may_move_in_place, move_in_place};
pub use room::ForeignRoom;

/// Memory from elsewhere, which [`wrap_foreign_allocation`](BufferAllocator::wrap_foreign_allocation)
/// charges to an allocator.
///
/// It is released exactly once: when the last buffer on it is dropped, or when this value is dropped
/// before it was wrapped.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{ForeignAllocation, RootAllocator};
///
/// let root = RootAllocator::new(100);
/// let foreign = ForeignAllocation::from_owner(vec![7_u8; 60]);
/// assert_eq!((foreign.size(), foreign.charged_size()), (60, 60));
/// let buffer = root.wrap_foreign_allocation(foreign)?;
/// let slice = buffer.slice(50..); // shared without a copy
/// drop(buffer);
/// assert_eq!((slice.as_slice(), root.allocated_memory()), (&[7; 10][..], 60));
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
// Invariants:
//
// 1. `ptr` is valid for reads of `size` initialised bytes, from any thread, and no thread writes them,
// until `release` has run.
pub struct ForeignAllocation {
    ptr: NonNull<u8>,
    size: usize,
    /// The bytes to charge; at least `size`.
    charge: usize,
    forced: bool,
    /// `None` once it was moved into a ledger.
    release: Option<Release>,
}

// SAFETY: by invariant 1 any thread may read the memory, and the release is Send.
unsafe impl Send for ForeignAllocation {}
// SAFETY: a shared reference gives access to numbers only; the release needs the value itself. (So
// callers of `?` can box, send and share a `ForeignError`.)
unsafe impl Sync for ForeignAllocation {}

impl ForeignAllocation {
    /// Wraps the bytes of an owner, which is dropped when the memory is released. Costs two heap
    /// allocations.
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
        // The owner is moved to its final address first, because some owners store their bytes inline.
        let owner = Owner::new(owner);
        let bytes: &[u8] = owner.get().as_ref();
        let (ptr, size) = (NonNull::from(bytes).cast(), bytes.len());
        // SAFETY: the owner lends these bytes as a shared slice, and it is not used, and so not written,
        // until the release drops it. It is Send and Sync.
        unsafe { Self::new(ptr, size, move || drop(owner)) }
    }

    /// Wraps `size` bytes at `ptr`, which `release` frees.
    ///
    /// A panic of `release` is caught and reported.
    ///
    /// # Safety
    ///
    /// Until `release` is called, the bytes are initialised, any thread may read them, and no thread
    /// writes them. `size` is at most `isize::MAX`.
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
    /// // SAFETY: eight bytes; no thread writes them until they are freed.
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

    /// Wraps `size` bytes at `ptr`, which a static function releases. The function gets only the address
    /// and the identity of the allocation: this is for registries, which know the rest. Costs no heap
    /// allocation.
    ///
    /// # Safety
    ///
    /// Until `release` is called, the bytes are initialised, any thread may read them, and no thread
    /// writes them. `size` is at most `isize::MAX`.
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
    /// // SAFETY: the bytes are constant: no thread writes or frees them.
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

    /// Makes wrapping charge the bytes even past a limit: for memory that exists anyway.
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

    /// Makes wrapping charge `bytes`, if that is more than the size: for memory of which only the first
    /// part may be read, such as a vector with spare capacity.
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

    /// Returns the size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the bytes that wrapping charges.
    pub fn charged_size(&self) -> usize {
        self.charge
    }

    /// Returns the requested bytes and the purpose for an error, which says if more is charged than can
    /// be read.
    fn request(&self) -> (usize, Purpose) {
        Purpose::of_buffer(self.size, self.charge)
    }

    /// Refuses, in the name of `handle`, a size that a slot cannot store for foreign memory.
    pub(crate) fn check_size(&self, handle: &Handle) -> Result<(), AllocError> {
        if self.charge > MAX_SPECIAL {
            return Err(overflow(handle, self.charge));
        }
        Ok(())
    }
}

/// A box without the claim of `Box` that no other pointer leads to its contents while it is moved: the
/// bytes of the owner are in use while this moves into the release.
struct Owner<T>(NonNull<T>);

// SAFETY: it owns the value, as a `Box` does.
unsafe impl<T: Send> Send for Owner<T> {}

impl<T> Owner<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    fn get(&self) -> &T {
        // SAFETY: the value is alive until the drop, and only shared references to it exist.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box, in `new`, and is dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Drop for ForeignAllocation {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            quietly(&AllocatorInfo::nobody(), || {
                release.call(self.ptr, None, None)
            });
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
    /// Wraps foreign memory in a buffer, and charges it to this allocator at its exact size.
    ///
    /// An empty allocation charges nothing and is released at once.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], which returns the allocation. Its source is one of these:
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between here and the root would be passed, after the
    ///   listener had one chance to free memory.
    /// * [`AllocError::Vetoed`] if the listener refuses the request.
    /// * [`AllocError::Closed`] if this allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size exceeds any address space, or a sum `isize::MAX`.
    ///
    /// An allocation that is [`forced`](ForeignAllocation::forced) is refused only by an allocator that
    /// has left its tree (`Closed`), or with `SizeOverflow`.
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

    /// Creates a buffer on an allocation that is not empty and is charged already. The listener is not
    /// told yet.
    #[track_caller]
    #[inline]
    pub(crate) fn wrap_charged(&self, allocation: ForeignAllocation) -> ArrowBuf {
        // The allocation's `Drop` must not run: its release moves into the ledger below.
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
        // SAFETY: by the allocation's invariant 1 the bytes are readable until the release, which the
        // ledger owns.
        let mut buffer = unsafe { ArrowBuf::new(ptr, allocation.size, ledger) };
        if node.is_debug() {
            buffer.register(Operation::Wrapped, Location::caller());
        }
        buffer.sample(size);
        count_allocation(node, size);
        buffer
    }
}

/// A weak reference to a foreign allocation, which finds its buffers again and keeps none alive.
///
/// It is for registries that look up by an address the buffer that was wrapped around it.
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
/// // SAFETY: two bytes of the allocation, which is not released while `buffer` exists.
/// let found = unsafe { weak.upgrade(first, 2) }.expect("it is alive");
/// assert_eq!((found.as_slice(), buffer.ref_count()), (&[1, 2][..], 2));
/// # Ok::<(), arrow_memory_core::ForeignError>(())
/// ```
#[derive(Clone)]
pub struct WeakForeign(Weak);

impl WeakForeign {
    /// Returns the identity of the allocation, which its [release](ReleaseFn) gets too.
    pub fn id(&self) -> ForeignId {
        self.0.id()
    }

    /// Returns a buffer that views `len` bytes at `ptr`, on any one of the allocation's ledgers; `None`
    /// if the last buffer was dropped.
    ///
    /// This may be called while a lock is held: it increments a count, and takes the tree's mutex if the
    /// allocation has several ledgers. It allocates nothing, and so does not register the buffer in debug
    /// mode: call [`registered`](ArrowBuf::registered) afterwards. Do not drop the buffer while the lock
    /// is held: it may be the last one.
    ///
    /// # Safety
    ///
    /// * The release of the allocation has not returned, and does not return before this call does.
    /// * The bytes are initialised, and may be read until the allocation is released.
    pub unsafe fn upgrade(&self, ptr: NonNull<u8>, len: usize) -> Option<ArrowBuf> {
        // SAFETY: by the caller's promise the release has not returned.
        let ledger = unsafe { self.0.upgrade() }?;
        // SAFETY: by the caller's promise the bytes are initialised and readable until the release, which
        // the ledger prevents.
        Some(unsafe { ArrowBuf::new(ptr, len, ledger) })
    }
}

impl fmt::Debug for WeakForeign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakForeign")
    }
}

impl ArrowBuf {
    /// Registers this buffer as created by the caller, if its tree is in debug mode and it is not
    /// registered yet. A buffer from [`WeakForeign::upgrade`] is not registered.
    ///
    /// ```
    /// # use arrow_memory_core::ForeignAllocation;
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::builder().debug(true).build()?;
    /// let buffer = root.wrap_foreign_allocation(ForeignAllocation::from_owner(vec![1, 2, 3]))?;
    /// let weak = buffer.downgrade().unwrap();
    /// let start = std::ptr::NonNull::from(&buffer[..]).cast();
    /// // SAFETY: bytes of the allocation, which is not released while `buffer` exists.
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

    /// Returns a weak reference to this buffer's allocation; `None` if the allocation is not foreign.
    pub fn downgrade(&self) -> Option<WeakForeign> {
        self.ledger().downgrade().map(WeakForeign)
    }

    /// Creates a view of `len` bytes at `ptr` on this buffer's ledger. The bytes need not be part of this
    /// buffer.
    ///
    /// # Safety
    ///
    /// The bytes are initialised. Until the allocation of this buffer is released, they may be read, and
    /// no thread writes them.
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
        // SAFETY: by the caller's promise the bytes are readable until the allocation is released, which
        // the ledger prevents.
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

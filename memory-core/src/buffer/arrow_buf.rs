//! [`ArrowBuf`]: a shared, immutable view.
#![expect(
    unsafe_code,
    reason = "views memory through a pointer that its ledger keeps alive"
)]

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Bound, Deref, RangeBounds};
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;
use std::sync::Arc;

use super::address::{at, nowhere};
use crate::allocator::BufferAllocator;
use crate::debug::{Operation, Seen};
use crate::error::{AllocError, OutOfBounds};
use crate::ledger::LedgerRef;

/// A shared, immutable view of bytes, kept alive and accounted for by a ledger.
///
/// A buffer is three words. A clone, and a drop, costs an atomic addition; the drop of the only handle
/// needs none. Equality and hashes are those of the slice.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let buffer = root.buffer_from_slice(&[1, 2, 3, 4])?;
/// let (clone, tail) = (buffer.clone(), buffer.slice(2..));
/// assert_eq!((buffer.ref_count(), buffer.len(), buffer.is_empty()), (3, 4, false));
/// assert_eq!(tail.as_ptr(), buffer[2..].as_ptr()); // nothing is copied
/// drop((buffer, clone));
/// assert_eq!((tail.as_slice(), root.allocated_memory()), (&[3, 4][..], 64));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
// Invariants:
//
// 1. `ptr` is valid for reads of `len` initialised bytes for as long as `ledger` is held.
// 2. Nobody writes these bytes while any `ArrowBuf` views them.
//
// The fields are in this order for the sake of copies. Three words are copied as a pair and a single one,
// and the pair cannot be read before the single writes that made it have reached the cache. A drop reads
// the ledger, which is the single one, and so need not wait.
#[repr(C)]
#[doc(alias("Buffer", "ReferenceManager", "BufferLedger", "retain", "release"))]
pub struct ArrowBuf {
    pub(super) ptr: NonNull<u8>,
    pub(super) len: usize,
    pub(super) ledger: LedgerRef,
}

// SAFETY: by the invariants the bytes are shared and immutable; `LedgerRef` is Send.
unsafe impl Send for ArrowBuf {}
// SAFETY: as for Send; `LedgerRef` is Sync.
unsafe impl Sync for ArrowBuf {}
impl UnwindSafe for ArrowBuf {}
impl RefUnwindSafe for ArrowBuf {}

impl ArrowBuf {
    /// A view.
    ///
    /// # Safety
    ///
    /// The type's invariants hold.
    #[inline]
    pub(crate) unsafe fn new(ptr: NonNull<u8>, len: usize, ledger: LedgerRef) -> Self {
        Self { ptr, len, ledger }
    }

    pub(crate) fn empty(ledger: LedgerRef) -> Self {
        Self {
            ptr: nowhere(),
            len: 0,
            ledger,
        }
    }

    #[inline]
    pub(crate) fn ledger(&self) -> &LedgerRef {
        &self.ledger
    }

    /// The ledger alone.
    pub(super) fn into_ledger(self) -> LedgerRef {
        self.ledger
    }

    /// The length in bytes.
    #[inline]
    #[doc(alias = "readableBytes")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: by the invariants: initialised, alive while `self` is, and not written.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The address of the first byte; not null, also when there is none.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// The address of the first byte as a number.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(&[1, 2, 3])?;
    /// assert_eq!(buffer.memory_address(), buffer.as_ptr().addr());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "memoryAddress")]
    pub fn memory_address(&self) -> usize {
        self.ptr.addr().get()
    }

    /// A view of part of the bytes, on the same ledger. Costs one atomic addition.
    ///
    /// An empty range gives an [`empty`](BufferAllocator::empty) buffer, which does not keep the
    /// memory.
    ///
    /// # Panics
    ///
    /// If the range starts after its end or ends after the buffer, as std's slices do.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(b"columnar")?;
    /// assert_eq!(buffer.slice(..6).slice(3..).as_slice(), b"umn");
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    #[track_caller]
    #[doc(alias = "SliceBuffer")]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> ArrowBuf {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.checked_add(1).expect("a range's start overflows"),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1).expect("a range's end overflows"),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        // The usual case; it saves the comparison that finds an empty slice.
        if start < end && end <= self.len {
            return self.view(start, end - start);
        }
        Self::empty(self.pin_for(start, end))
    }

    /// The reference for an empty slice, if the range lies within the buffer. It is returned in a register,
    /// where an `ArrowBuf` would not fit.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn pin_for(&self, start: usize, end: usize) -> LedgerRef {
        assert!(
            start <= end,
            "slice index starts at {start} but ends at {end}"
        );
        assert!(
            end <= self.len,
            "range end {end} out of range for buffer of length {}",
            self.len
        );
        self.ledger.to_pin()
    }

    /// A view of `length` bytes from `offset` on. Nothing is copied. [`slice`](Self::slice) panics where
    /// this returns an error.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] if the range does not lie within the buffer.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(b"columnar")?;
    /// assert_eq!(buffer.try_slice(3, 4)?.as_slice(), b"umna");
    /// assert!(buffer.try_slice(3, 6).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn try_slice(&self, offset: usize, length: usize) -> Result<ArrowBuf, OutOfBounds> {
        OutOfBounds::check(offset, length, self.len)?;
        if length == 0 {
            return Ok(Self::empty(self.ledger.to_pin()));
        }
        Ok(self.view(offset, length))
    }

    /// `length > 0` and `offset + length <= self.len`.
    #[inline]
    #[track_caller]
    fn view(&self, offset: usize, length: usize) -> ArrowBuf {
        // SAFETY: the callers checked that the range lies within the buffer.
        let ptr = unsafe { at(self.ptr, offset) };
        Self {
            ptr,
            len: length,
            ledger: (self.ledger).share(ptr, length, Operation::Sliced, Location::caller()),
        }
    }

    /// How many buffers hold this buffer's ledger: clones, slices and what else shares the
    /// allocation through the same allocator. 1 for the empty buffer.
    #[doc(alias = "refCnt")]
    pub fn ref_count(&self) -> usize {
        self.ledger.buffers()
    }

    /// The allocator of this buffer's ledger.
    pub fn allocator(&self) -> BufferAllocator {
        BufferAllocator::from_handle(self.ledger.allocator())
    }

    /// Whether this buffer's ledger is `allocator`'s; as comparing with
    /// [`allocator`](Self::allocator), without a handle.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let other = root.child("other").build()?;
    /// let buffer = root.buffer_from_slice(b"ours")?;
    /// assert_eq!(buffer.allocator(), *root);
    /// assert!(buffer.belongs_to(&root) && !buffer.belongs_to(&other));
    /// assert!(buffer.shares_root(&other));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    pub fn belongs_to(&self, allocator: &BufferAllocator) -> bool {
        self.ledger.node_ptr() == allocator.handle.ptr()
    }

    /// Whether this buffer's allocator and `other` have the same root, so that it can be
    /// [retained](Self::retain_in) there.
    #[inline]
    pub fn shares_root(&self, other: &BufferAllocator) -> bool {
        Arc::ptr_eq(&self.ledger.node().tree, &other.handle.tree)
    }

    /// Tells allocations apart: equal for two live buffers exactly if they are on the same one.
    /// `None` for the empty buffer.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(b"columnar")?;
    /// assert_eq!(buffer.slice(3..).allocation_id(), buffer.allocation_id());
    /// assert_ne!(buffer.compact()?.allocation_id(), buffer.allocation_id());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn allocation_id(&self) -> Option<usize> {
        let slot = self.ledger.slot()?;
        Some(std::ptr::from_ref(slot.home()).addr())
    }

    /// The size of the allocation if this buffer's ledger owns it, else 0: what this buffer's
    /// allocator is charged for it, in bytes.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let other = root.child("other").build()?;
    /// let buffer = root.buffer_from_slice(&[1; 100])?;
    /// let shared = buffer.retain_in(&other)?;
    /// assert_eq!((buffer.accounted_size(), shared.accounted_size()), (128, 0));
    /// assert_eq!((shared.len(), shared.allocation_size()), (100, 128));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "getAccountedSize")]
    pub fn accounted_size(&self) -> usize {
        self.ledger.accounted_size()
    }

    /// The size of the whole allocation that this view keeps alive, in bytes; 0 for the empty one.
    /// Compare with [`len`](Self::len), and see [`compact`](Self::compact).
    #[doc(alias = "getSize")]
    pub fn allocation_size(&self) -> usize {
        self.ledger.allocation_size()
    }

    /// A copy of just these bytes, in an allocation of their own from the same allocator.
    ///
    /// # Errors
    ///
    /// The errors of [`BufferAllocator::buffer`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let page = root.buffer_zeroed(65536)?.freeze();
    /// let name = page.slice(100..110);
    /// assert_eq!(name.allocation_size(), 65536); // kept for ten bytes
    /// let copy = name.compact()?;
    /// drop((page, name));
    /// assert_eq!(root.allocated_memory(), 64);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn compact(&self) -> Result<ArrowBuf, AllocError> {
        self.allocator().buffer_from_slice(self)
    }

    /// Samples the allocation of a buffer that was made just now, if that is due.
    pub(super) fn sample(&self, bytes: usize) {
        if let Some(scale) = self.ledger.node().sample_due(bytes) {
            self.ledger.record_sample(bytes, scale);
        }
    }

    /// Registers a buffer that was made just now, if its tree is in debug mode.
    #[cold]
    pub(super) fn register(&mut self, operation: Operation, caller: &'static Location<'static>) {
        self.ledger
            .register(Seen::shared(self.ptr, self.len), operation, caller);
    }

    /// A description of this buffer for people: address, sizes, references and allocator, in debug mode
    /// with the buffer's history.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::builder().debug(true).build()?;
    /// let buffer = root.buffer_from_slice(&[1; 100])?;
    /// let text = buffer.to_verbose_string();
    /// assert!(text.starts_with("ArrowBuf[2], address: 0x"), "{text}");
    /// assert!(text.contains("length: 100, allocation: 128, accounted: 128"), "{text}");
    /// assert!(text.contains("created at "), "{text}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_verbose_string(&self) -> String {
        let evidence = self.ledger.evidence();
        let name = match &evidence {
            Some(known) => format!("ArrowBuf[{}]", known.history.id),
            None => "ArrowBuf".to_owned(),
        };
        let head = format!(
            "{name}, address: {:#x}, length: {}, allocation: {}, accounted: {}, references: {}, \
             allocator: {}",
            self.memory_address(),
            self.len,
            self.allocation_size(),
            self.accounted_size(),
            self.ref_count(),
            self.ledger.node().info,
        );
        match evidence {
            Some(known) => format!("{head}{}", known.history.to_text("  ")),
            None => head,
        }
    }
}

impl Clone for ArrowBuf {
    #[inline]
    #[track_caller]
    fn clone(&self) -> Self {
        let (ptr, len) = (self.ptr, self.len);
        let ledger = (self.ledger).share(ptr, len, Operation::Cloned, Location::caller());
        Self { ptr, len, ledger }
    }
}

impl Deref for ArrowBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for ArrowBuf {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for ArrowBuf {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for ArrowBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ArrowBuf {}

impl PartialEq<[u8]> for ArrowBuf {
    fn eq(&self, other: &[u8]) -> bool {
        self.as_slice() == other
    }
}

impl Hash for ArrowBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for ArrowBuf {
    /// The address and sizes; not the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowBuf")
            .field("address", &self.ptr)
            .field("length", &self.len)
            .field("allocation_size", &self.allocation_size())
            .finish_non_exhaustive()
    }
}

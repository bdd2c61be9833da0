//! [`ArrowBufMut`]: an exclusive, writable, growable handle.
#![expect(unsafe_code, reason = "tracks which bytes of a block are initialised")]

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;

use super::address::{self, at, nowhere};
use crate::allocator::BufferAllocator;
use crate::debug::{Operation, Seen};
use crate::ledger::LedgerRef;

/// An exclusive handle on memory: writable and growable. [`freeze`](Self::freeze) makes an
/// [`ArrowBuf`](crate::ArrowBuf) of it.
///
/// Dereferences to the `len` bytes that are initialised; what lies between them and the capacity
/// cannot be read by safe code. Growth is charged before it happens, by the difference.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use std::io::Write;
///
/// let mut buffer = root.buffer(64)?;
/// assert_eq!((buffer.len(), buffer.is_empty(), buffer.capacity()), (0, true, 64));
/// write!(buffer, "{}", 42).unwrap();
/// buffer.as_mut_slice()[0] = b'7';
/// assert_eq!(buffer.as_slice(), b"72");
/// buffer.truncate(1);
/// buffer.clear();
/// assert_eq!((buffer.len(), buffer.capacity()), (0, 64));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
// Invariants:
//
// 1. `ptr` is valid for reads and writes of `capacity` bytes as long as `ledger` is held, and no
//    other handle views any of them.
// 2. The first `len` bytes are initialised, and `len <= capacity`.
// 3. The memory is not foreign. If `capacity` is 0, `ledger` may be a pin.
#[doc(alias("MutableBuffer", "ResizableBuffer"))]
pub struct ArrowBufMut {
    pub(super) ptr: NonNull<u8>,
    pub(super) len: usize,
    pub(super) capacity: usize,
    pub(super) ledger: LedgerRef,
}

// SAFETY: by invariant 1 the bytes are this handle's alone; `LedgerRef` is Send.
unsafe impl Send for ArrowBufMut {}
// SAFETY: `&ArrowBufMut` only reads; `LedgerRef` is Sync.
unsafe impl Sync for ArrowBufMut {}
impl UnwindSafe for ArrowBufMut {}
impl RefUnwindSafe for ArrowBufMut {}

impl ArrowBufMut {
    /// A handle on a new allocation of our own, of which this is the only reference; or an empty one, of
    /// a reference that is a pin.
    #[inline]
    pub(crate) fn fresh(ledger: LedgerRef) -> Self {
        let Some(slot) = ledger.slot() else {
            return Self::empty(ledger);
        };
        debug_assert!(ledger.is_sole() && !slot.is_foreign());
        // SAFETY: nobody else can reach the allocation, so nobody changes it.
        let ptr = unsafe { slot.block() }.ptr;
        let capacity = slot.size();
        Self {
            ptr,
            len: 0,
            capacity,
            ledger,
        }
    }

    /// The reference that a fresh handle was made of.
    #[inline]
    pub(super) fn into_ledger(self) -> LedgerRef {
        self.ledger
    }

    /// A handle on memory of which `len` bytes are initialised.
    ///
    /// # Safety
    ///
    /// The type's invariants hold.
    #[inline]
    pub(crate) unsafe fn from_parts(
        ptr: NonNull<u8>,
        len: usize,
        capacity: usize,
        ledger: LedgerRef,
    ) -> Self {
        Self {
            ptr,
            len,
            capacity,
            ledger,
        }
    }

    pub(crate) fn empty(ledger: LedgerRef) -> Self {
        Self {
            ptr: nowhere(),
            len: 0,
            capacity: 0,
            ledger,
        }
    }

    /// An empty handle on the same allocator.
    pub(crate) fn new_empty(&self) -> Self {
        Self::empty(self.ledger.to_pin())
    }

    /// The number of initialised bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is initialised.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes the buffer can hold without growing.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The initialised bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: by the invariants: initialised, ours alone, alive while `self` is.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The initialised bytes, to write.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes between the length and the capacity: write them, then
    /// [`set_len`](Self::set_len).
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: `len <= capacity`, so that is within the memory.
        let start = unsafe { at(self.ptr, self.len) };
        // SAFETY: by invariant 1 valid for writes and ours alone; any byte is a MaybeUninit.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), self.capacity - self.len) }
    }

    /// Sets the length.
    ///
    /// # Safety
    ///
    /// `len` is at most the capacity, and the first `len` bytes are initialised.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(64)?;
    /// for (byte, value) in buffer.spare_capacity_mut().iter_mut().zip([1, 2, 3]) {
    ///     byte.write(value);
    /// }
    /// // SAFETY: the first three bytes were written just now.
    /// unsafe { buffer.set_len(3) };
    /// assert_eq!(buffer[..], [1, 2, 3]);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity);
        self.len = len;
    }

    /// The address of the first byte, to write. Not null.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(64)?;
    /// // SAFETY: eight bytes of 64 are written, and then the first eight are initialised.
    /// unsafe {
    ///     buffer.as_mut_ptr().write_bytes(7, 8); // or a call of C that fills it
    ///     buffer.set_len(8);
    /// }
    /// assert_eq!(buffer[..], [7; 8]);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Sets the length to 0; the capacity stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Shortens the length to `len`, if that is less; the capacity stays.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `bytes` if they fit into the capacity: the path of an append that does not grow, for
    /// builders whose callers inline it.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(64)?;
    /// assert!(buffer.push_within_capacity(&[1; 60]));
    /// assert!(!buffer.push_within_capacity(&[1; 5]));
    /// assert_eq!(buffer.len(), 60);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn push_within_capacity(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.capacity - self.len {
            return false;
        }
        // SAFETY: `len <= capacity`, so that is within the memory.
        let end = unsafe { at(self.ptr, self.len) };
        // SAFETY: there is room for them, as checked; they are not in our memory, which nobody else
        // views.
        unsafe {
            end.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        self.len += bytes.len();
        true
    }

    /// Splits the memory in two: this handle keeps the first `at` bytes of its capacity, the one
    /// returned has the rest. Both are on one allocation, and can be written from two threads; one
    /// that grows moves to an allocation of its own.
    ///
    /// # Panics
    ///
    /// If `at` is above the capacity.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut left = root.buffer_zeroed(128)?;
    /// let mut right = left.split_off(64);
    /// std::thread::scope(|threads| {
    ///     threads.spawn(|| left.fill(1));
    ///     threads.spawn(|| right.fill(2));
    /// });
    /// assert_eq!((left[63], right[0]), (1, 2));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> ArrowBufMut {
        assert!(
            at <= self.capacity,
            "split at {at} of a capacity of {}",
            self.capacity
        );
        if at == self.capacity {
            return self.new_empty();
        }
        if at == 0 {
            let rest = self.new_empty();
            return std::mem::replace(self, rest);
        }
        // SAFETY: within the memory, by the check above.
        let ptr = unsafe { address::at(self.ptr, at) };
        let caller = Location::caller();
        let capacity = self.capacity - at;
        let tail = Self {
            ptr,
            len: self.len.saturating_sub(at),
            capacity,
            ledger: self.ledger.share(ptr, capacity, Operation::Split, caller),
        };
        self.len = self.len.min(at);
        self.capacity = at;
        if self.ledger.is_registered() {
            tail.note(Operation::Split, caller);
            self.note(Operation::Split, caller);
        }
        tail
    }

    /// Splits the memory in two: the first `at` bytes of the capacity are returned, and this handle keeps
    /// the rest. [`split_off`](Self::split_off) does it the other way round.
    ///
    /// # Panics
    ///
    /// If `at` is above the capacity.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut rest = root.buffer_zeroed(256)?;
    /// let first = rest.split_to(64);
    /// assert_eq!((first.len(), rest.len(), rest.ref_count()), (64, 192, 2));
    /// assert_eq!(root.allocated_memory(), 256);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn split_to(&mut self, at: usize) -> ArrowBufMut {
        let tail = self.split_off(at);
        std::mem::replace(self, tail)
    }

    /// The allocator of this buffer's ledger.
    pub fn allocator(&self) -> BufferAllocator {
        BufferAllocator::from_handle(self.ledger.allocator())
    }

    /// How many buffers share this buffer's ledger, this one included: more than 1 after a split.
    pub fn ref_count(&self) -> usize {
        self.ledger.buffers()
    }

    /// The size of the allocation if this buffer's ledger owns it, else 0: what this buffer's
    /// allocator is charged for it, in bytes.
    pub fn accounted_size(&self) -> usize {
        self.ledger.accounted_size()
    }

    /// Samples an allocation of `bytes`, or growth by so many, if that is due. This is the only
    /// handle on the allocation.
    pub(super) fn sample(&self, bytes: usize) {
        if let Some(scale) = self.ledger.node().sample_due(bytes) {
            self.record_sample(bytes, scale);
        }
    }

    /// Samples the allocation, or growth, when that is known to be due.
    pub(super) fn record_sample(&self, bytes: usize, scale: u64) {
        self.ledger.record_sample(bytes, scale);
    }

    /// Registers a buffer that was made just now, if its tree is in debug mode.
    #[cold]
    pub(super) fn register(&mut self, operation: Operation, caller: &'static Location<'static>) {
        let seen = Seen::writable(self.ptr, self.capacity);
        self.ledger.register(seen, operation, caller);
    }

    /// Notes what happened to this buffer, and what it looks like now, if it is registered.
    #[cold]
    pub(super) fn note(&self, operation: Operation, caller: &'static Location<'static>) {
        let seen = Seen::writable(self.ptr, self.capacity);
        self.ledger.note(seen, operation, self.capacity, caller);
    }
}

impl Deref for ArrowBufMut {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for ArrowBufMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl AsRef<[u8]> for ArrowBufMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl io::Write for ArrowBufMut {
    /// Appends; a refusal is an error of kind `OutOfMemory`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for ArrowBufMut {
    /// The address and sizes; not the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowBufMut")
            .field("address", &self.ptr)
            .field("length", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

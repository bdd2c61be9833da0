//! From a writable buffer to a shared one, and back.
#![expect(
    unsafe_code,
    reason = "passes on what each handle promises of its bytes"
)]

use std::panic::Location;

use super::address::at;
use super::arrow_buf::ArrowBuf;
use super::arrow_buf_mut::ArrowBufMut;
use crate::debug::{Operation, Seen};
use crate::size::ALIGNMENT;

impl ArrowBufMut {
    /// This buffer as a shared, immutable one of the same length. The bytes from the length to the
    /// next multiple of 64, within the capacity, are set to zero.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(64)?;
    /// buffer.extend_from_slice(b"abc")?;
    /// let buffer = buffer.freeze();
    /// assert_eq!((buffer.as_slice(), buffer.clone().ref_count()), (&b"abc"[..], 2));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn freeze(self) -> ArrowBuf {
        // Field by field: if a buffer is moved as a whole right after its fields were written one by one,
        // the processor waits as long as the rest of an allocation takes.
        let Self {
            ptr,
            len,
            capacity,
            ledger,
        } = self;
        if !len.is_multiple_of(ALIGNMENT) {
            let padded = len.next_multiple_of(ALIGNMENT).min(capacity);
            // SAFETY: by invariant 2 the length is within the memory.
            let end = unsafe { at(ptr, len) };
            // SAFETY: by invariant 1 the bytes up to the capacity are this handle's, to write to.
            unsafe { end.write_bytes(0, padded - len) };
        }
        if ledger.is_registered() {
            let caller = Location::caller();
            ledger.note(Seen::shared(ptr, len), Operation::Frozen, len, caller);
        }
        // SAFETY: the first `len` bytes are initialised, and the exclusive handle was taken apart.
        unsafe { ArrowBuf::new(ptr, len, ledger) }
    }
}

impl ArrowBuf {
    /// This buffer as a writable one, if it is the only handle on an allocation of our own and
    /// starts at its first byte. The bytes behind it, up to the allocation's size, become spare
    /// capacity. An empty buffer can always be made writable.
    ///
    /// # Errors
    ///
    /// The buffer itself, unchanged.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(&[1, 2, 3])?;
    /// let clone = buffer.clone();
    /// let buffer = buffer.try_into_mut().unwrap_err(); // shared
    /// drop(clone);
    /// let mut buffer = buffer.try_into_mut().unwrap();
    /// buffer[0] = 9;
    /// assert_eq!((buffer.freeze().as_slice(), root.allocated_memory()), (&[9, 2, 3][..], 64));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn try_into_mut(self) -> Result<ArrowBufMut, ArrowBuf> {
        let Some(slot) = self.ledger.slot() else {
            return Ok(ArrowBufMut::empty(self.ledger));
        };
        if slot.is_foreign() || !self.ledger.is_sole() {
            return Err(self);
        }
        // SAFETY: nobody else can reach the allocation, so nobody changes it.
        let start = unsafe { slot.home().block() }.ptr;
        if start != self.ptr {
            return Err(self);
        }
        let (ptr, len, capacity) = (self.ptr, self.len, slot.size());
        if self.ledger.is_registered() {
            let seen = Seen::writable(ptr, capacity);
            (self.ledger).note(seen, Operation::Thawed, 0, Location::caller());
        }
        // SAFETY: the only handle, on our own memory, from its start; `len` bytes are initialised.
        Ok(unsafe { ArrowBufMut::from_parts(ptr, len, capacity, self.ledger) })
    }
}

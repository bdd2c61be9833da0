//! `bytes`: in by reference, out by reference, and `BufMut`.
#![expect(unsafe_code, reason = "`BufMut` is an unsafe trait")]

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes};

use super::{ArrowBuf, ArrowBufMut};

impl From<ArrowBuf> for Bytes {
    /// The same memory, which stays charged until the last `Bytes` on it is dropped.
    fn from(buffer: ArrowBuf) -> Self {
        Bytes::from_owner(buffer)
    }
}

/// Writes into the spare capacity and never grows; panics where `bytes` does.
// SAFETY: `remaining_mut` and `chunk_mut` describe the spare capacity, which only `advance_mut`
// changes, by as much as its caller initialised.
unsafe impl BufMut for ArrowBufMut {
    fn remaining_mut(&self) -> usize {
        self.capacity() - self.len()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        let remaining = self.remaining_mut();
        assert!(
            count <= remaining,
            "advance by {count} of {remaining} bytes"
        );
        // SAFETY: within the capacity, and the caller initialised these bytes.
        unsafe { self.set_len(self.len() + count) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::uninit(self.spare_capacity_mut())
    }
}

//! A slot for a ledger that may have to be made, taken before the mutex.
#![expect(unsafe_code, reason = "a slot that was not used goes back to the pool")]

use std::ptr::NonNull;

use crate::raw::pool;
use crate::raw::slot::Slot;

/// A slot that its drop returns to the pool unless it was used. It is made before the mutex is taken, and
/// so dropped after that is released.
pub(super) struct Spare {
    slot: NonNull<Slot>,
    used: bool,
}

impl Spare {
    pub(super) fn take() -> Self {
        Self {
            slot: pool::take(),
            used: false,
        }
    }

    /// The slot, for the caller to fill; once.
    pub(super) fn slot(&mut self) -> NonNull<Slot> {
        debug_assert!(!self.used);
        self.used = true;
        self.slot
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if !self.used {
            // SAFETY: taken by `take` and not used.
            unsafe { pool::put(self.slot) };
        }
    }
}

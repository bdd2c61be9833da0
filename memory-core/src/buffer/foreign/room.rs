//! Several pieces of foreign memory, charged as a whole.

use std::fmt;

use super::{ForeignAllocation, ForeignError};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBuf;
use crate::buffer::allocate::{Charge, ask, rounded};
use crate::error::AllocError;
use crate::raw::slot::MOST_SPECIAL;

/// Bytes charged for foreign memory that is about to be taken in; what is not used goes back when
/// this is dropped. Until a buffer takes them, they count as the allocator's own bytes, and a failed
/// `close` names nothing that has them.
///
/// Made by [`BufferAllocator::room_for_foreign`].
pub struct ForeignRoom<'a> {
    allocator: &'a BufferAllocator,
    charge: Charge<'a>,
}

impl ForeignRoom<'_> {
    /// The bytes that are left.
    #[inline]
    pub fn size(&self) -> usize {
        self.charge.bytes()
    }

    /// Takes foreign memory in, as [`BufferAllocator::wrap_foreign_allocation`], out of this room as
    /// far as it goes; only the rest is charged, and never [by force](ForeignAllocation::forced). The
    /// listener is asked before it, and told of it, but not of a refusal.
    ///
    /// # Errors
    ///
    /// As there; the room is as it was. With enough room only a listener refuses: the allocator was
    /// open when the room was made.
    #[inline]
    #[track_caller]
    pub fn wrap(&mut self, allocation: ForeignAllocation) -> Result<ArrowBuf, ForeignError> {
        if allocation.size == 0 {
            return Ok(self.allocator.empty());
        }
        let fits = allocation.charge <= self.size().min(MOST_SPECIAL);
        if (!fits || self.allocator.node().hearing().is_some())
            && let Err(source) = self.make(&allocation)
        {
            return Err(ForeignError { allocation, source });
        }
        // These bytes are the buffer's now.
        self.charge.keep_some(allocation.charge);
        Ok(self.allocator.wrap_charged(allocation))
    }

    /// Makes room for an allocation, with the listener's consent.
    #[cold]
    fn make(&mut self, allocation: &ForeignAllocation) -> Result<(), AllocError> {
        let handle = &self.allocator.handle;
        allocation.check_size(handle)?;
        let request = || allocation.request();
        ask(handle, allocation.charge, request)?;
        let more = allocation.charge.saturating_sub(self.size());
        self.charge.add(handle, more, request)
    }
}

impl fmt::Debug for ForeignRoom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignRoom")
            .field("allocator", self.allocator)
            .field("size", &self.size())
            .finish()
    }
}

impl BufferAllocator {
    /// Charges `bytes` for several pieces of foreign memory, which are then taken in one by one: so
    /// that they are accepted, or refused, as a whole.
    ///
    /// # Errors
    ///
    /// As [`allocate_bytes`](Self::allocate_bytes).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// let root = RootAllocator::new(100);
    /// let pieces = [vec![1; 60], vec![2; 30]];
    /// let mut room = root.room_for_foreign(90)?;
    /// let buffers = pieces.map(|piece| room.wrap(ForeignAllocation::from_owner(piece)).unwrap());
    /// drop(room); // what was not used goes back
    /// assert_eq!((buffers[1][0], root.allocated_memory()), (2, 90));
    /// assert!(root.room_for_foreign(11).is_err());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn room_for_foreign(&self, bytes: usize) -> Result<ForeignRoom<'_>, AllocError> {
        Ok(ForeignRoom {
            allocator: self,
            charge: Charge::unheard(&self.handle, bytes, rounded(bytes, bytes))?,
        })
    }
}

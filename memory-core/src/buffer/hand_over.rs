//! Handing a buffer over to another allocator, so that no source stays behind.

use super::ArrowBuf;
use crate::allocator::BufferAllocator;
use crate::error::{Refused, TransferError};

impl ArrowBuf {
    /// This buffer on the ledger of `allocator`, in place of its own. [`retain_in`](Self::retain_in) does
    /// the same and leaves a source behind.
    ///
    /// The charge stays with the ledger that owns the allocation for as long as that ledger has other
    /// buffers. If this was its last one, the charge moves to the ledger that has been associated
    /// longest, by force, whatever the limits say. [`try_move_to`](Self::try_move_to) moves the charge
    /// at once, and only if it fits.
    ///
    /// There is no `adopt_from` a reservation: the memory of an `ArrowBuf` is charged in its tree
    /// already, so nothing would come out of the reservation. For memory of another tree, or foreign
    /// memory, that is to be charged in this tree as well, see
    /// [`AllocationReservation::wrap_foreign_allocation`](crate::AllocationReservation::wrap_foreign_allocation).
    ///
    /// # Errors
    ///
    /// [`TransferError::DifferentRoots`] or [`TransferError::Closed`], with the buffer as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
    /// let buffer = scan.buffer_from_slice(&[7; 100])?;
    /// let buffer = buffer.adopt(&join)?;
    /// assert_eq!((buffer.allocator(), join.allocated_memory()), (join.clone(), 128));
    /// scan.close()?; // nothing was left behind
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn adopt(self, allocator: &BufferAllocator) -> Result<ArrowBuf, Refused<ArrowBuf>> {
        if self.belongs_to(allocator) {
            return Ok(self);
        }
        let shared = self.retain_in(allocator);
        self.replaced_by(shared)
    }

    /// This buffer on the ledger of `target`, in place of its own, with the charge if its ledger owns
    /// it. [`try_transfer_ownership`](Self::try_transfer_ownership) does the same and leaves a source
    /// behind. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// The errors of `try_transfer_ownership`, with the buffer as it was. Nothing has changed.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
    /// let buffer = scan.buffer_from_slice(&[7; 100])?;
    /// let buffer = buffer.try_move_to(&join)?;
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 128));
    /// scan.close()?; // no handle on it is left behind
    /// # drop(buffer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn try_move_to(self, target: &BufferAllocator) -> Result<ArrowBuf, Refused<ArrowBuf>> {
        let moved = self.try_transfer_ownership(target);
        self.replaced_by(moved)
    }

    /// The other buffer, or this one with the reason why there is no other.
    fn replaced_by(
        self,
        other: Result<ArrowBuf, TransferError>,
    ) -> Result<ArrowBuf, Refused<ArrowBuf>> {
        other.map_err(|source| Refused::new(self, source))
    }
}

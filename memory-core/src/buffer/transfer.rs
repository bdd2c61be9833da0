//! Sharing a buffer with another allocator, and transferring its charge there.

use std::panic::Location;

use super::arrow_buf::ArrowBuf;
use super::arrow_buf_mut::ArrowBufMut;
use crate::allocator::BufferAllocator;
use crate::debug::{Operation, Seen};
use crate::error::TransferError;
use crate::ledger::LedgerRef;

/// A transferred buffer: the result of [`ArrowBuf::transfer_ownership`].
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let small = root.new_child_allocator("small", 0, 100)?;
/// let buffer = root.buffer_from_slice(&[7; 100])?;
/// let moved = buffer.transfer_ownership(&small)?; // never refused for a limit
/// assert!(!moved.allocation_fit && small.is_over_limit());
/// assert_eq!(moved.buffer.accounted_size(), 128);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
#[doc(alias = "OwnershipTransferResult")]
pub struct TransferResult {
    /// The buffer on the target's ledger.
    pub buffer: ArrowBuf,
    /// `false` exactly if a charge moved and a level that it reached is over its limit now.
    pub allocation_fit: bool,
}

impl ArrowBuf {
    /// The same bytes on the ledger of `target`, which shares the allocation from then on.
    ///
    /// The charge stays where it is until the owner's last buffer is dropped. Then it moves to the
    /// ledger that has been associated longest. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// [`TransferError::DifferentRoots`], or [`TransferError::Closed`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
    /// let buffer = scan.buffer_from_slice(&[7; 100])?;
    /// let shared = buffer.retain_in(&join)?;
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (128, 0));
    /// drop(buffer); // the last one of the owner
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 128));
    /// # drop(shared);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "retain")]
    #[track_caller]
    pub fn retain_in(&self, target: &BufferAllocator) -> Result<ArrowBuf, TransferError> {
        let ledger = self.ledger.retain_in(&target.handle)?;
        Ok(self.same_on(ledger, Operation::Retained, Location::caller()))
    }

    /// The same bytes on the ledger of `target`, which shares the allocation from then on. If this
    /// buffer's ledger owns the allocation, its charge moves to the target in one step, even over the
    /// target's limits.
    ///
    /// This buffer stays alive, and keeps its ledger outstanding until it is dropped;
    /// [`try_move_to`](Self::try_move_to) takes it along. Where no reservation is crossed, the allocated
    /// memory of a common ancestor does not change, not even for an instant. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// The errors of [`retain_in`](Self::retain_in), and [`TransferError::SizeOverflow`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.new_child_allocator("scan", 0, 1 << 20)?;
    /// let join = root.new_child_allocator("join", 0, 1 << 20)?;
    /// let buffer = scan.buffer_from_slice(&[7; 100])?;
    /// let moved = buffer.transfer_ownership(&join)?;
    /// assert!(moved.allocation_fit);
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 128));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias("transferOwnership", "transferBalance"))]
    #[track_caller]
    pub fn transfer_ownership(
        &self,
        target: &BufferAllocator,
    ) -> Result<TransferResult, TransferError> {
        let (ledger, allocation_fit) = self.ledger.transfer(&target.handle)?;
        let buffer = self.same_on(ledger, Operation::Transferred, Location::caller());
        Ok(TransferResult {
            buffer,
            allocation_fit,
        })
    }

    /// The same bytes on the ledger of `target`, with the charge if this buffer's ledger owns the
    /// allocation. Refused if the charge does not fit at every level that it reaches;
    /// [`transfer_ownership`](Self::transfer_ownership) moves it even then. This buffer stays alive;
    /// [`try_move_to`](Self::try_move_to) takes it along.
    ///
    /// # Errors
    ///
    /// The errors of `transfer_ownership`, and [`TransferError::DoesNotFit`]. Nothing has changed after an
    /// error.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let small = root.new_child_allocator("small", 0, 100)?;
    /// let buffer = root.buffer_from_slice(&[7; 100])?;
    /// assert!(buffer.try_transfer_ownership(&small).is_err());
    /// small.set_limit(128);
    /// assert!(buffer.try_transfer_ownership(&small).is_ok());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn try_transfer_ownership(
        &self,
        target: &BufferAllocator,
    ) -> Result<ArrowBuf, TransferError> {
        let moved = self.ledger.try_transfer(&target.handle);
        let ledger = moved.map_err(|error| error.of_length(self.len))?;
        Ok(self.same_on(ledger, Operation::Transferred, Location::caller()))
    }

    /// A handle on the same bytes that holds `ledger`.
    fn same_on(
        &self,
        ledger: LedgerRef,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> Self {
        let mut same = Self {
            ptr: self.ptr,
            len: self.len,
            ledger,
        };
        if same.ledger.node().is_debug() {
            let seen = Seen::shared(same.ptr, same.len);
            self.ledger.note(seen, operation, 0, caller);
            same.ledger.register(seen, operation, caller);
        }
        same
    }
}

impl ArrowBufMut {
    /// Moves this handle, and the charge if its ledger owns the allocation, to `target`, even over
    /// its limits. The answer is `false` exactly if a charge moved and a level that it reached is
    /// over its limit now. Growth is charged to the target from then on.
    ///
    /// # Errors
    ///
    /// The errors of [`ArrowBuf::transfer_ownership`]; the buffer is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let join = root.child("join").build()?;
    /// let mut buffer = root.buffer_zeroed(64)?;
    /// assert!(buffer.transfer_ownership(&join)?);
    /// buffer.resize(100, 0)?; // charged there
    /// assert_eq!((buffer.allocator(), buffer.accounted_size()), (join.clone(), 128));
    /// assert_eq!(join.allocated_memory(), 128);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn transfer_ownership(&mut self, target: &BufferAllocator) -> Result<bool, TransferError> {
        let (ledger, fit) = self.ledger.transfer(&target.handle)?;
        self.ledger = ledger;
        self.register(Operation::Transferred, Location::caller());
        Ok(fit)
    }
}

/// Moves the charge of `buffer` back to an allocator that it was moved from, whatever the limits say, and though that
/// allocator may be closed.
///
/// # Errors
///
/// [`TransferError::Closed`] if the allocator has left its tree: it was closed, and nobody has had a buffer of it since.
pub fn undo_transfer(buffer: &ArrowBuf, to: &BufferAllocator) -> Result<(), TransferError> {
    buffer.ledger.return_to(&to.handle)
}

//! [`DeviceBuf`]: a shared view of bytes on a device.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use arrow_memory_core::{ArrowBuf, TransferError};

use crate::allocator::DeviceAllocator;
use crate::block::{Held, Keep};
use crate::device::{Device, DeviceAddress};
use crate::error::DeviceError;
use crate::event::Event;
use crate::manager::DeviceManager;

/// A shared view of bytes on a device, kept alive and accounted for by a ledger of the device's tree.
///
/// It is what an [`ArrowBuf`] is for memory of the host, but it does not dereference: safe code cannot read its
/// bytes. [`AnyBuffer`](crate::AnyBuffer) views them from elsewhere, copies them or reads them. A clone or
/// slice costs an atomic addition. The bytes do not change while any `DeviceBuf` exists.
///
/// The work that writes the bytes may be unfinished: [`ready`](Self::ready) has its event. All methods of this
/// crate that read the bytes wait for it, or make the device wait for it. Code that uses
/// [`address`](Self::address) must do the same.
///
/// ```
/// use arrow_memory_device::{DeviceRoot, SimDevice};
///
/// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
/// let buffer = gpu.allocate(1000)?.freeze();
/// let tail = buffer.slice(600..);
/// drop(buffer);
/// assert_eq!((tail.len(), tail.capacity(), gpu.allocated_memory()), (400, 1024, 1024));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias("Buffer", "CudaBuffer"))]
pub struct DeviceBuf {
    pub(crate) memory: Memory,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// What a buffer is a view of.
#[derive(Clone)]
pub(crate) enum Memory {
    Block(Held),
    /// Nothing: the buffer is empty, and not charged.
    Empty(DeviceAllocator),
}

/// The result of [`DeviceBuf::transfer_ownership`].
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceTransferResult {
    /// The buffer on the target's ledger.
    pub buffer: DeviceBuf,
    /// `false` exactly if a charge moved and a level that it reached is over its limit now.
    pub allocation_fit: bool,
}

impl DeviceBuf {
    /// A view of all of a block, or of its first bytes.
    pub(crate) fn new(memory: Memory, len: usize) -> Self {
        Self {
            memory,
            offset: 0,
            len,
        }
    }

    pub(crate) fn held(&self) -> Option<&Held> {
        match &self.memory {
            Memory::Block(held) => Some(held),
            Memory::Empty(_) => None,
        }
    }

    pub(crate) fn manager(&self) -> &Arc<dyn DeviceManager> {
        match &self.memory {
            Memory::Block(held) => held.block().manager(),
            Memory::Empty(allocator) => allocator.manager(),
        }
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the address of the first byte on the device; 0 for a buffer on no memory. Only the device knows what
    /// it means, and it is valid while this buffer lives. Wait for [`ready`](Self::ready) before you use it.
    pub fn address(&self) -> u64 {
        self.start().map_or(0, DeviceAddress::get)
    }

    /// The address of the first byte; `None` for a buffer on no memory.
    pub(crate) fn start(&self) -> Option<DeviceAddress> {
        self.held()?.block().address()?.checked_add(self.offset)
    }

    /// Returns the device that has the bytes.
    pub fn device(&self) -> Device {
        self.manager().device()
    }

    /// Returns whether the CPU may read the device's memory by its address.
    pub fn is_cpu(&self) -> bool {
        self.device().is_cpu()
    }

    /// Returns a view of a part of the bytes, without a copy.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the buffer.
    #[track_caller]
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(
            start <= end && end <= self.len,
            "range {start}..{end} is not within a device buffer of {} bytes",
            self.len
        );
        Self {
            memory: self.memory.clone(),
            offset: self.offset + start,
            len: end - start,
        }
    }

    /// Returns the event of the work that writes the bytes; `None` once that is seen to be done. The work may have
    /// failed then: [`synchronize`](Self::synchronize) says so.
    pub fn ready(&self) -> Option<&Event> {
        self.written().filter(|event| !event.is_done())
    }

    /// The event of the work that writes the bytes, also if it is done: it may have failed.
    pub(crate) fn written(&self) -> Option<&Event> {
        self.held()?.block().written()
    }

    /// Blocks the thread until the bytes are written.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work that writes them failed, however long ago. Each call returns it.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.written().map_or(Ok(()), Event::wait)
    }

    /// Says that the work of `event` uses these bytes: their memory is not given back before it is over.
    ///
    /// Call this after starting a kernel that reads the buffer, and the buffer may be dropped at once. Do not have the
    /// event [keep](Event::keep) the buffer as well: each would hold the other.
    pub fn used_until(&self, event: &Event) {
        if let Some(held) = self.held() {
            held.block().add_use(event);
        }
    }

    /// Returns the allocator of this buffer's ledger.
    pub fn allocator(&self) -> DeviceAllocator {
        match &self.memory {
            Memory::Block(held) => {
                let manager = Arc::clone(held.block().manager());
                DeviceAllocator::of(held.ledger().allocator(), manager)
            }
            Memory::Empty(allocator) => allocator.clone(),
        }
    }

    /// Returns the size of the whole block that this view keeps alive, in bytes of the device; 0 for a buffer on
    /// no memory. For a view of memory that is charged elsewhere, it is the size of the viewed part.
    pub fn capacity(&self) -> usize {
        self.held().map_or(0, |held| held.block().capacity())
    }

    /// Returns the bytes that this buffer's allocator is charged for the block: its size if this buffer's ledger owns
    /// it; 1 for a view of memory that is charged elsewhere; else 0.
    pub fn accounted_size(&self) -> usize {
        self.ledger().map_or(0, ArrowBuf::accounted_size)
    }

    /// Returns how many buffers hold this buffer's ledger: clones and slices that share the block through the same
    /// allocator. 1 for a buffer on no memory.
    pub fn ref_count(&self) -> usize {
        self.ledger().map_or(1, ArrowBuf::ref_count)
    }

    /// Whether this buffer's block and `other` are of one tree. Not for a buffer on no memory.
    pub(crate) fn shares_root(&self, other: &DeviceAllocator) -> bool {
        self.ledger()
            .is_some_and(|ledger| ledger.shares_root(other.accounting()))
    }

    fn ledger(&self) -> Option<&ArrowBuf> {
        self.held().map(Held::ledger)
    }

    /// Returns the same bytes on the ledger of `target`, which shares the block from then on. The charge stays
    /// where it is until the owner's last buffer is dropped. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// [`TransferError::DifferentRoots`], or [`TransferError::Closed`].
    ///
    /// ```
    /// # use arrow_memory_device::{DeviceRoot, SimDevice};
    /// # let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let (scan, join) = (gpu.child("scan").build()?, gpu.child("join").build()?);
    /// let buffer = scan.allocate(64)?.freeze();
    /// let shared = buffer.retain_in(&join)?;
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (64, 0));
    /// drop(buffer); // the last one of the owner
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 64));
    /// # drop(shared);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn retain_in(&self, target: &DeviceAllocator) -> Result<Self, TransferError> {
        let Some(held) = self.held() else {
            return self.empty_on(target);
        };
        Ok(self.on(held.retain_in(target.accounting())?))
    }

    /// Returns the same bytes on the ledger of `target`. If this buffer's ledger owns the block, its charge moves
    /// to the target in one step, even over the target's limits. This buffer stays alive. Takes the tree's
    /// lock.
    ///
    /// # Errors
    ///
    /// The errors of [`retain_in`](Self::retain_in), and [`TransferError::SizeOverflow`].
    #[track_caller]
    pub fn transfer_ownership(
        &self,
        target: &DeviceAllocator,
    ) -> Result<DeviceTransferResult, TransferError> {
        let (buffer, allocation_fit) = match self.held() {
            None => (self.empty_on(target)?, true),
            Some(held) => {
                let (held, fit) = held.transfer(target.accounting())?;
                (self.on(held), fit)
            }
        };
        Ok(DeviceTransferResult {
            buffer,
            allocation_fit,
        })
    }

    /// Returns the same bytes on the ledger of `target`, with the charge if this buffer's ledger owns the block.
    /// Refused if the charge does not fit at every level that it reaches. This buffer stays alive.
    ///
    /// # Errors
    ///
    /// The errors of [`transfer_ownership`](Self::transfer_ownership), and [`TransferError::DoesNotFit`]. Nothing
    /// has changed after an error.
    #[track_caller]
    pub fn try_transfer_ownership(&self, target: &DeviceAllocator) -> Result<Self, TransferError> {
        match self.held() {
            None => self.empty_on(target),
            Some(held) => match held.try_transfer(target.accounting()) {
                Ok(held) => Ok(self.on(held)),
                Err(mut error) => {
                    // The core speaks of the byte of the header.
                    if let TransferError::DoesNotFit { length, .. } = &mut error {
                        *length = self.len;
                    }
                    Err(error)
                }
            },
        }
    }

    /// These bytes on another ledger of the block.
    fn on(&self, held: Held) -> Self {
        Self {
            memory: Memory::Block(held),
            offset: self.offset,
            len: self.len,
        }
    }

    /// An empty buffer of `target`, for one on no memory.
    fn empty_on(&self, target: &DeviceAllocator) -> Result<Self, TransferError> {
        // The core has the rules of who may share with whom, and applies them to an empty buffer, too.
        let own = self.allocator();
        if let Ok(empty) = own.accounting().buffer(0) {
            empty.freeze().retain_in(target.accounting())?;
        }
        Ok(Self::new(Memory::Empty(target.clone()), 0))
    }
}

impl Keep for DeviceBuf {
    fn take_over(&self, event: &Event) -> bool {
        self.used_until(event);
        true
    }
}

impl fmt::Debug for DeviceBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuf")
            .field("device", &self.device())
            .field("address", &format_args!("{:#x}", self.address()))
            .field("length", &self.len)
            .field("capacity", &self.capacity())
            .field("ready", &self.ready().is_none())
            .finish_non_exhaustive()
    }
}

//! Allocating device memory, and taking in memory that exists.
#![expect(unsafe_code, reason = "takes in memory that the caller vouches for")]

use std::alloc::Layout;

use arrow_memory_core::AllocationReservation;

use crate::allocator::DeviceAllocator;
use crate::block::{Block, Held, Keep, OnRelease, Payer};
use crate::buf::{DeviceBuf, Memory};
use crate::buf_mut::DeviceBufMut;
use crate::device::DeviceAddress;
use crate::error::DeviceError;
use crate::event::{Event, Stream};

impl DeviceAllocator {
    /// Allocates a buffer of `bytes` on the device.
    ///
    /// The capacity is `bytes` rounded up by the allocator's rounding policy, to a multiple of 64 at least. All of
    /// it is charged before the device is asked, and given back after the device has taken the block back.
    /// The contents are unspecified. A buffer of 0 bytes has no memory and is not charged.
    ///
    /// # Errors
    ///
    /// * [`DeviceError::Refused`] if a limit would be passed, after the listener had one chance to free memory;
    ///   if the listener refuses; or if this allocator is closed.
    /// * [`DeviceError::Failed`] if the device has no such block.
    /// * [`DeviceError::SizeOverflow`] if the capacity is above `isize::MAX`.
    ///
    /// # Panics
    ///
    /// If the listener or the manager panics. No byte stays charged then.
    #[track_caller]
    pub fn allocate(&self, bytes: usize) -> Result<DeviceBufMut, DeviceError> {
        self.allocate_with(bytes, None, Payer::Allocator(self.accounting()))
    }

    /// Allocates a buffer as [`allocate`](Self::allocate) does, in the order of a stream: work of that stream may
    /// use it at once, and other work after the stream's.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate), and [`DeviceError::WrongDevice`].
    #[track_caller]
    pub fn allocate_on(&self, bytes: usize, stream: &Stream) -> Result<DeviceBufMut, DeviceError> {
        self.allocate_with(bytes, Some(stream), Payer::Allocator(self.accounting()))
    }

    /// Allocates a buffer as [`allocate`](Self::allocate) does, from bytes that a reservation of this tree has set
    /// aside. If it has fewer, only the rest is charged.
    ///
    /// The buffer belongs to the reservation's allocator. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate); the reservation is as it was, unless the device has no such
    /// block: then its bytes were given back.
    ///
    /// ```
    /// # use arrow_memory_device::{DeviceRoot, SimDevice};
    /// let gpu = DeviceRoot::builder().limit(8192).manager(SimDevice::new()).build()?;
    /// let mut reservation = gpu.accounting().new_reservation();
    /// reservation.add(8192)?; // all of it
    /// let buffer = gpu.allocate_from(&mut reservation, 4096)?;
    /// assert_eq!((reservation.size(), gpu.allocated_memory()), (4096, 8192));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn allocate_from(
        &self,
        reservation: &mut AllocationReservation,
        bytes: usize,
    ) -> Result<DeviceBufMut, DeviceError> {
        match self.at(reservation.allocator()) {
            Some(owner) => owner.allocate_with(bytes, None, Payer::Reservation(reservation)),
            None => Err(DeviceError::wrong_tree(
                self.accounting(),
                reservation.allocator(),
            )),
        }
    }

    #[track_caller]
    pub(crate) fn allocate_with(
        &self,
        bytes: usize,
        stream: Option<&Stream>,
        payer: Payer<'_>,
    ) -> Result<DeviceBufMut, DeviceError> {
        self.check_stream(stream)?;
        if bytes == 0 {
            return Ok(DeviceBufMut::new(self.empty()?));
        }
        let layout = self.layout_of(bytes)?;
        let block = Block::new(self.manager(), layout);
        // Charged first. If the device fails or panics, the drop of the header gives the charge back.
        let held = Held::new(payer, block, layout.size())
            .map_err(|error| error.for_buffer(bytes, layout.size()))?;
        held.block()
            .set_address(self.manager().allocate(layout, stream)?);
        let mut buffer = DeviceBufMut::new(DeviceBuf::new(Memory::Block(held), bytes));
        if let Some(stream) = stream {
            // Whoever uses the block elsewhere must not be earlier than the stream.
            buffer.written_by(stream.record()?);
        }
        Ok(buffer)
    }

    /// A buffer of no bytes, unless this allocator is closed.
    pub(crate) fn empty(&self) -> Result<DeviceBuf, DeviceError> {
        self.accounting().buffer(0)?;
        Ok(DeviceBuf::new(Memory::Empty(self.clone()), 0))
    }

    /// Wraps memory of this device that exists already, and charges it to this allocator at its exact size.
    ///
    /// `ready` is the event of the work that writes the memory, if that may be unfinished. `release` is called once:
    /// when the last buffer on the memory was dropped, and that work and all [work that uses it](DeviceBuf::used_until) is
    /// over. The drop of that buffer blocks the thread until then. If this returns an error, or `bytes` is 0, `release` is
    /// called before this returns, which blocks the thread until the work of `ready` is over.
    ///
    /// A panic of `release` is caught and reported once this has returned a buffer that is not empty. If an event panics
    /// while it is waited for, its work may go on: then `release` is not called, and the memory is leaked.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`] if a limit would be passed, the listener refuses, or this allocator is closed;
    /// [`DeviceError::SizeOverflow`]. The memory was released then.
    ///
    /// # Safety
    ///
    /// Until `release` is called, the `bytes` at `at` are memory that this allocator's manager can copy from, and
    /// nothing writes them after `ready`, which is done only once the work that writes them is over. If the manager shows them to the CPU
    /// ([`DeviceManager::view_on_cpu`](crate::DeviceManager::view_on_cpu)), they are initialised after `ready`.
    #[track_caller]
    pub unsafe fn wrap_foreign(
        &self,
        at: DeviceAddress,
        bytes: usize,
        ready: Option<Event>,
        release: impl FnOnce() + Send + 'static,
    ) -> Result<DeviceBuf, DeviceError> {
        // It waits for `ready` wherever it is dropped: here, with an error, or with the last buffer.
        let keep = OnRelease::new(ready.clone(), release);
        if bytes == 0 {
            return self.empty();
        }
        self.wrap(at, bytes, ready, Box::new(keep), bytes)
    }

    /// Wraps memory of `keep`, and charges as much as `charge` says. The drop of `keep` frees no memory that the work of
    /// `written` still writes.
    #[track_caller]
    pub(crate) fn wrap(
        &self,
        at: DeviceAddress,
        bytes: usize,
        written: Option<Event>,
        keep: Box<dyn Keep>,
        charge: usize,
    ) -> Result<DeviceBuf, DeviceError> {
        let overflow = DeviceError::SizeOverflow { requested: bytes };
        let layout = Layout::from_size_align(bytes, 1).map_err(|_| overflow)?;
        let block = Block::kept(self.manager(), at, layout, keep);
        if let Some(written) = written {
            block.set_written(written);
        }
        let held = Held::new(Payer::Allocator(self.accounting()), block, charge)
            .map_err(|error| error.for_buffer(charge, charge))?;
        Ok(DeviceBuf::new(Memory::Block(held), bytes))
    }
}

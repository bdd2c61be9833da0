//! Several pieces of foreign memory, charged as a whole.

use std::fmt;

use super::{ForeignAllocation, ForeignError};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBuf;
use crate::buffer::charge::{Charge, rounded};
use crate::buffer::errors::{closed, overflow};
use crate::buffer::notify::{ask, tell_allocation};
use crate::error::AllocError;
use crate::ledger::tell_release;
use crate::outcome::Purpose;
use crate::raw::slot::MOST_SPECIAL;
use crate::reservation::AllocationReservation;

/// Bytes charged for foreign memory that is about to be taken in; what is not used goes back when
/// this is dropped. Until a buffer takes them, they count as the allocator's own bytes, and a failed
/// `close` names nothing that has them.
///
/// Made by [`BufferAllocator::room_for_foreign`], and by [`AllocationReservation::room_for_foreign`]
/// of bytes that were reserved before.
pub struct ForeignRoom<'a> {
    allocator: &'a BufferAllocator,
    charge: Charge<'a>,
    /// Where some of the bytes came from, if it is not the allocator.
    loan: Option<Loan<'a>>,
}

/// Bytes that came out of a reservation. Those are used before any others, and what is left of them
/// goes back there, so they are charged all the time and nobody else can have them.
struct Loan<'a> {
    reservation: &'a AllocationReservation,
    /// How many came out of it.
    bytes: usize,
    /// How many the room had altogether, used or not.
    total: usize,
}

impl ForeignRoom<'_> {
    /// The bytes that are left.
    #[inline]
    pub fn size(&self) -> usize {
        self.charge.bytes()
    }

    /// Takes foreign memory in, as [`BufferAllocator::wrap_foreign_allocation`], out of this room as
    /// far as it goes; only the rest is charged, and never [by force](ForeignAllocation::forced). The
    /// listener is asked before it, unless it was asked when the room was made out of a reservation,
    /// and told of it, but not of a refusal.
    ///
    /// # Errors
    ///
    /// As there; the room is as it was. With enough room only a listener refuses: the allocator was
    /// open when the room was made.
    ///
    /// # Panics
    ///
    /// As the listener does. The allocation is released then, and its bytes are the room's again.
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
        let size = allocation.charge;
        self.charge.keep_some(size);
        let buffer = self.allocator.wrap_charged(allocation);
        if self.allocator.node().hearing().is_some() {
            return Ok(self.tell(buffer, size));
        }
        Ok(buffer)
    }

    /// Tells the listener of a buffer. If it panics, the buffer's bytes are the room's again.
    #[cold]
    fn tell(&mut self, buffer: ArrowBuf, size: usize) -> ArrowBuf {
        struct Untold<'r, 'a> {
            room: &'r mut ForeignRoom<'a>,
            buffer: Option<ArrowBuf>,
        }
        impl Drop for Untold<'_, '_> {
            fn drop(&mut self) {
                if let Some(buffer) = self.buffer.take() {
                    self.room.take_back(buffer);
                }
            }
        }
        let allocator = self.allocator;
        let mut untold = Untold {
            room: self,
            buffer: Some(buffer),
        };
        tell_allocation(allocator.node(), size);
        untold.buffer.take().unwrap_or_else(|| allocator.empty())
    }

    /// Undoes [`wrap`](Self::wrap): drops the buffer, which releases its memory, and has its bytes in
    /// the room again. They are charged throughout, so nobody else can take them in between. A
    /// listener is told of the release.
    ///
    /// Returns whether the bytes came back. If other buffers are on the same memory, or it is charged
    /// to another allocator, this only drops the buffer.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// let root = RootAllocator::new(100);
    /// let mut reservation = root.new_reservation();
    /// reservation.add(90)?;
    /// let mut room = reservation.room_for_foreign(60)?;
    /// let buffer = room.wrap(ForeignAllocation::from_owner(vec![7; 60])).unwrap();
    /// assert!(room.take_back(buffer)); // it is not needed after all
    /// drop(room);
    /// assert_eq!((reservation.size(), root.allocated_memory()), (90, 90));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn take_back(&mut self, buffer: ArrowBuf) -> bool {
        if !buffer.belongs_to(self.allocator) {
            return false;
        }
        let size = buffer.into_ledger().free_uncharged();
        self.charge.take_over(size);
        if size > 0 {
            tell_release(self.allocator.node(), size);
        }
        size > 0
    }

    /// Makes room for an allocation, with the listener's consent.
    #[cold]
    fn make(&mut self, allocation: &ForeignAllocation) -> Result<(), AllocError> {
        let handle = &self.allocator.handle;
        allocation.check_size(handle)?;
        let request = || allocation.request();
        let more = allocation.charge.saturating_sub(self.size());
        match &mut self.loan {
            None => {
                ask(handle, allocation.charge, request)?;
                self.charge.add(handle, more, request)
            }
            Some(loan) => {
                if more > 0 {
                    ask(handle, more, request)?;
                }
                self.charge.add(handle, more, request)?;
                loan.total += more;
                Ok(())
            }
        }
    }
}

impl<'a> ForeignRoom<'a> {
    /// Room of `bytes`, of which as many as there are come out of a reservation.
    fn lent(reservation: &'a mut AllocationReservation, bytes: usize) -> Result<Self, AllocError> {
        let reservation = &*reservation;
        let allocator = reservation.allocator();
        let handle = &allocator.handle;
        if bytes > MOST_SPECIAL {
            return Err(overflow(handle, bytes));
        }
        let request = rounded(bytes, bytes);
        if bytes > 0 {
            ask(handle, bytes, request)?;
        }
        if handle.is_closed() {
            return Err(closed(handle, bytes, Purpose::Bytes));
        }
        let lent = bytes.min(reservation.size());
        let mut charge = Charge::silently(handle, bytes - lent, request)?;
        reservation.lend(lent);
        charge.take_over(lent);
        Ok(Self {
            allocator,
            charge,
            loan: Some(Loan {
                reservation,
                bytes: lent,
                total: bytes,
            }),
        })
    }
}

impl Drop for ForeignRoom<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(loan) = &self.loan {
            // More is left than there was if buffers were taken back that were not made here.
            let used = loan.total.saturating_sub(self.charge.bytes());
            let unused = loan.bytes.saturating_sub(used);
            // They stay charged: to the reservation. The charge gives the rest back.
            self.charge.keep_some(unused);
            loan.reservation.take_back(unused);
        }
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
            charge: Charge::silently(&self.handle, bytes, rounded(bytes, bytes))?,
            loan: None,
        })
    }
}

impl AllocationReservation {
    /// Room for foreign memory out of this reservation, in one step: `bytes` of it become room, or, if
    /// it has fewer, all of it, and the rest is charged besides. They are charged throughout, so nobody
    /// else can take them in between.
    ///
    /// What is not used goes back when the room is dropped: what came out of the reservation to the
    /// reservation, the rest to the allocator.
    ///
    /// # Errors
    ///
    /// The same as for [`allocate_buffer`](Self::allocate_buffer): the listener is asked, once for all
    /// the bytes, and what exceeds the reservation has to fit. The reservation is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// let root = RootAllocator::new(100);
    /// let mut reservation = root.new_reservation();
    /// reservation.add(90)?;
    /// // … a kernel makes something of at most 90 bytes …
    /// let output = ForeignAllocation::from_owner(vec![7; 60]);
    /// let buffer = reservation.room_for_foreign(60)?.wrap(output).unwrap();
    /// assert_eq!((reservation.size(), root.allocated_memory()), (30, 90));
    /// # drop(buffer);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn room_for_foreign(&mut self, bytes: usize) -> Result<ForeignRoom<'_>, AllocError> {
        ForeignRoom::lent(self, bytes)
    }
}

//! Foreign memory out of bytes that were charged before: of a reservation, or of a room.

use std::fmt;

use super::{ForeignAllocation, ForeignError};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBuf;
use crate::buffer::charge::{Charge, Request, rounded};
use crate::buffer::errors::{closed, overflow};
use crate::buffer::notify::{ask, tell_allocation};
use crate::error::AllocError;
use crate::ledger::tell_release;
use crate::raw::slot::MAX_SPECIAL;
use crate::reservation::AllocationReservation;

/// Bytes charged for foreign memory that is about to be taken in; what is not used goes back when
/// this is dropped. Until a buffer takes them, they count as the allocator's own bytes, and a failed
/// `close` names nothing that has them.
///
/// Not public: a reservation does the same, and [`AllocationReservation::wrap_foreign_allocation`] takes
/// memory in out of one. The other crates of this workspace use rooms, since making one takes no lock.
pub struct ForeignRoom<'a> {
    allocator: &'a BufferAllocator,
    charge: Charge<'a>,
    source: Source<'a>,
}

/// How a room came by its bytes.
enum Source<'a> {
    /// The allocator had room for them. The listener is asked before each piece.
    Charged,
    /// They were charged by force, so the listener is not asked.
    Forced,
    /// Some of them came out of a reservation. The listener was asked for all of them.
    Lent(Loan<'a>),
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
    /// listener is told of it, but not of a refusal. It is asked before, unless it was asked when the
    /// room was made out of a reservation, or the room was charged by force.
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
        let fits = allocation.charge <= self.size().min(MAX_SPECIAL);
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
        match &mut self.source {
            Source::Charged => {
                ask(handle, allocation.charge, request)?;
                self.charge.add(handle, more, request)
            }
            Source::Forced => self.charge.add(handle, more, request),
            Source::Lent(loan) => {
                if more > 0 {
                    ask(handle, more, request)?;
                }
                self.charge.add(handle, more, request)?;
                // One that passes the largest number leaves nothing unused, whatever it is exactly.
                loan.total = loan.total.saturating_add(more);
                Ok(())
            }
        }
    }
}

impl<'a> ForeignRoom<'a> {
    /// Charges `bytes` to `allocator` for several pieces of foreign memory, which are then taken in one by
    /// one: so that they are accepted, or refused, as a whole.
    ///
    /// # Errors
    ///
    /// As [`BufferAllocator::allocate_bytes`].
    pub fn new(allocator: &'a BufferAllocator, bytes: usize) -> Result<Self, AllocError> {
        Ok(Self {
            allocator,
            charge: Charge::silently(&allocator.handle, bytes, rounded(bytes, bytes))?,
            source: Source::Charged,
        })
    }

    /// Charges `bytes` whatever the limits say, without asking the listener. The second value is whether
    /// no level is over its limit afterwards.
    ///
    /// # Errors
    ///
    /// [`AllocError::Closed`] if the allocator is closed; [`AllocError::SizeOverflow`] if a sum would pass
    /// `isize::MAX`.
    pub fn forced(
        allocator: &'a BufferAllocator,
        bytes: usize,
    ) -> Result<(Self, bool), AllocError> {
        let handle = &allocator.handle;
        let (requested, purpose) = rounded(bytes, bytes)();
        if handle.is_closed() {
            return Err(closed(handle, requested, purpose));
        }
        let mut charge = Charge::silently(handle, 0, rounded(0, 0))?;
        let mut fits = true;
        if bytes > 0 {
            let forced = handle.force_block(bytes);
            fits = forced.map_err(|refusal| refusal.to_error(requested, purpose))?;
            charge.take_over(bytes);
        }
        let source = Source::Forced;
        let room = Self {
            allocator,
            charge,
            source,
        };
        Ok((room, fits))
    }

    /// Room out of `reservation`, in one step: `bytes` of it become room, or, if it has fewer, all of it,
    /// and the rest is charged besides. They are charged throughout, so nobody else can take them in
    /// between.
    ///
    /// What is not used goes back when the room is dropped: what came out of the reservation to the
    /// reservation, the rest to the allocator.
    ///
    /// # Errors
    ///
    /// The same as for [`AllocationReservation::allocate_buffer`]: the listener is asked, once for all the
    /// bytes, and what exceeds the reservation has to fit. The reservation is as it was.
    pub fn out_of(
        reservation: &'a mut AllocationReservation,
        bytes: usize,
    ) -> Result<Self, AllocError> {
        Self::lent(reservation, bytes, rounded(bytes, bytes))
    }

    /// Room of `bytes`, of which as many as there are come out of a reservation. An error says `request`.
    fn lent(
        reservation: &'a mut AllocationReservation,
        bytes: usize,
        request: impl Request + Copy,
    ) -> Result<Self, AllocError> {
        let reservation = &*reservation;
        let allocator = reservation.allocator();
        let handle = &allocator.handle;
        if bytes > MAX_SPECIAL {
            return Err(overflow(handle, bytes));
        }
        if bytes > 0 {
            ask(handle, bytes, request)?;
        }
        if handle.is_closed() {
            let (requested, purpose) = request();
            return Err(closed(handle, requested, purpose));
        }
        let lent = bytes.min(reservation.size());
        let mut charge = Charge::silently(handle, bytes - lent, request)?;
        reservation.lend(lent);
        charge.take_over(lent);
        Ok(Self {
            allocator,
            charge,
            source: Source::Lent(Loan {
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
        if let Source::Lent(loan) = &self.source {
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

impl AllocationReservation {
    /// Takes foreign memory in, as [`BufferAllocator::wrap_foreign_allocation`], and takes the bytes that
    /// it is charged at out of this reservation. If the reservation has fewer, all of it is used, and only
    /// the rest is charged. The bytes are charged throughout, so nobody else can take them in between.
    ///
    /// Use this for memory that exists before it can be charged: reserve room for it first. For several pieces,
    /// reserve their sum and wrap each: then no limit refuses one of them after another was accepted. (A
    /// listener is asked for each piece, and may veto it; an allocator that is closed meanwhile refuses.) The
    /// drop of the reservation gives back what was not used. The drop of a buffer gives its bytes back to the
    /// allocator, not to the reservation.
    ///
    /// An empty allocation takes nothing and is released at once. One that is
    /// [`forced`](ForeignAllocation::forced) is not forced here: add its bytes with
    /// [`force_add`](Self::force_add) before, or call
    /// [`wrap_foreign_allocation`](BufferAllocator::wrap_foreign_allocation) of the allocator, which also
    /// works on a closed one. Takes the tree's lock.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], as for [`allocate_buffer`](Self::allocate_buffer): the listener is asked for all
    /// the bytes, and what exceeds the reservation has to fit. It hands the allocation back, and the
    /// reservation is as it was.
    ///
    /// # Panics
    ///
    /// As the listener does. The allocation is released then, and the reservation is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// let root = RootAllocator::new(100);
    /// let mut reservation = root.new_reservation();
    /// reservation.add(90)?;
    /// // … a kernel makes something of at most 90 bytes …
    /// let output = ForeignAllocation::from_owner(vec![7; 60]);
    /// let buffer = reservation.wrap_foreign_allocation(output)?;
    /// assert_eq!((reservation.size(), root.allocated_memory()), (30, 90));
    /// # drop(buffer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Several pieces as a whole:
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::{ForeignAllocation, RootAllocator};
    /// let root = RootAllocator::new(100);
    /// let pieces = [vec![1; 60], vec![2; 30]];
    /// let mut reservation = root.new_reservation();
    /// reservation.add(90)?;
    /// let buffers = pieces.map(|piece| {
    ///     let piece = ForeignAllocation::from_owner(piece);
    ///     reservation.wrap_foreign_allocation(piece).unwrap()
    /// });
    /// drop(reservation); // what was not used goes back
    /// assert_eq!((buffers[1][0], root.allocated_memory()), (2, 90));
    /// assert!(root.new_reservation().add(11).is_err());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn wrap_foreign_allocation(
        &mut self,
        allocation: ForeignAllocation,
    ) -> Result<ArrowBuf, ForeignError> {
        if allocation.size == 0 {
            return Ok(self.allocator().empty());
        }
        let (bytes, request) = (allocation.charge, allocation.request());
        let room = ForeignRoom::lent(self, bytes, || request.clone());
        match room {
            // The room has enough, so only a panic of the listener drops it with bytes in it.
            Ok(mut room) => room.wrap(allocation),
            Err(source) => Err(ForeignError { allocation, source }),
        }
    }
}

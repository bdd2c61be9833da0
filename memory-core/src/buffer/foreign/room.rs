//! Foreign memory for which the bytes are charged in advance, by a reservation or a room.
#![expect(unsafe_code, reason = "gives bytes back to where they came from")]

use std::fmt;

use super::pieces::{charge_with, force_with};
use super::{ForeignAllocation, ForeignError};
use crate::accounting::heap::{Moved, Piece, labels, return_to_heap};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBuf;
use crate::buffer::charge::{Charge, Request, rounded};
use crate::buffer::errors::{closed, overflow};
use crate::buffer::notify::{ask, tell_allocation};
use crate::error::AllocError;
use crate::ledger::tell_release;
use crate::raw::slot::MAX_SPECIAL;
use crate::reservation::AllocationReservation;

/// Bytes that are charged in advance for foreign memory. The unused ones are given back when this is
/// dropped. Until a buffer takes them, they count as the allocator's own bytes, and the error of a failed
/// `close` does not name the room.
///
/// This is not public: a reservation does the same by [`AllocationReservation::wrap_foreign_allocation`].
/// The other crates of this workspace use rooms, because creating one takes no lock.
pub struct ForeignRoom<'a> {
    allocator: &'a BufferAllocator,
    charge: Charge<'a>,
    source: Source<'a>,
}

/// The origin of a room's bytes.
enum Source<'a> {
    /// They fitted within the limits. The listener is asked before each piece.
    Charged,
    /// They were charged even past a limit, so the listener is not asked.
    Forced,
    /// Some of them are lent by a reservation. The listener was asked for all of them.
    Lent(Loan<'a>),
}

/// Bytes that a reservation lends. They are used before any others, and the unused ones return to it, so
/// they stay charged and no other code can obtain them.
struct Loan<'a> {
    reservation: &'a AllocationReservation,
    /// The lent bytes.
    bytes: usize,
    /// All bytes that the room ever had, whether used or not.
    total: usize,
}

impl ForeignRoom<'_> {
    /// Returns the bytes that are left.
    #[inline]
    pub fn size(&self) -> usize {
        self.charge.bytes()
    }

    /// Wraps foreign memory in a buffer, and takes the bytes from this room as far as they suffice. Only
    /// the rest is charged, and never [by force](ForeignAllocation::forced).
    ///
    /// The listener is told of the buffer, but not of a refusal. It is asked before each piece, unless
    /// the bytes of the room were charged by force, or a reservation lends them.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], which returns the allocation; the room is as it was. The reason is
    /// [`AllocError::Vetoed`] if the listener refuses. If the room has too few bytes, it may also be
    /// [`AllocError::OutOfMemory`], [`AllocError::Closed`] or [`AllocError::SizeOverflow`].
    ///
    /// # Panics
    ///
    /// If the listener panics. The allocation is then released, and its bytes belong to the room again.
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
        // The bytes belong to the buffer from here on.
        let size = allocation.charge;
        self.charge.keep_some(size);
        let buffer = self.allocator.wrap_charged(allocation);
        if self.allocator.node().hearing().is_some() {
            return Ok(self.tell(buffer, size));
        }
        Ok(buffer)
    }

    /// Tells the listener of a buffer. If it panics, the buffer's bytes belong to the room again.
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

    /// Undoes [`wrap`](Self::wrap): drops the buffer, which releases its memory, and returns its bytes to
    /// the room. They stay charged, so no other code can obtain them in between. The listener is told of
    /// the release.
    ///
    /// Returns whether the bytes came back. If there are other buffers on the same memory, or it is
    /// charged to another allocator, this only drops the buffer.
    pub fn take_back(&mut self, buffer: ArrowBuf) -> bool {
        if !buffer.belongs_to(self.allocator) {
            return false;
        }
        let (size, charged) = buffer.into_ledger().free_uncharged();
        self.charge.take_over(charged);
        self.restore(size - charged);
        if size > 0 {
            tell_release(self.allocator.node(), size);
        }
        size > 0
    }

    /// Returns a piece, whose bytes this room has, to the program's heap, since no buffer has taken them. Bytes that
    /// did not move from there, since other buffers had taken them, stay with the room.
    ///
    /// # Safety
    ///
    /// The piece moved when this room was created, and the block that it is a part of is live until this returns.
    pub unsafe fn return_to_heap(&mut self, moved: Moved) {
        let Some(labels) = labels() else { return };
        let bytes = moved.bytes();
        self.charge.keep_some(bytes);
        // SAFETY: the bytes are charged to the allocator's node, and are the room's no longer; the handle keeps the
        // node. The rest is the caller's promise.
        let returned = unsafe { return_to_heap(self.allocator.handle.ptr(), &moved, labels) };
        self.charge.take_over(bytes - returned);
        self.restore(returned);
    }

    /// Makes up for bytes that went from this room to the program's heap. If a reservation lends the room's bytes, it
    /// gets them back: they are charged, whatever the limits say, as they were before the room was created.
    fn restore(&mut self, bytes: usize) {
        if bytes > 0
            && matches!(self.source, Source::Lent(_))
            && self.allocator.handle.force_block(bytes).is_ok()
        {
            self.charge.take_over(bytes);
        }
    }

    /// Makes room for an allocation, if the listener and the limits permit it.
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
                // The sum saturates; a room that large has no unused bytes in any case.
                loan.total = loan.total.saturating_add(more);
                Ok(())
            }
        }
    }
}

impl<'a> ForeignRoom<'a> {
    /// Charges `bytes` to `allocator` for several pieces of foreign memory, which are wrapped one by one
    /// afterwards. So they are accepted or refused as a whole. What the program's heap pays for `pieces`, parts of
    /// this memory, moves to the allocator in the same step.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between the allocator and the root would be passed.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    pub fn new(
        allocator: &'a BufferAllocator,
        bytes: usize,
        pieces: &mut [Piece],
    ) -> Result<Self, AllocError> {
        let request = rounded(bytes, bytes);
        Ok(Self {
            allocator,
            charge: charge_with(&allocator.handle, bytes, pieces, request)?,
            source: Source::Charged,
        })
    }

    /// Charges `bytes` even past a limit, without asking the listener. The second value is whether no
    /// limit is passed.
    ///
    /// # Errors
    ///
    /// [`AllocError::Closed`] if the allocator is closed; [`AllocError::SizeOverflow`] if a sum would pass
    /// `isize::MAX`.
    pub fn forced(
        allocator: &'a BufferAllocator,
        bytes: usize,
        pieces: &mut [Piece],
    ) -> Result<(Self, bool), AllocError> {
        let handle = &allocator.handle;
        let (requested, purpose) = rounded(bytes, bytes)();
        if handle.is_closed() {
            return Err(closed(handle, requested, purpose));
        }
        let mut charge = Charge::silently(handle, 0, rounded(0, 0))?;
        let mut fits = true;
        if bytes > 0 {
            let forced = force_with(handle, bytes, pieces);
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

    /// Creates a room of `bytes` that `reservation` lends. If the reservation has fewer, it lends all of
    /// its bytes, and the rest is charged. The bytes stay charged, so no other code can obtain them in
    /// between. What the program's heap pays for `pieces` is the rest then, as far as it goes, and is given back beyond.
    ///
    /// When the room is dropped, the unused bytes return to the reservation, as far as it lent them, and
    /// otherwise to the allocator.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if the bytes that the reservation lacks would pass a limit.
    /// * [`AllocError::Vetoed`] if the listener, which is asked once for all the bytes, refuses.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size exceeds any address space, or a sum `isize::MAX`.
    ///
    /// The reservation is then as it was.
    pub fn out_of(
        reservation: &'a mut AllocationReservation,
        bytes: usize,
        pieces: &mut [Piece],
    ) -> Result<Self, AllocError> {
        Self::lent(reservation, bytes, pieces, rounded(bytes, bytes))
    }

    /// Creates a room of `bytes`, as many as possible lent by the reservation. An error describes
    /// `request`.
    fn lent(
        reservation: &'a mut AllocationReservation,
        bytes: usize,
        pieces: &mut [Piece],
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
        let mut charge = charge_with(handle, bytes - lent, pieces, request)?;
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
            // There may be more bytes left than the room ever had: `take_back` also accepts buffers that
            // it did not wrap.
            let used = loan.total.saturating_sub(self.charge.bytes());
            let unused = loan.bytes.saturating_sub(used);
            // They stay charged, to the reservation. The charge gives back the rest.
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
    /// Wraps foreign memory in a buffer, and takes the bytes to charge from this reservation. If the
    /// reservation has fewer, all of it is used, and only the rest is charged. The bytes stay charged, so
    /// no other code can obtain them in between.
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
    /// [`ForeignError`], which returns the allocation; the reservation is as it was. Its source is one of
    /// these:
    ///
    /// * [`AllocError::OutOfMemory`] if the bytes that the reservation lacks would pass a limit.
    /// * [`AllocError::Vetoed`] if the listener, which is asked for all the bytes, refuses.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size exceeds any address space, or a sum `isize::MAX`.
    ///
    /// # Panics
    ///
    /// If the listener panics. The allocation is then released, and the reservation is as it was.
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
    /// drop(reservation); // gives back the unused bytes
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
        let room = ForeignRoom::lent(self, bytes, &mut [], || request.clone());
        match room {
            // The room has enough bytes, so it is dropped with bytes in it only if the listener panics.
            Ok(mut room) => room.wrap(allocation),
            Err(source) => Err(ForeignError { allocation, source }),
        }
    }
}

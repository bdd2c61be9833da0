//! [`AllocationReservation`]: bytes that are charged without a block.
#![expect(
    unsafe_code,
    reason = "gives back bytes, which its size proves to be charged"
)]

use std::alloc::Layout;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::accounting::{Refusal, Reserved};
use crate::allocator::BufferAllocator;
use crate::buffer::ArrowBufMut;
use crate::buffer::{allocate, errors};
use crate::debug::Operation;
use crate::error::AllocError;
use crate::outcome::Purpose;
use crate::reclaim::charge;
use crate::size::{ALIGNMENT, checked_round_up};
use crate::sync::Ordering;

/// Bytes that are set aside: charged to an allocator without a block, and released on drop.
///
/// [`BufferAllocator::new_reservation`] creates one. Its bytes are counted in
/// [`reserved_bytes`](crate::AllocatorStats::reserved_bytes) of the allocator's stats.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let mut reservation = root.new_reservation();
/// reservation.add(1000)?;
/// reservation.add(500)?;
/// let buffer = reservation.allocate_buffer().map_err(|(error, _)| error)?;
/// assert_eq!((buffer.capacity(), root.allocated_memory()), (1536, 1536));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[doc(alias = "MemoryReservation")]
pub struct AllocationReservation {
    allocator: BufferAllocator,
    /// The charged bytes, and in debug mode the history; also in the node's list of reservations.
    reserved: Arc<Reserved>,
}

impl AllocationReservation {
    /// A reservation of bytes that are charged to the allocator, made by `caller`.
    pub(crate) fn with(
        allocator: &BufferAllocator,
        bytes: usize,
        caller: &'static Location<'static>,
    ) -> Self {
        let node = allocator.node();
        let trail = node.tree.recorder().map(|recorder| recorder.trail(caller));
        let reserved = Reserved::new(bytes, trail);
        allocator.handle.list_reservation(&reserved);
        Self {
            allocator: allocator.clone(),
            reserved,
        }
    }

    /// Adds exactly `bytes`. The listener is not asked. Usually costs one compare-exchange.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between the allocator and the root would be passed.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// The reservation is then as it was.
    #[inline]
    #[track_caller]
    #[doc(alias("try_grow", "reserve"))]
    pub fn add(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.grow(bytes, bytes)
    }

    /// Adds `bytes`; an error reports that `asked` bytes were requested.
    #[inline(always)] // A call would cost as much as the rest of it.
    #[track_caller]
    fn grow(&mut self, bytes: usize, asked: usize) -> Result<(), AllocError> {
        if bytes == 0 {
            return Ok(());
        }
        if !self.allocator.handle.take(bytes) {
            return self
                .grow_slowly(bytes, asked, Location::caller())
                .map_err(|error| *error);
        }
        self.add_charged(bytes);
        Ok(())
    }

    /// Adds bytes that are charged to the allocator already.
    #[inline]
    #[track_caller]
    pub(crate) fn add_charged(&self, bytes: usize) {
        self.set_size(self.size() + bytes);
        self.note(Operation::Resized, Location::caller());
    }

    /// Adds `bytes` even if they pass a limit; `true` if no limit is passed. Zero bytes fit.
    ///
    /// This is for memory that exists anyway, and works on a closed allocator too. The bytes are counted
    /// in [`forced_bytes`](crate::AllocatorStats::forced_bytes). They belong to this reservation, and
    /// only it can release them. The call takes the tree's lock.
    ///
    /// # Panics
    ///
    /// If a sum would pass `isize::MAX`; nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let mut reservation = root.new_reservation();
    /// assert!(!reservation.force_add(1500));
    /// assert_eq!((reservation.size(), root.is_over_limit()), (1500, true));
    /// reservation.shrink(600);
    /// assert!(!root.is_over_limit());
    /// ```
    #[track_caller]
    #[doc(alias = "grow")]
    pub fn force_add(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        match self.allocator.handle.force_reserved(bytes) {
            Ok(fits) => {
                self.set_size(self.size() + bytes);
                self.note(Operation::Resized, Location::caller());
                fits
            }
            Err(refusal) => panic!("{}", refusal.to_error(bytes, self.purpose(bytes))),
        }
    }

    /// Does what `grow` does where the allocator's credit does not suffice. The error is in a box, so that the result
    /// fits in a register.
    #[cold]
    #[inline(never)]
    fn grow_slowly(
        &self,
        bytes: usize,
        asked: usize,
        caller: &'static Location<'static>,
    ) -> Result<(), Box<AllocError>> {
        charge(&self.allocator.handle, bytes)
            .map_err(|refusal| Box::new(self.refused(&refusal, bytes, asked)))?;
        self.set_size(self.size() + bytes);
        self.note(Operation::Resized, caller);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn refused(&self, refusal: &Refusal, bytes: usize, asked: usize) -> AllocError {
        refusal.report(asked, self.purpose(bytes))
    }

    /// Returns the purpose of `bytes` more, for an error.
    pub(crate) fn purpose(&self, bytes: usize) -> Purpose {
        let from = self.size();
        let to = from.saturating_add(bytes);
        Purpose::Reservation { from, to }
    }

    /// Gives back `bytes`.
    ///
    /// # Panics
    ///
    /// If `bytes` is more than the size of the reservation; nothing has changed then.
    #[inline]
    #[track_caller]
    pub fn shrink(&mut self, bytes: usize) {
        self.take(bytes);
        // SAFETY: the bytes were charged and part of this reservation's size until `take`.
        unsafe { self.allocator.handle.uncharge(bytes) };
    }

    /// Adds or gives back bytes, so that the size becomes `bytes`. The listener is not asked.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between the allocator and the root would be passed.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// The reservation is then as it was. A smaller size is never refused.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut reservation = root.new_reservation();
    /// reservation.resize(500)?;
    /// reservation.shrink(100);
    /// assert_eq!((reservation.size(), root.allocated_memory()), (400, 400));
    /// reservation.resize(0)?;
    /// assert_eq!(root.allocated_memory(), 0);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "try_resize")]
    pub fn resize(&mut self, bytes: usize) -> Result<(), AllocError> {
        match bytes.checked_sub(self.size()) {
            Some(more) => self.grow(more, bytes),
            None => {
                self.shrink(self.size() - bytes);
                Ok(())
            }
        }
    }

    /// Returns the charged bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.reserved.size()
    }

    /// Turns the reservation into a buffer.
    ///
    /// Its capacity is the size of the reservation, rounded up to a multiple of 64 (the rounding policy
    /// is not asked). Only the bytes that the rounding adds are charged.
    ///
    /// # Errors
    ///
    /// The error comes with the unchanged reservation:
    ///
    /// * [`AllocError::OutOfMemory`] if the bytes that the rounding adds would pass a limit.
    /// * [`AllocError::Vetoed`] if the listener refuses the request.
    /// * [`AllocError::Manager`] if the backend has no such block.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size, or a sum, is above `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut reservation = root.new_reservation();
    /// reservation.add(100)?;
    /// root.set_limit(100);
    /// let (_error, reservation) = reservation.allocate_buffer().unwrap_err(); // 128 do not fit
    /// root.set_limit(128);
    /// assert_eq!(reservation.allocate_buffer().unwrap().capacity(), 128);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "allocateBuffer")]
    pub fn allocate_buffer(self) -> Result<ArrowBufMut, (AllocError, AllocationReservation)> {
        let size = self.size();
        if size == 0 {
            return self.allocator.buffer(0).map_err(|error| (error, self));
        }
        let layout = checked_round_up(size, ALIGNMENT)
            .and_then(|capacity| Layout::from_size_align(capacity, ALIGNMENT).ok());
        let Some(layout) = layout else {
            let error = errors::overflow(self.allocator.node(), size);
            return Err((error, self));
        };
        let hand_over = || self.set_size(0);
        allocate::allocate_reserved(&self.allocator.handle, size, layout, hand_over)
            .map_err(|error| (error, self))
    }

    /// Splits off `bytes` into a new reservation. Nothing is charged or released.
    ///
    /// # Panics
    ///
    /// If `bytes` is more than the size of the reservation; nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut reservation = root.new_reservation();
    /// reservation.add(100)?;
    /// let part = reservation.split(30);
    /// assert_eq!((reservation.size(), part.size()), (70, 30));
    /// assert_eq!((part.allocator(), root.allocated_memory()), (&*root, 100));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn split(&mut self, bytes: usize) -> AllocationReservation {
        self.take(bytes);
        Self::with(&self.allocator, bytes, Location::caller())
    }

    /// Returns the allocator that is charged.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    /// Subtracts `bytes` from the size; they stay charged.
    #[track_caller]
    fn take(&self, bytes: usize) {
        let size = self.size();
        if bytes > size {
            // A function, since `assert!` would keep both numbers in memory for its message.
            taken_too_many(bytes, size);
        }
        self.set_size(size - bytes);
        self.note(Operation::Resized, Location::caller());
    }

    /// Subtracts `bytes` from the size, which is as large at least, for a foreign room that owns them
    /// until it is dropped. They stay charged.
    pub(crate) fn lend(&self, bytes: usize) {
        self.set_size(self.size() - bytes);
    }

    /// Adds bytes that were [lent](Self::lend) and not used.
    pub(crate) fn take_back(&self, bytes: usize) {
        self.set_size(self.size() + bytes);
    }

    /// In debug mode, notes an operation.
    #[inline]
    fn note(&self, operation: Operation, caller: &'static Location<'static>) {
        if let Some(trail) = &self.reserved.trail {
            trail.note(operation, self.size(), Some(caller));
        }
    }

    #[inline]
    fn set_size(&self, size: usize) {
        // Relaxed: only this value writes it, and readers want a number only.
        self.reserved.size.store(size, Ordering::Relaxed);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn taken_too_many(bytes: usize, size: usize) -> ! {
    panic!("{bytes} bytes taken from a reservation of {size}")
}

impl Drop for AllocationReservation {
    fn drop(&mut self) {
        let size = self.size();
        let handle = &self.allocator.handle;
        // Unlisted first, so that a closed allocator that waits for this reservation finds it gone.
        handle.unlist_reservation(&self.reserved);
        if size > 0 {
            // SAFETY: the bytes are charged and part of this reservation's size; it is dropped.
            unsafe { handle.uncharge(size) };
        } else {
            handle.reconsider();
        }
    }
}

impl fmt::Debug for AllocationReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllocationReservation")
            .field("allocator", &self.allocator)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl BufferAllocator {
    /// Creates a reservation of zero bytes. Takes the tree's lock.
    #[track_caller]
    #[doc(alias("newReservation", "new_empty"))]
    pub fn new_reservation(&self) -> AllocationReservation {
        AllocationReservation::with(self, 0, Location::caller())
    }
}

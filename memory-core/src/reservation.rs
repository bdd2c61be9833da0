//! [`AllocationReservation`]: bytes set aside for a while.
#![expect(
    unsafe_code,
    reason = "gives back bytes that its own size says are charged"
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
use crate::size::{ALIGNMENT, checked_round_up};
use crate::sync::Ordering;

/// Bytes set aside for a while: charged to an allocator without a block, released on drop.
///
/// Made by [`BufferAllocator::new_reservation`]. Counted in
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
    /// Bytes charged, and in debug mode where they come from; in the node's list.
    reserved: Arc<Reserved>,
}

impl AllocationReservation {
    #[track_caller]
    fn with(allocator: &BufferAllocator, bytes: usize) -> Self {
        let caller = Location::caller();
        let node = allocator.node();
        let trail = node.tree.recorder().map(|recorder| recorder.trail(caller));
        let reserved = Reserved::new(bytes, trail);
        allocator.handle.list_reservation(&reserved);
        Self {
            allocator: allocator.clone(),
            reserved,
        }
    }

    /// Adds `bytes`, exactly.
    ///
    /// # Errors
    ///
    /// As [`BufferAllocator::allocate_bytes`]; the reservation is as it was.
    #[inline]
    #[track_caller]
    #[doc(alias("try_grow", "reserve"))]
    pub fn add(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.grow(bytes, bytes)
    }

    /// Adds `bytes`; the caller asked for `asked`, says an error.
    #[inline(always)] // A call would cost as much as the rest.
    #[track_caller]
    fn grow(&mut self, bytes: usize, asked: usize) -> Result<(), AllocError> {
        if bytes == 0 {
            return Ok(());
        }
        if let Err(refusal) = self.allocator.handle.charge(bytes) {
            return Err(self.refused(&refusal, bytes, asked));
        }
        self.set_size(self.size() + bytes);
        self.note(Operation::Resized, Location::caller());
        Ok(())
    }

    /// Adds `bytes`, whatever the limits say; `true` if they fitted. Zero bytes fit.
    ///
    /// For memory that exists anyway. It is counted as
    /// [`BufferAllocator::force_allocate`] is, and works on a closed allocator, too; but these bytes
    /// are this reservation's, and nobody else can release them. Takes the tree's lock.
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

    #[cold]
    #[inline(never)]
    fn refused(&self, refusal: &Refusal, bytes: usize, asked: usize) -> AllocError {
        refusal.report(asked, self.purpose(bytes))
    }

    /// What `bytes` more are for, says an error.
    fn purpose(&self, bytes: usize) -> Purpose {
        let from = self.size();
        let to = from.saturating_add(bytes);
        Purpose::Reservation { from, to }
    }

    /// Gives `bytes` back.
    ///
    /// # Panics
    ///
    /// If that is more than the reservation has; nothing has changed then.
    #[inline]
    #[track_caller]
    pub fn shrink(&mut self, bytes: usize) {
        self.take(bytes);
        if bytes == 0 {
            return;
        }
        // SAFETY: they were this reservation's, by its size, until the line above.
        unsafe { self.allocator.handle.uncharge(bytes) };
    }

    /// Adds or gives back bytes, so that the size is `bytes`.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
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

    /// Bytes charged.
    #[inline]
    pub fn size(&self) -> usize {
        self.reserved.size()
    }

    /// Turns the reservation into a buffer whose capacity is its size, rounded up to a multiple of
    /// 64 (the rounding policy is not asked); only what that adds is charged.
    ///
    /// # Errors
    ///
    /// The error, as for [`BufferAllocator::buffer`], and the reservation as it was.
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

    /// Splits `bytes` off into a reservation of their own. Nothing is charged or released.
    ///
    /// # Panics
    ///
    /// If that is more than the reservation has; nothing has changed then.
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
        Self::with(&self.allocator, bytes)
    }

    /// The allocator that is charged.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    /// Takes `bytes` off the size; they stay charged.
    #[track_caller]
    fn take(&self, bytes: usize) {
        let size = self.size();
        assert!(
            bytes <= size,
            "{bytes} bytes taken from a reservation of {size}"
        );
        self.set_size(size - bytes);
        self.note(Operation::Resized, Location::caller());
    }

    /// Takes `bytes`, of which it has as many, off the size, for a room, which has them until it is
    /// dropped. They stay charged.
    pub(crate) fn lend(&self, bytes: usize) {
        self.set_size(self.size() - bytes);
    }

    /// Takes bytes back that were [lent](Self::lend) and not used.
    pub(crate) fn take_back(&self, bytes: usize) {
        self.set_size(self.size() + bytes);
    }

    /// Notes what happened, in debug mode.
    #[inline]
    fn note(&self, operation: Operation, caller: &'static Location<'static>) {
        if let Some(trail) = &self.reserved.trail {
            trail.note(operation, self.size(), Some(caller));
        }
    }

    #[inline]
    fn set_size(&self, size: usize) {
        // Relaxed: written by this value alone; a number for readers.
        self.reserved.size.store(size, Ordering::Relaxed);
    }
}

impl Drop for AllocationReservation {
    fn drop(&mut self) {
        let size = self.size();
        let handle = &self.allocator.handle;
        // First, so that a closed allocator that waits for this one sees it gone.
        handle.unlist_reservation(&self.reserved);
        if size > 0 {
            // SAFETY: they are this reservation's, by its size, and it goes.
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
    /// A reservation of zero bytes.
    #[track_caller]
    #[doc(alias("newReservation", "new_empty"))]
    pub fn new_reservation(&self) -> AllocationReservation {
        AllocationReservation::with(self, 0)
    }
}

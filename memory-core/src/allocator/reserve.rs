//! The live reservation of an allocator.

use std::panic::Location;

use super::BufferAllocator;
use crate::accounting::Refusal;
use crate::debug::Operation;
use crate::error::AllocError;
use crate::outcome::Purpose;

impl BufferAllocator {
    /// Returns the live reservation in bytes: the parent is charged for at least that, whether it is used or
    /// not. 0 once this allocator has left its tree. Takes the tree's lock.
    pub fn reservation(&self) -> usize {
        self.handle.reservation()
    }

    /// Sets the live reservation, in bytes, in one step.
    ///
    /// The parent is charged for the larger of the reservation and what is allocated here. So raising the
    /// reservation asks the parent, and where its own reservation does not suffice its ancestors, for the
    /// difference; lowering it gives back what is not in use, and is never refused.
    /// [`init_reservation`](Self::init_reservation) stays as it was. A root has no parent that could be charged:
    /// its reservation stays 0. Takes the tree's lock; costs what an allocation costs that needs more credit.
    /// The listener is not asked.
    ///
    /// # Errors
    ///
    /// Nothing has changed after an error.
    ///
    /// * [`AllocError::OutOfMemory`] if the difference does not fit at a level that it reaches, if `bytes` is
    ///   above this allocator's own limit, or if this allocator or an ancestor is over its limit.
    /// * [`AllocError::Closed`] if this allocator or an ancestor is closed, unless a reservation between them
    ///   covers all that is used there.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let scan = root.child("scan").reservation(100).build()?;
    /// scan.set_reservation(700)?;
    /// assert_eq!((root.allocated_memory(), scan.headroom()), (700, 1000));
    /// assert!(scan.set_reservation(1001).is_err());
    /// scan.set_reservation(0)?;
    /// assert_eq!((root.allocated_memory(), scan.init_reservation()), (0, 100));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn set_reservation(&self, bytes: usize) -> Result<(), AllocError> {
        let caller = Location::caller();
        let set = self.handle.set_reservation(bytes);
        set.map_err(|(refusal, from)| self.reservation_refused(&refusal, from, bytes))?;
        self.note_reservation(bytes, caller);
        Ok(())
    }

    /// Sets the live reservation, in bytes, whatever the limits say; returns `true` if it fits.
    ///
    /// For memory that is in use already, or will be in any case. The bytes by which the charge of the parent
    /// grows count as [forced](crate::AllocatorStats::forced_bytes), and are never taken back. It works on a
    /// closed allocator, too; on a root, or an allocator that has left its tree, it has no effect and returns
    /// `true`. Takes the tree's lock.
    ///
    /// # Panics
    ///
    /// If a sum would pass `isize::MAX`. Nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let scan = root.child("scan").build()?;
    /// assert!(!scan.force_reservation(1500));
    /// assert_eq!((scan.reservation(), root.is_over_limit()), (1500, true));
    /// assert!(scan.force_reservation(500)); // lowering always fits
    /// assert!(!root.is_over_limit());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn force_reservation(&self, bytes: usize) -> bool {
        let caller = Location::caller();
        match self.handle.force_reservation(bytes) {
            Ok(fits) => {
                self.note_reservation(bytes, caller);
                fits
            }
            Err((refusal, from)) => {
                panic!("{}", self.reservation_refused(&refusal, from, bytes))
            }
        }
    }

    #[cold]
    fn reservation_refused(&self, refusal: &Refusal, from: usize, to: usize) -> AllocError {
        let allocator = self.info().clone();
        refusal.report(
            to,
            Purpose::LiveReservation {
                allocator,
                from,
                to,
            },
        )
    }

    fn note_reservation(&self, bytes: usize, caller: &'static Location<'static>) {
        if let Some(trail) = self.node().trail()
            && self.reservation() == bytes
        {
            trail.note(Operation::ReservationSet, bytes, Some(caller));
        }
    }
}

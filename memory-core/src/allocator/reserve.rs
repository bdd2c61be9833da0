//! The live reservation of an allocator.

use std::cell::Cell;
use std::panic::Location;

use super::BufferAllocator;
use crate::accounting::{NewReservation, Refusal};
use crate::debug::Operation;
use crate::error::AllocError;
use crate::outcome::Purpose;
use crate::reclaim::retry_after_asking;

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
    /// The listener is not asked; those who could make room ([`Reclaim`](crate::Reclaim)) are, before it is refused.
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
        self.try_to_reserve(NewReservation::Exactly(bytes), Location::caller())
    }

    /// Raises the live reservation by `bytes`, in one step.
    ///
    /// Several threads may raise and lower the reservation of one allocator, such as the partitions of an
    /// operator: no change is lost. All else is as for [`set_reservation`](Self::set_reservation): the parent is
    /// charged for the larger of the reservation and what is allocated here; a root's reservation stays 0; the
    /// call takes the tree's lock, and does not ask the listener. Raising it by 0 is never refused.
    ///
    /// # Errors
    ///
    /// Nothing has changed after an error.
    ///
    /// * [`AllocError::OutOfMemory`] if the difference does not fit at a level that it reaches, if the
    ///   reservation would be above this allocator's own limit, or if this allocator or an ancestor is over its
    ///   limit.
    /// * [`AllocError::Closed`] if this allocator or an ancestor is closed, unless a reservation between them
    ///   covers all that is used there.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let sort = root.child("sort").build()?;
    /// std::thread::scope(|scope| {
    ///     for partition in [100, 200, 300] {
    ///         let sort = &sort;
    ///         scope.spawn(move || sort.raise_reservation(partition).unwrap());
    ///     }
    /// });
    /// assert_eq!((sort.reservation(), root.allocated_memory()), (600, 600));
    /// assert!(sort.raise_reservation(401).is_err());
    /// sort.lower_reservation(600);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn raise_reservation(&self, bytes: usize) -> Result<(), AllocError> {
        self.try_to_reserve(NewReservation::Higher(bytes), Location::caller())
    }

    fn try_to_reserve(
        &self,
        new: NewReservation,
        caller: &'static Location<'static>,
    ) -> Result<(), AllocError> {
        let set = self.handle.set_reservation(new);
        let set = set.or_else(|(refusal, from)| self.set_after_asking(refusal, from, new));
        let value = set.map_err(|(refusal, from)| self.reservation_refused(&refusal, from, new))?;
        self.note_reservation(value, caller);
        Ok(())
    }

    /// Asks others for memory after a refusal, and sets the reservation once more.
    #[cold]
    fn set_after_asking(
        &self,
        refusal: Box<Refusal>,
        from: usize,
        new: NewReservation,
    ) -> Result<Option<usize>, (Box<Refusal>, usize)> {
        let bytes = match new {
            NewReservation::Exactly(bytes) => bytes.saturating_sub(from),
            NewReservation::Higher(bytes) => bytes,
        };
        let from = Cell::new(from);
        let set = || {
            self.handle.set_reservation(new).map_err(|(refusal, now)| {
                from.set(now);
                refusal
            })
        };
        retry_after_asking(&self.handle, bytes, refusal, set)
            .map_err(|refusal| (refusal, from.get()))
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
        self.reserve_anyway(NewReservation::Exactly(bytes))
    }

    /// Raises the live reservation by `bytes`, in one step, whatever the limits say; returns `true` if it fits.
    ///
    /// Several threads may raise and lower the reservation of one allocator: no change is lost. All else is as
    /// for [`force_reservation`](Self::force_reservation): the bytes by which the charge of the parent grows
    /// count as [forced](crate::AllocatorStats::forced_bytes); it works on a closed allocator, too; on a root, or
    /// an allocator that has left its tree, it has no effect and returns `true`. Takes the tree's lock.
    ///
    /// # Panics
    ///
    /// If a sum would pass `isize::MAX`. Nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let sort = root.child("sort").build()?;
    /// assert!(sort.force_raise_reservation(800));
    /// assert!(!sort.force_raise_reservation(800));
    /// assert_eq!((sort.reservation(), root.is_over_limit()), (1600, true));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn force_raise_reservation(&self, bytes: usize) -> bool {
        self.reserve_anyway(NewReservation::Higher(bytes))
    }

    #[track_caller]
    fn reserve_anyway(&self, new: NewReservation) -> bool {
        let caller = Location::caller();
        match self.handle.force_reservation(new) {
            Ok((fits, value)) => {
                self.note_reservation(value, caller);
                fits
            }
            Err((refusal, from)) => panic!("{}", self.reservation_refused(&refusal, from, new)),
        }
    }

    /// Lowers the live reservation by `bytes`, in one step. It gives back what is not in use, and is never
    /// refused.
    ///
    /// Several threads may raise and lower the reservation of one allocator: no change is lost. On a root, whose
    /// reservation is always 0, and on an allocator that has left its tree, it has no effect. Takes the tree's
    /// lock.
    ///
    /// # Panics
    ///
    /// If the reservation is smaller than `bytes`; nothing has changed then.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1000);
    /// let sort = root.child("sort").build()?;
    /// sort.raise_reservation(500)?;
    /// sort.lower_reservation(200);
    /// assert_eq!((sort.reservation(), root.allocated_memory()), (300, 300));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn lower_reservation(&self, bytes: usize) {
        match self.handle.lower_reservation(bytes) {
            Ok(left) => self.note_reservation(left, Location::caller()),
            Err(reservation) => panic!(
                "the reservation of allocator `{}` was to be lowered by {bytes} bytes, and has {reservation}",
                self.info()
            ),
        }
    }

    #[cold]
    fn reservation_refused(
        &self,
        refusal: &Refusal,
        from: usize,
        new: NewReservation,
    ) -> AllocError {
        let (NewReservation::Exactly(requested) | NewReservation::Higher(requested)) = new;
        let (allocator, to) = (self.info().clone(), new.value(from));
        let purpose = Purpose::LiveReservation {
            allocator,
            from,
            to,
        };
        refusal.report(requested, purpose)
    }

    /// In debug mode, notes that the reservation was set to `value`, if it was.
    fn note_reservation(&self, value: Option<usize>, caller: &'static Location<'static>) {
        if let (Some(trail), Some(value)) = (self.node().trail(), value) {
            trail.note(Operation::ReservationSet, value, Some(caller));
        }
    }
}

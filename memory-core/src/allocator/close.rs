//! Closing an allocator, which verifies that nothing is outstanding, and retiring it, which does not.

use std::panic::Location;

use super::BufferAllocator;
use crate::accounting::Outstanding;
use crate::debug::Operation;
use crate::events;
use crate::report::{CloseError, MemoryReport};

impl BufferAllocator {
    /// Closes this allocator: it refuses new work from now on, and leaves its tree if nothing is
    /// outstanding.
    ///
    /// No allocator needs to be closed: it leaves its tree by itself when its last handle was dropped and
    /// its last byte was released. Closing verifies that nothing is left. If buffers are expected to be
    /// left and new work must end at once, [`retire`](Self::retire) the allocator instead.
    ///
    /// Closing is idempotent once it succeeded. After a failure a later `close` checks again. Meanwhile
    /// buffers stay valid; releases, transfers to other allocators and forced bytes are accepted; and
    /// open descendants work within their own reservations. The allocator leaves its tree by itself when
    /// the last outstanding thing is dropped or released.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with all that is outstanding: open children (idle ones too), ledgers with buffers
    /// (owning or not), reservations (empty ones too) and external bytes; in debug mode with the lines of
    /// code that created them. The report visits every allocation of the process, which may be slow. It
    /// is also logged as a `tracing` event of level error.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let child = root.new_child_allocator("scan", 0, 1 << 20)?;
    /// let buffer = child.buffer(100)?;
    /// let error = child.close().unwrap_err();
    /// assert_eq!(error.buffers(), 1);
    /// drop(buffer);
    /// assert!(child.close().is_ok());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[expect(
        clippy::result_large_err,
        reason = "a failed close is rare, and its report is what the caller wants"
    )]
    #[track_caller]
    pub fn close(&self) -> Result<(), CloseError> {
        let span = events::slow("close", self.info());
        match self.handle.close() {
            Ok(()) => {
                events::closed(self.info());
                Ok(())
            }
            Err(outstanding) => {
                if let Some(trail) = self.node().trail() {
                    trail.note(Operation::CloseRefused, 0, Some(Location::caller()));
                }
                let error = self.close_error(outstanding);
                events::close_refused(&error);
                // Here the subscriber may panic. At the end of the function, where the error is in the place of the
                // result already, the error would leak then.
                drop(span);
                Err(error)
            }
        }
    }

    /// Retires this allocator: it refuses new work from now on, as a closed one does, and leaves its tree
    /// with its last byte. Use it for a query that was cancelled while its workers still drain.
    ///
    /// Unlike [`close`](Self::close), this makes no report of what is outstanding and succeeds whatever
    /// is outstanding. It emits one `tracing` event of level debug. It is idempotent. A later `close`
    /// says whether anything is left.
    ///
    /// The cost grows with the number of allocators below this one, which are visited under the tree's
    /// mutex. It does not depend on the number of buffers: no buffer is visited. Each of those allocators
    /// may hold credit that it obtained from this one in advance. They give that back, so that none of
    /// them uses it for new work once `retire` has returned.
    ///
    /// Children stay open. They may use their own reservations; anything more would need memory of this
    /// allocator, which refuses it with [`AllocError::Closed`](crate::AllocError). A retired allocator
    /// stays in its tree while a child is there: until the child was closed, retired, or dropped with its
    /// last handle, and its last byte was released.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let query = root.child("query-7").build()?;
    /// let scan = query.child("scan").build()?;
    /// let batch = scan.buffer(1000)?; // a worker still uses it
    /// query.retire();
    /// assert!(query.is_closed() && scan.buffer(64).is_err());
    /// drop((batch, scan));
    /// assert!(root.child_allocators().is_empty()); // `query` left with its last byte
    /// assert!(query.close().is_ok());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn retire(&self) {
        // A retired allocator may have something outstanding.
        let _: Result<(), Outstanding> = self.handle.close();
        events::retired(self.info());
    }

    /// Returns whether [`close`](Self::close) or [`retire`](Self::retire) was called, or the allocator has
    /// left its tree.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let child = root.new_child_allocator("scan", 0, 1 << 20)?;
    /// let _grandchild = child.new_child_allocator("column", 0, 100)?;
    /// assert!(child.close().is_err());
    /// assert!(child.is_closed()); // even after a failed close
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "assertOpen")]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    fn close_error(&self, outstanding: Outstanding) -> CloseError {
        let Outstanding {
            allocated,
            peak,
            limit,
        } = outstanding;
        let mut report = self.report();
        let mut error = CloseError {
            allocator: self.info().clone(),
            allocated,
            reservation: report.entries.first().map_or(0, |own| own.reservation),
            peak,
            limit,
            children: report
                .entries
                .iter()
                .filter(|entry| entry.depth == 1)
                .map(|entry| {
                    (
                        entry.allocator.clone(),
                        entry.allocated.max(entry.reservation),
                    )
                })
                .collect(),
            ledgers: Vec::new(),
            reservations: Vec::new(),
            external_bytes: 0,
            reserved_bytes: 0,
            report: MemoryReport::default(),
        };
        if let Some(own) = report.entries.first_mut() {
            // The numbers at the instant at which `close` was refused.
            (own.allocated, own.peak, own.limit) = (allocated, peak, limit);
            error.ledgers.clone_from(&own.ledgers);
            let sizes = own.reservations.iter().map(|reservation| reservation.size);
            error.reservations = sizes.collect();
            error.external_bytes = own.external_bytes;
            error.reserved_bytes = own.reserved_bytes;
        }
        error.report = report;
        error
    }
}

//! Closing: succeeds, or refuses new work and says what is outstanding.

use std::cmp::Reverse;

use super::BufferAllocator;
use super::state::find_ledgers;
use crate::accounting::Outstanding;
use crate::report::{CloseError, OutstandingLedger};
use crate::sync::Ordering;

impl BufferAllocator {
    /// Closes this allocator: it refuses new work from now on, and leaves its tree if nothing is
    /// outstanding.
    ///
    /// Idempotent once it succeeded. After a failure a later `close` looks again; meanwhile buffers
    /// stay valid, releases, transfers away and forced bytes are accepted, and open descendants
    /// work within what their own reservations cover. When the last outstanding thing goes, the
    /// allocator leaves its tree by itself.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with all that is outstanding: open children (idle ones too), ledgers with
    /// buffers (owning or not), reservations (empty ones too), external bytes. Making that report
    /// looks at every allocation of the process, which may be slow.
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
    pub fn close(&self) -> Result<(), CloseError> {
        match self.handle.close() {
            Ok(()) => {
                tracing::debug!(allocator = %self.info(), "allocator closed");
                Ok(())
            }
            Err(outstanding) => {
                let error = self.close_error(outstanding);
                tracing::debug!(allocator = %self.info(), %error, "close refused");
                Err(error)
            }
        }
    }

    /// Whether [`close`](Self::close) was called, or the allocator has left its tree.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    fn close_error(&self, outstanding: Outstanding) -> CloseError {
        let Outstanding {
            allocated,
            peak,
            limit,
        } = outstanding;
        let address = std::ptr::from_ref(self.node()).addr();
        let mut ledgers: Vec<OutstandingLedger> = find_ledgers(|at| at == address)
            .into_iter()
            .map(|(_, ledger)| ledger)
            .collect();
        ledgers.sort_by_key(|ledger| Reverse((ledger.owning, ledger.size)));
        let children = self
            .child_allocators()
            .iter()
            .map(|child| (child.info().clone(), child.charged_to_parent()))
            .collect();
        CloseError {
            allocator: self.info().clone(),
            allocated,
            reservation: self.init_reservation(),
            peak,
            limit,
            children,
            ledgers,
            reservations: self.node().reservation_sizes(),
            // Relaxed: a number for a report.
            external_bytes: self.node().external.load(Ordering::Relaxed),
        }
    }
}

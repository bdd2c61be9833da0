//! [`ReclaimGuard`]: a registration, until it is dropped.

use std::fmt;
use std::sync::Arc;

use super::ask::{Cost, Reclaim, Registration};
use crate::accounting::Reclaimer;
use crate::allocator::BufferAllocator;

/// Has a [`Reclaim`] asked for memory until this is dropped.
///
/// Dropping it does not wait for other threads: a call of the [`Reclaim`] that has begun there, or is about to begin, may
/// still run afterwards, and the last one drops the [`Reclaim`]. Nobody else calls it any more, and on the thread that
/// dropped this no further call begins.
#[must_use = "nobody is asked any more once this is dropped"]
pub struct ReclaimGuard {
    registration: Arc<Registration>,
    listed: Arc<dyn Reclaimer>,
}

impl ReclaimGuard {
    /// Registers `reclaim`. Asks that it gives to somebody who reads them `later` get their share of the spill reserve
    /// when they are read.
    pub(super) fn new(
        allocator: &BufferAllocator,
        cost: Cost,
        reclaim: Arc<dyn Reclaim>,
        later: bool,
    ) -> Self {
        let registration = Arc::new(Registration::new(allocator, cost, reclaim, later));
        let listed: Arc<dyn Reclaimer> = registration.clone();
        allocator.handle.register(&listed);
        Self {
            registration,
            listed,
        }
    }
}

impl ReclaimGuard {
    pub(super) fn allocator(&self) -> &BufferAllocator {
        self.registration.allocator()
    }
}

impl Drop for ReclaimGuard {
    fn drop(&mut self) {
        self.registration.end();
        self.registration
            .allocator()
            .handle
            .unregister(&self.listed);
    }
}

impl fmt::Debug for ReclaimGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimGuard")
            .field("allocator", self.registration.allocator())
            .finish_non_exhaustive()
    }
}

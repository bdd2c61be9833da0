//! A manager that fails or panics where the plan says so, over one that tracks every block.
#![expect(
    unsafe_code,
    reason = "managers hand out raw blocks; this one passes on those of the manager that it wraps"
)]

use std::sync::Arc;

use arrow_memory_core::__private::forward_to_inner;
use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{AllocationManager, ManagerError, ManagerStats};

use crate::plan::{Point, fails, panics};

#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) inner: Arc<TrackingManager>,
}

fn step(point: Point) -> Result<(), ManagerError> {
    match fails(point) {
        true => Err(ManagerError::new("injected")),
        false => Ok(()),
    }
}

// SAFETY: every method but `deallocate` fails or panics without doing anything, or forwards to a manager that keeps the
// promises.
unsafe impl AllocationManager for Hostile {
    forward_to_inner!(name, deallocate);
    forward_to_inner!(before |_this| step(Point::Allocate)?; allocate);
    forward_to_inner!(before |_this| step(Point::AllocateZeroed)?; allocate_zeroed);
    forward_to_inner!(before |_this| step(Point::Reallocate)?; reallocate);
    forward_to_inner!(before |_this| panics(Point::ReleaseUnused); release_unused);

    fn stats(&self) -> ManagerStats {
        panics(Point::Stats);
        self.inner.stats()
    }
}

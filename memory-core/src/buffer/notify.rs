//! What the listener is asked and told of an allocation, and what the statistics count.

use super::charge::Request;
use super::errors::vetoed;
use crate::accounting::{Handle, Node, hooks};
use crate::error::AllocError;
use crate::events;
use crate::sync::Ordering;

/// Asks the listener whether it has something against an allocation, if it hears of allocations.
pub(crate) fn ask(handle: &Handle, size: usize, request: impl Request) -> Result<(), AllocError> {
    if let Some(listener) = handle.hearing() {
        let asked = events::inside(|| listener.on_pre_allocation(&handle.info, size));
        asked.map_err(|veto| vetoed(handle, request(), veto))?;
    }
    Ok(())
}

/// Counts a new allocation in the statistics.
pub(crate) fn count_allocation(node: &Node, size: usize) {
    if node.hooks & hooks::STATISTICS != 0 {
        // Relaxed, all: statistics.
        node.total_bytes.fetch_add(size as u64, Ordering::Relaxed);
        node.total_allocations.fetch_add(1, Ordering::Relaxed);
        node.live_allocations.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts growth in the statistics.
pub(crate) fn count_growth(node: &Node, size: usize) {
    if node.hooks & hooks::STATISTICS != 0 {
        // Relaxed: a statistic.
        node.total_bytes.fetch_add(size as u64, Ordering::Relaxed);
    }
}

/// Tells the listener of an allocation, or of growth.
pub(crate) fn tell_allocation(node: &Node, size: usize) {
    if let Some(listener) = node.hearing() {
        events::inside(|| listener.on_allocation(&node.info, size));
    }
}

//! Telling listeners, the sampler and the side counters of releases and transfers.
#![expect(
    unsafe_code,
    reason = "reads the block of a shared allocation for a probe"
)]

use std::sync::Arc;

use crate::accounting::{Node, hooks};
use crate::events;
use crate::events::{quietly, quietly_unmarked};
use crate::outcome::AllocatorInfo;
use crate::probes;
use crate::raw::slot::Slot;
use crate::sampling;
use crate::sync::Ordering;

/// Tells the listener of a release, in a `Drop`.
#[inline]
pub(crate) fn tell_release(node: &Node, size: usize) {
    quietly_unmarked(&node.info, || node.hearer().on_release(&node.info, size));
}

/// A charge that moved. The listeners are told once the mutex is released.
pub(super) struct Moved {
    from: Arc<Node>,
    to: Arc<Node>,
    size: usize,
    /// The allocator to which the sampler ascribed it before. Dropped after the mutex is released.
    _before: Option<AllocatorInfo>,
}

impl Moved {
    /// A charge that moved from `from` to `to`. This moves the allocation in the side counters, too.
    pub(super) fn new(from: Arc<Node>, to: Arc<Node>, size: usize, slot: &Slot) -> Self {
        Self {
            _before: moved_counts(&from, &to, slot),
            from,
            to,
            size,
        }
    }

    /// Tells both listeners, in a `Drop`.
    pub(super) fn tell_quietly(self) {
        tell_quietly(&self.from, &self.to, self.size);
    }
}

/// Tells both listeners of a transfer, in a `Drop`.
pub(super) fn tell_quietly(from: &Node, to: &Node, size: usize) {
    quietly(&to.info, || tell(from, to, size));
}

/// Tells both listeners after a transfer that was asked for, and reports a limit passed.
#[inline]
pub(super) fn after_transfer(from: &Node, to: &Node, size: usize, fit: bool) {
    if !fit {
        over_limit(from, to, size);
    }
    tell(from, to, size);
}

/// Reports that a transfer has passed a limit.
#[cold]
pub(super) fn over_limit(from: &Node, to: &Node, size: usize) {
    events::over_limit_after_transfer(&from.info, &to.info, size);
}

/// Tells the listener of each side once.
#[inline]
fn tell(from: &Node, to: &Node, size: usize) {
    if from.listener.is_some() || to.listener.is_some() {
        tell_some(from, to, size);
    }
}

#[inline(never)]
fn tell_some(from: &Node, to: &Node, size: usize) {
    let same = match (&from.listener, &to.listener) {
        (Some(a), Some(b)) => std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)),
        _ => false,
    };
    let to_listener = to.listener.as_ref().filter(|_| !same);
    for listener in from.listener.iter().chain(to_listener) {
        events::inside(|| listener.on_transfer(&from.info, &to.info, size));
    }
}

/// Moves an allocation's entries in the nodes' side counters. Under the mutex; what it returns is
/// dropped after the mutex is released.
#[must_use = "dropped after the mutex is released"]
pub(super) fn moved_counts(from: &Node, to: &Node, slot: &Slot) -> Option<AllocatorInfo> {
    let home = slot.home();
    // SAFETY: under the mutex, and the allocation has several ledgers or is foreign, so that nobody changes the block.
    let start = unsafe { home.block() }.ptr;
    probes::transfer(start, slot.size(), from.probed(), to.probed());
    let sampled = home.is_sampled();
    let before = sampled.then(|| sampling::moved(std::ptr::from_ref(home).addr(), &to.info));
    if slot.is_foreign() {
        let size = slot.size();
        // Relaxed, both: numbers for readers.
        from.foreign.fetch_sub(size, Ordering::Relaxed);
        to.foreign.fetch_add(size, Ordering::Relaxed);
    }
    if from.hooks & hooks::STATISTICS != 0 {
        // Relaxed, both: statistics.
        from.live_allocations.fetch_sub(1, Ordering::Relaxed);
        to.live_allocations.fetch_add(1, Ordering::Relaxed);
    }
    before.flatten()
}

//! Every `tracing` event of this crate; `docs/events.md` lists them.
//!
//! They are emitted by the governor's thread, out of which nothing unwinds.

use std::fmt::Display;

use arrow_memory_core::__private::events::once_in_drop;
use arrow_memory_core::BufferAllocator;

use crate::governor::control::Measured;

pub(crate) fn governor_started(root: &BufferAllocator, limit: usize, source: &str) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        tracing::debug!(%allocator, id, limit, source, "governor started");
    });
}

/// `before` is the cap until now, if there was one.
pub(crate) fn cap_moved(
    root: &BufferAllocator,
    before: Option<usize>,
    cap: usize,
    measured: &Measured,
) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        let Measured {
            host,
            used,
            accounted,
            ..
        } = *measured;
        if before.is_some_and(|before| cap < before) {
            tracing::info!(%allocator, id, cap, host, used, accounted, "cap lowered");
        } else {
            tracing::debug!(%allocator, id, cap, host, used, accounted, "cap raised");
        }
    });
}

pub(crate) fn not_measured(root: &BufferAllocator, level: &impl Display) {
    once_in_drop(|| {
        let (allocator, id) = who(root);
        tracing::warn!(%allocator, id, %level, "the use of memory cannot be measured: the cap stays as it is");
    });
}

/// `call` is what the governor's thread called.
pub(crate) fn governor_panicked(call: &str) {
    once_in_drop(|| tracing::error!(call, "a callback panicked in the governor; ignored"));
}

fn who(root: &BufferAllocator) -> (impl Display, u64) {
    (root.info(), root.id().as_u64())
}

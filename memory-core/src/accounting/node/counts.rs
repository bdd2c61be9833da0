//! The counts of a node's handles and pins, which keep a node without bytes.
#![expect(
    unsafe_code,
    reason = "reaches a count of a node that may be freed once the count is changed"
)]

use super::{Node, NodePtr};
use crate::sync::{AtomicUsize, Ordering};

impl Node {
    /// Another handle: the caller has one, or the mutex.
    #[inline]
    pub(crate) fn add_handle(&self) {
        // Relaxed: the caller keeps the node alive by other means until this is done.
        let count = self.handles.fetch_add(1, Ordering::Relaxed);
        abort_on_overflow(count);
    }

    /// Another handle, if there is one; `false`: the first one comes under the mutex.
    #[inline]
    pub(in crate::accounting) fn add_handle_unless_first(&self) -> bool {
        let added = self
            .handles
            // Relaxed, both: the caller keeps the node alive by other means until this is done.
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count > 0).then(|| count + 1)
            });
        added.map(abort_on_overflow).is_ok()
    }

    /// Another pin: the caller has one, or a handle, or bytes or a ledger keep the node.
    #[inline]
    pub(crate) fn add_pin(&self) {
        // Relaxed: the caller keeps the node alive by other means until this is done.
        let count = self.pins.fetch_add(1, Ordering::Relaxed);
        abort_on_overflow(count);
    }

    /// How many handles there are.
    pub(in crate::accounting) fn handles(&self) -> usize {
        // Acquire: partner of the Release in `drop_unless_last`; a thread that sees the count drop to
        // one comes after all that the others did with the node.
        self.handles.load(Ordering::Acquire)
    }
}

// Once the count is changed, another thread may free the node. So these take a pointer, and reach
// the count alone: a reference to the node that is an argument would promise that all of the node
// lives until the function returns. (One to an atomic promises nothing of the kind.)
impl NodePtr {
    /// Gives up a handle that is not the last one; `false`: it may be, and the mutex must decide.
    ///
    /// # Safety
    ///
    /// The caller has that handle, and gives it up if the answer is `true`.
    #[inline]
    pub(in crate::accounting) unsafe fn drop_handle_unless_last(self) -> bool {
        // SAFETY: the handle keeps the node alive until the count is changed.
        drop_unless_last(unsafe { &(*self.0.as_ptr()).handles })
    }

    /// Gives up a pin that is not the last one; `false`: it may be, and the mutex must decide.
    ///
    /// # Safety
    ///
    /// The caller has that pin, and gives it up if the answer is `true`.
    #[inline]
    pub(in crate::accounting) unsafe fn drop_pin_unless_last(self) -> bool {
        // SAFETY: the pin keeps the node alive until the count is changed.
        drop_unless_last(unsafe { &(*self.0.as_ptr()).pins })
    }
}

/// Decrements `count` if others remain.
fn drop_unless_last(count: &AtomicUsize) -> bool {
    count
        // Release: what this thread did with the node comes before the node is freed; the partner
        // is the Acquire of `last_goes` and of `handles`. Relaxed for the looks before it.
        .fetch_update(Ordering::Release, Ordering::Relaxed, |count| {
            (count > 1).then(|| count - 1)
        })
        .is_ok()
}

/// Aborts, as std does for `Arc`: after 2^63 leaked handles a wrap would be a use after free.
fn abort_on_overflow(count: usize) {
    if count > isize::MAX as usize {
        std::process::abort();
    }
}

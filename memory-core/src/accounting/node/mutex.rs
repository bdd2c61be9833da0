//! The mutex of a tree. It outlives the tree.
//!
//! A thread that gives up what keeps a tree alive does so under the tree's mutex, and then has to release
//! the mutex. If the mutex were freed with the tree, a count would have to keep it until then: two
//! read-modify-writes at every such release. So mutexes are never freed: a tree gets one that
//! another tree has left, or a new one. There are as many as trees ever lived at once. A fork takes
//! them all: see [`process`](crate::sync::process).

use super::{Shared, SharedMutex, TreeMutex};
#[cfg(loom)]
pub(super) use crate::sync::lock;
#[cfg(not(loom))]
use crate::sync::process::{HandedOn, Order, ProcessGuard, ProcessLock};
#[cfg(loom)]
use crate::sync::{Mutex, MutexGuard};

/// A tree's mutex, held.
#[cfg(not(loom))]
pub(super) type SharedGuard = ProcessGuard<Shared>;
#[cfg(loom)]
pub(super) type SharedGuard = MutexGuard<'static, Shared>;

impl TreeMutex {
    /// A mutex that no other tree has.
    #[cfg(not(loom))]
    pub(super) fn new() -> Self {
        Self(LEFT.take(|| ProcessLock::new(Order::Tree, Shared::default()).in_child(Shared::fork)))
    }

    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self(Box::leak(Box::new(Mutex::new(Shared::default()))))
    }

    /// Takes the mutex.
    #[inline]
    pub(super) fn lock(&self) -> SharedGuard {
        lock(self.0)
    }

    /// The mutex without its tree, which may be freed.
    pub(super) fn by_itself(&self) -> SharedMutex {
        self.0
    }
}

/// Takes a mutex whose tree may be freed.
#[cfg(not(loom))]
#[inline]
pub(super) fn lock(mutex: SharedMutex) -> SharedGuard {
    mutex.lock()
}

#[cfg(not(loom))]
impl Drop for TreeMutex {
    /// Leaves the mutex to the next tree; the thread that freed the tree, or another one that gave
    /// up something of it, may be about to release it, which is no harm.
    fn drop(&mut self) {
        LEFT.leave(self.0);
    }
}

#[cfg(not(loom))]
impl Shared {
    /// In a forked child: ends all waits, so that nobody is to be woken.
    fn fork(&mut self) {
        self.queue.fork();
        (self.waking, self.next_to_wake) = (None, None);
        // What quiet sections have left is put on the list again by the next one. The first of the list may stay there:
        // to tend to a mutex once too often is no harm.
        (self.to_tend, self.next_to_tend) = (false, None);
    }
}

/// Mutexes whose trees were freed. (In a model each tree has a new mutex: loom's cannot be kept from one
/// execution to the next.)
#[cfg(not(loom))]
static LEFT: HandedOn<Shared> = HandedOn::new();

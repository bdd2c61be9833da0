//! Forked children, in which the wrapper attributes nothing.
//!
//! A child has the parent's labels and accounts, but not the parent's other threads, which may hold what the accounts
//! count. So in a child nothing is charged, and a block of the parent that is freed there is not given back.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow_memory_core::__private::{Order, ProcessLock};

use arrow_memory_core::__private::heap;

/// Whether this process is a forked child of one that had scopes.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// A lock that is never taken: the handlers of forks call its function in the child.
static HOOK: ProcessLock<()> = ProcessLock::new(Order::Inner, ()).in_child(enter_child);

/// Has the wrapper attribute nothing in children that are forked from now on.
///
/// Two threads may both come first, which is no harm. A `Once` would have a lock of its own, which a fork could find
/// taken.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Relaxed, both: the list has a lock of its own. Whoever sees the flag creates a scope afterwards, and another
    // thread had listed the hook by then.
    if !WATCHED.load(Ordering::Relaxed) {
        HOOK.list();
        WATCHED.store(true, Ordering::Relaxed);
    }
}

/// Whether this process is a forked child of one that had scopes.
#[inline]
pub(crate) fn in_child() -> bool {
    // Relaxed: it is set before the child has a second thread.
    IN_CHILD.load(Ordering::Relaxed)
}

fn enter_child(_: &mut ()) {
    // Relaxed: see `in_child`.
    IN_CHILD.store(true, Ordering::Relaxed);
    heap::replace(None);
}

//! Forked children, in which the wrapper attributes nothing.
//!
//! A child has the parent's labels and accounts, but not the parent's other threads, which may hold what the accounts
//! count. So in a child nothing is charged, and a block of the parent that is freed there is not given back.

#![expect(unsafe_code, reason = "takes the thread's account away")]

#[cfg_attr(target_os = "linux", path = "fork/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "fork/none.rs")]
mod platform;

use std::sync::atomic::{AtomicBool, Ordering};

use arrow_memory_core::__private::heap;

/// Whether this process is a forked child of one that had scopes.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Has the wrapper attribute nothing in children that are forked from now on.
///
/// The handler is not one of the locks of this workspace, which do nothing for a thread that forks while it holds one.
/// Two threads may both come first, which is no harm. A `Once` would have a lock of its own, which a fork could find
/// taken.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Acquire and Release: partners of each other. A thread that sees the flag creates a scope after the call.
    if !WATCHED.load(Ordering::Acquire) {
        heap::unscoped(|| platform::in_children(enter_child));
        WATCHED.store(true, Ordering::Release);
    }
}

/// Whether this process is a forked child of one that had scopes.
#[inline]
pub(crate) fn in_child() -> bool {
    // Relaxed: it is set before the child has a second thread.
    IN_CHILD.load(Ordering::Relaxed)
}

extern "C" fn enter_child() {
    // Relaxed: see `in_child`.
    IN_CHILD.store(true, Ordering::Relaxed);
    // SAFETY: no account needs no scope. What a call of `Scope::run` below on the stack sets again is filtered there.
    unsafe { heap::replace(None) };
}

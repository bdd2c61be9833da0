//! What the registry runs on: locks of the process and std's atomics, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(loom))]
pub(crate) use arrow_memory_core::__private::{ProcessGuard as Guard, ProcessLock as Lock};
#[cfg(loom)]
pub(crate) use loom::sync::Mutex as Lock;

#[cfg(loom)]
pub(crate) type Guard<T> = loom::sync::MutexGuard<'static, T>;

/// A lock under which a tree's mutex may be taken. A fork waits until it is free, and the library's tests
/// count it.
#[cfg(not(loom))]
pub(crate) const fn new_lock<T: Send>(value: T) -> Lock<T> {
    Lock::new(arrow_memory_core::__private::Order::Outer, value)
}

#[cfg(loom)]
pub(crate) fn new_lock<T>(value: T) -> Lock<T> {
    Lock::new(value)
}

/// Takes `lock`.
#[cfg(not(loom))]
#[inline]
pub(crate) fn lock<T: Send>(lock: &'static Lock<T>) -> Guard<T> {
    // A tree's mutex may be taken under this lock, and a thread that takes one gets its number first, which
    // may allocate. So the thread gets its number here, while it holds nothing.
    let _ = arrow_memory_core::thread_number();
    lock.lock()
}

#[cfg(loom)]
pub(crate) fn lock<T>(lock: &'static Lock<T>) -> Guard<T> {
    lock.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! The locks and atomics of the registry: locks of the process and std's atomics, or loom's under `--cfg loom`.

pub(crate) use arrow_memory_core::__private::sync::{AtomicUsize, Ordering};

#[cfg(loom)]
pub(crate) use arrow_memory_core::__private::sync::{Mutex as Lock, lock, lock as lock_alone};
#[cfg(not(loom))]
pub(crate) use arrow_memory_core::__private::{ProcessGuard as Guard, ProcessLock as Lock};

#[cfg(loom)]
pub(crate) type Guard<T> = arrow_memory_core::__private::sync::MutexGuard<'static, T>;

/// Makes a lock under which a tree's mutex may be taken. A fork waits until it is free, and the library's
/// tests count it as one of the library's locks.
#[cfg(not(loom))]
pub(crate) const fn new_lock<T: Send>(value: T) -> Lock<T> {
    Lock::new(arrow_memory_core::__private::Order::Outer, value)
}

#[cfg(loom)]
pub(crate) fn new_lock<T>(value: T) -> Lock<T> {
    Lock::new(value)
}

/// Locks `lock`, under which a tree's mutex may be taken.
#[cfg(not(loom))]
#[inline]
pub(crate) fn lock<T: Send>(lock: &'static Lock<T>) -> Guard<T> {
    // A tree's mutex may be taken under this lock, and a thread that takes one gets its number first, which
    // may allocate. So the thread gets its number here, while it holds nothing.
    let _ = arrow_memory_core::thread_number();
    lock.lock()
}

/// Locks `lock`, under which no other lock is taken.
#[cfg(not(loom))]
#[inline]
pub(crate) fn lock_alone<T: Send>(lock: &'static Lock<T>) -> Guard<T> {
    lock.lock()
}

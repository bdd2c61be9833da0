//! The atomics and locks that models run on: std's, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, fence},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, fence},
};

pub(crate) use std::sync::atomic::Ordering;

#[cfg(not(loom))]
pub(crate) use plain::lock;

/// Locks `mutex`, in a model.
#[cfg(loom)]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// std's own, for what is no part of a model: side registries and process-wide counters.
pub(crate) mod plain {
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    use std::sync::PoisonError;

    /// Locks `mutex`. No code of ours panics while it holds a lock, so a poisoned one is whole.
    #[cfg(not(tsan))]
    #[inline]
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for ThreadSanitizer, which does not see how std hands over a mutex to a thread that
    /// had to wait: that code comes compiled, without its instrumentation.
    #[cfg(tsan)]
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        use std::sync::TryLockError;
        loop {
            match mutex.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }
}

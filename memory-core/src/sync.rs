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

use std::sync::PoisonError;

/// Locks `mutex`. No code of ours panics while it holds a lock, so a poisoned one is whole.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// std's own, for what is no part of a model: side registries and process-wide counters.
pub(crate) mod plain {
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    use std::sync::PoisonError;

    /// Locks `mutex`; nothing of ours panics while it is held.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

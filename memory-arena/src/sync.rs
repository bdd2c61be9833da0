//! Locks of the books. Nothing panics while it holds one, so a poisoned one is whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`.
#[cfg(not(tsan))]
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for ThreadSanitizer, which does not see how std hands a mutex over to a thread that had
/// to wait: that code comes compiled, without its instrumentation.
#[cfg(tsan)]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}

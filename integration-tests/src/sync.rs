//! Locks for tests that run under ThreadSanitizer.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;

/// Locks `mutex`, poisoned or not.
///
/// It spins, because std, which is not rebuilt for ThreadSanitizer, waits where the sanitizer does
/// not see it: what a waiting lock protects would look like a race. `try_lock` is compiled here.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

//! The atomics and locks that models run on: std's, or loom's under `--cfg loom`.
//!
//! # Locks
//!
//! All locks of this crate are taken by [`plain::lock`] or are a [`ProcessLock`], and four rules hold for
//! them. The thread counts the locks that it holds ([`plain::held`]), so that tests can check
//! the first two.
//!
//! 1. Nothing is allocated, freed or read from a file under a lock. A collection that has to grow gets its
//!    memory while the lock is free ([`plain::push`], [`plain::make_room`],
//!    [`table::Room`]); a value that has to be dropped is moved
//!    out of the locked section first. So the global allocator may itself be built on a tree.
//! 2. No foreign code runs under a lock: no listener, policy, manager, `tracing` subscriber, release
//!    of foreign memory, nor the `Drop` of anything that a user may own. A handle, an `Arc` of a node
//!    and an upgraded weak reference may each be the last one, and so count as foreign code.
//! 3. A lock is held for a bounded time that does not depend on other trees: for a few words, or for
//!    the nodes of one tree, or for one shard of a table.
//! 4. Locks are nested in one order, which [`process::Order`] names; a fork takes them all in that order.

pub mod current;
pub mod process;
pub mod table;

#[cfg(loom)]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence},
};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence};

pub use process::ProcessLock;
pub use std::sync::atomic::Ordering;

/// Locks `mutex`, in a model.
#[cfg(loom)]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// std's atomics and locks, for code that no model runs: side registries and process-wide counters.
pub mod plain {
    pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    pub use std::sync::{Mutex, MutexGuard};

    use std::cell::Cell;
    use std::mem;
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;

    use super::current::unscoped;

    thread_local! {
        /// How many of this crate's locks the thread holds. Without a destructor, so that it can be
        /// read to the very end, also by the global allocator.
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    /// How many of this crate's locks the calling thread holds.
    pub fn held() -> usize {
        HELD.get()
    }

    #[cfg(any(test, feature = "testing"))]
    pub use held as locks_held;

    /// A lock of this crate, held. It is released before it is no longer counted: a signal handler that
    /// forks in between must not wait for it.
    pub struct Guard<'a, T>(
        MutexGuard<'a, T>,
        #[allow(dead_code, reason = "dropped")] Counted,
    );

    /// One of the locks that the thread holds, or is about to take.
    struct Counted;

    impl Counted {
        #[inline]
        fn new() -> Self {
            HELD.set(HELD.get() + 1);
            Self
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        #[inline]
        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        #[inline]
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }

    impl Drop for Counted {
        #[inline]
        fn drop(&mut self) {
            HELD.set(HELD.get() - 1);
        }
    }

    /// Locks `mutex`.
    #[inline]
    pub fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
        let counted = Counted::new();
        Guard(lock_uncounted(mutex), counted)
    }

    /// Locks `mutex` without counting it as one of this crate's: for test helpers, which stand for
    /// foreign code, and around a fork. No code of ours panics while it holds a lock, so a poisoned
    /// one is whole.
    #[cfg(not(tsan))]
    #[inline]
    pub fn lock_uncounted<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks `mutex` for ThreadSanitizer, without counting it. The sanitizer does not see how std hands a mutex
    /// over to a thread that waits, since std comes compiled without instrumentation; so this one spins.
    #[cfg(tsan)]
    pub fn lock_uncounted<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        use std::sync::TryLockError;
        loop {
            match mutex.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }

    /// Pushes `value` onto a vector behind a lock. The vector grows while the lock is free.
    pub fn push<T, G: DerefMut>(
        lock: impl Fn() -> G,
        list: impl Fn(&mut G::Target) -> &mut Vec<T>,
        value: T,
    ) {
        // Declared before the guard, so it is dropped after it.
        let mut spare = Vec::new();
        loop {
            let mut guard = lock();
            let list = list(&mut guard);
            match make_room(list, &mut spare) {
                Ok(()) => return list.push(value),
                Err(capacity) => {
                    drop(guard);
                    spare = unscoped(|| Vec::with_capacity(capacity));
                }
            }
        }
    }

    /// Makes room for one more in a vector behind a lock, by what `spare` has. Afterwards `spare` may have
    /// the vector's old memory: it is to be dropped after the guard.
    ///
    /// # Errors
    ///
    /// The capacity that `spare` must have. The caller finds it while the lock is free.
    pub fn make_room<T>(list: &mut Vec<T>, spare: &mut Vec<T>) -> Result<(), usize> {
        let needed = list.len() + 1;
        if list.capacity() >= needed {
            return Ok(());
        }
        if spare.capacity() < needed {
            return Err(needed.next_power_of_two().max(4));
        }
        // Moves the elements into memory that is there.
        spare.append(list);
        mem::swap(list, spare);
        Ok(())
    }

    /// Appends to `into` up to `count` elements that `copy` takes from behind a lock. Their memory is allocated
    /// while the lock is free. `copy` must not allocate.
    pub fn copy_out<T, G: Deref>(
        into: &mut Vec<T>,
        lock: impl Fn() -> G,
        count: impl Fn(&G::Target) -> usize,
        copy: impl FnOnce(&G::Target, &mut Vec<T>),
    ) {
        loop {
            let guard = lock();
            let count = count(&guard);
            if into.capacity() - into.len() >= count {
                let before = into.capacity();
                copy(&guard, into);
                debug_assert_eq!(into.capacity(), before, "grown under a lock");
                return;
            }
            drop(guard);
            into.reserve(count);
        }
    }
}

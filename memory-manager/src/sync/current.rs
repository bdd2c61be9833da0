//! The account that the calling thread charges its heap blocks to, if any.
//!
//! A global allocator that attributes blocks reads it for each block, so it lies in a thread-local without a
//! destructor, which can be read until the thread is gone. Here it is an address without a type: what accounts
//! are is defined above this crate. This crate has it because its own growth must not be charged to whoever
//! happens to cause it: see [`unscoped`].

use std::cell::Cell;
use std::ptr;

thread_local! {
    static CURRENT: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// The thread's current account, or null.
#[inline]
pub fn current() -> *const () {
    CURRENT.get()
}

/// A number that no other living thread has, and that is not 0.
#[inline]
pub fn identity() -> usize {
    CURRENT.with(|current| ptr::from_ref(current).addr())
}

/// Replaces the thread's current account and returns the one before.
#[inline]
pub fn replace(account: *const ()) -> *const () {
    CURRENT.replace(account)
}

/// Calls `work` while the thread has no current account, so that no block allocated in it is charged to one.
///
/// Code of this workspace that grows something of its own runs in here. What it allocates may live as long as the
/// process, and would be charged to a query that has nothing to do with it.
#[inline]
pub fn unscoped<R>(work: impl FnOnce() -> R) -> R {
    let _unscoped = Unscoped::new();
    work()
}

/// As long as it exists, the thread has no current account; then the one before is set again.
pub struct Unscoped(*const ());

impl Unscoped {
    /// Takes the thread's current account away.
    #[inline]
    pub fn new() -> Self {
        Self(CURRENT.replace(ptr::null()))
    }
}

impl Default for Unscoped {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Unscoped {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn work_without_a_scope_ends_with_the_account_before_it_even_if_it_panics() {
        let account = ptr::from_ref(&CURRENT).cast();
        assert!(replace(account).is_null());

        let panicked = std::panic::catch_unwind(|| {
            unscoped(|| {
                assert!(current().is_null());
                std::panic::resume_unwind(Box::new(()));
            });
        });

        assert!(panicked.is_err());
        assert_eq!(replace(ptr::null()), account);
    }
}

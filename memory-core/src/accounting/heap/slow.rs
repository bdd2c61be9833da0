//! What an account does when its word does not suffice: the calls that take the mutex.
//!
//! They run in the global allocator. So they allocate nothing, free nothing, call no foreign code and cannot unwind;
//! and where the thread may hold a lock, they take none: see `may_lock`.
#![expect(unsafe_code, reason = "reaches trees by what accounts promise")]

use std::cell::Cell;

use super::super::node::{Locked, wake_tender};
use super::account::{Account, Taken};
use super::table::{PROBE, account as account_of, reserved};
use crate::sync::current::{self, unscoped};
use crate::sync::{Ordering, plain, process};

/// The first account to which parked bytes are owed, or 0. Accounts are added one by one and taken all at once, so
/// an account that was taken and added again in between does no harm.
static OWED: plain::AtomicU32 = plain::AtomicU32::new(0);

/// Whether the thread may wait for a tree's mutex: it has no lock of this workspace, and is not between the handlers
/// around a fork.
fn may_lock() -> bool {
    plain::held() == 0 && !process::forking()
}

/// The account that the calling thread's heap blocks are charged to.
#[inline]
pub fn current() -> Option<Account> {
    // SAFETY: only `replace` sets it, to null or to an account's address.
    unsafe { Account::from_ptr(current::current()) }
}

/// Sets the account that the calling thread's heap blocks are charged to, and returns the one before.
///
/// # Safety
///
/// Until this is called again by this thread, a scope has the account: the [`Heap`](crate::heap::Heap) that it came
/// from is not dropped.
#[inline]
pub unsafe fn replace(account: Option<Account>) -> Option<Account> {
    let address = account.map_or(std::ptr::null(), Account::as_ptr);
    // SAFETY: as in `current`.
    unsafe { Account::from_ptr(current::replace(address)) }
}

thread_local! {
    /// Whether the account that probes has been asked for bytes by this thread.
    static PROBED: Cell<bool> = const { Cell::new(false) };
}

/// Whether `allocate`, which allocates a heap block that is large enough to be attributed, asks the thread's current
/// account for its bytes: whether the program's global allocator attributes.
pub fn is_installed(allocate: impl FnOnce()) -> bool {
    let Some(probe) = reserved(PROBE) else {
        return false;
    };
    /// Sets the account before the probe again, also if `allocate` panics.
    struct Reset(Option<Account>);
    impl Drop for Reset {
        fn drop(&mut self) {
            // SAFETY: its owner has promised it for the time until the next call.
            unsafe { replace(self.0) };
        }
    }
    PROBED.set(false);
    // SAFETY: nothing is charged to the probe, so that it needs no scope.
    let reset = Reset(unsafe { replace(Some(probe)) });
    allocate();
    drop(reset);
    PROBED.get()
}

impl Account {
    /// Charges `bytes` (at least 1) to the account after [`take`](Self::take) answered `false`. No limit refuses
    /// them: they are charged by force if they must be.
    ///
    /// # Safety
    ///
    /// Until it returns, a scope has the account: the [`Heap`](crate::heap::Heap) that it came from is not dropped.
    #[cold]
    pub unsafe fn take_slowly(self, bytes: usize) -> Taken {
        if self.id() == PROBE {
            PROBED.set(true);
            return Taken::Ended;
        }
        // SAFETY: the caller's promise: the scope keeps the tree.
        unsafe { self.under_mutex(|locked| locked.charge_heap(self, bytes)) }
            .unwrap_or(Taken::Ended)
    }

    /// Charges `bytes` (at least 1) to the account for a block that it pays for and that grows, after
    /// [`take`](Self::take) answered `false`. If the account's scope has ended, they are charged where the block's
    /// other bytes are.
    ///
    /// # Safety
    ///
    /// Until it returns, bytes that the caller does not give up are charged to the account.
    #[cold]
    pub unsafe fn take_more_slowly(self, bytes: usize) -> Taken {
        // SAFETY: the caller's promise: the bytes keep a node, and so the tree.
        unsafe { self.under_mutex(|locked| locked.charge_more(self, bytes)) }
            .unwrap_or(Taken::Ended)
    }

    /// Gives back `bytes` (at least 1) after [`give`](Self::give) answered `false`. If the mutex must not be taken
    /// here, they stay charged until a later call of any thread gives them back.
    ///
    /// # Safety
    ///
    /// `bytes` are charged to this account, and the caller gives them up.
    #[cold]
    pub unsafe fn give_slowly(self, bytes: usize) {
        // SAFETY: the bytes are charged until the mutex is held, and keep the tree.
        let given = unsafe { self.under_mutex(|locked| locked.release_heap(self, bytes)) };
        if given.is_none() {
            self.park(bytes);
        }
    }

    /// Runs a section of the global allocator under the mutex of the account's tree. `None`: not here.
    ///
    /// # Safety
    ///
    /// The account's tree is alive until the mutex is held.
    unsafe fn under_mutex<R>(self, section: impl FnOnce(&mut Locked<'_>) -> R) -> Option<R> {
        if !may_lock() {
            return None;
        }
        unscoped(|| {
            pay_owed();
            // SAFETY: the caller's promise.
            let tree = unsafe { &*self.tree() };
            let mut locked = tree.lock_quietly(self);
            let result = section(&mut locked);
            locked.end_quietly();
            Some(result)
        })
    }

    /// Notes that `bytes` are to be given back later. The account cannot end until then, since they are charged.
    fn park(self, bytes: usize) {
        let slot = self.slot();
        // Release: what the thread did with the block comes before its bytes are given back; the partner is the
        // Acquire in `pay_owed`. If bytes were owed before, the account is on the list.
        if slot.owed.fetch_add(bytes, Ordering::Release) > 0 {
            return;
        }
        // Relaxed: a hint for the exchange below.
        let mut first = OWED.load(Ordering::Relaxed);
        loop {
            // Relaxed: the exchange publishes it.
            slot.next_owed.store(first, Ordering::Relaxed);
            // Release: partner of the Acquire in `pay_owed`.
            match OWED.compare_exchange(first, self.id(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return wake_tender(),
                Err(now) => first = now,
            }
        }
    }
}

/// Whether something that was parked is to be given back.
#[cfg(not(loom))]
pub(in crate::accounting) fn is_owed() -> bool {
    // Relaxed: a hint.
    OWED.load(Ordering::Relaxed) != 0
}

/// Gives back what was parked. With no lock held.
pub(in crate::accounting) fn pay_owed() {
    // Relaxed: what is not seen now is paid by a later call.
    if OWED.load(Ordering::Relaxed) != 0 {
        pay_all();
    }
}

#[cold]
fn pay_all() {
    // Acquire: partner of the Release in `park`.
    let mut next = OWED.swap(0, Ordering::Acquire);
    while next != 0 {
        let account = account_of(next);
        // Before what is owed is taken: from then on the account may be put on the list again.
        // Relaxed: published by the exchange in `park`.
        next = account.slot().next_owed.load(Ordering::Relaxed);
        // Acquire: partner of the Release in `park`.
        let bytes = account.slot().owed.swap(0, Ordering::Acquire);
        // SAFETY: the bytes are charged until they are given back here, and keep the tree.
        let tree = unsafe { &*account.tree() };
        let mut locked = tree.lock_quietly(account);
        locked.release_heap(account, bytes);
        locked.end_quietly();
    }
}

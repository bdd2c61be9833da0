//! What quiet sections leave to be done.
//!
//! A section that started in the global allocator must run no foreign code and free nothing: nodes, with their
//! listeners and policies, and with the last of them the tree and its manager; departures, which are told to
//! listeners; and waiters, which are woken. All three are lists that the tree's mutex protects, and there they stay.
//! The mutex, which is never freed, is put on a list of its own, and the timer thread is woken, which does the rest.
//! Nothing is allocated for that. A later section of the same tree may be first: one that is not quiet frees nodes and
//! wakes waiters, and if it takes departures, tells them.
#![expect(unsafe_code, reason = "the list and the thread are kept as pointers")]

use std::ptr;
use std::sync::atomic::fence;
use std::thread::Thread;

use super::super::heap;
use super::mutex::SharedGuard;
use super::retire::{Departures, free_all};
use super::{Shared, SharedMutex, wake};
use crate::events;
use crate::sync::process::ProcessLock;
use crate::sync::{Ordering, plain};

/// The first mutex for which something is left to be done, or null. Mutexes are added one by one and taken all at
/// once, so one that was taken and added again in between does no harm.
static FIRST: plain::AtomicPtr<ProcessLock<Shared>> = plain::AtomicPtr::new(ptr::null_mut());

/// The thread that calls [`tend`], or null. It is never freed.
static TENDER: plain::AtomicPtr<Thread> = plain::AtomicPtr::new(ptr::null_mut());

/// Has this thread, which calls [`tend`] each time it is unparked, do what quiet sections leave.
pub(crate) fn set_tender(thread: Thread) {
    // Release: partner of the Acquire in `wake_tender`.
    TENDER.store(Box::leak(Box::new(thread)), Ordering::Release);
    // Of this thread and one that leaves something, one sees what the other did: see `wake_tender`.
    fence(Ordering::SeqCst);
}

/// Whether something is left to be done.
#[cfg(not(loom))]
pub(crate) fn is_left() -> bool {
    // Relaxed: what is not seen now is followed by a call of `wake_tender`.
    !FIRST.load(Ordering::Relaxed).is_null() || heap::is_owed()
}

/// Whether there is such a thread. A forked child has none, but still says so.
pub(crate) fn has_tender() -> bool {
    // Relaxed: a hint.
    !TENDER.load(Ordering::Relaxed).is_null()
}

/// Wakes that thread. Takes no lock and allocates nothing.
pub(in crate::accounting) fn wake_tender() {
    // Of a thread that begins to tend and this one, one sees what the other did: the fence is the partner of that in
    // `set_tender`. Acquire: partner of the Release there.
    fence(Ordering::SeqCst);
    let thread = TENDER.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `set_tender`.
    if let Some(thread) = unsafe { thread.as_ref() } {
        thread.unpark();
    }
}

/// Ends a quiet section: releases the mutex, and has others do what is left.
#[cold]
pub(super) fn leave(mut shared: SharedGuard, mutex: SharedMutex) {
    let departs = shared.departed.is_some() || shared.queue.has_wakes();
    let is_left = departs || shared.graveyard.is_some() || shared.left != 0;
    if !is_left || std::mem::replace(&mut shared.to_tend, true) {
        return;
    }
    // Relaxed: a hint for the exchange below.
    let mut first = FIRST.load(Ordering::Relaxed);
    loop {
        // SAFETY: null, or a mutex that was put here, and is never freed.
        shared.next_to_tend = unsafe { first.as_ref() };
        let this = ptr::from_ref(mutex).cast_mut();
        // Release: partner of the Acquire in `tend`, which may meet the mutex for the first time. What belongs to the
        // list is read under the mutex.
        match FIRST.compare_exchange(first, this, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => first = now,
        }
    }
    drop(shared);
    wake_tender();
}

/// Does what quiet sections of all trees have left: frees nodes, tells listeners of departures, wakes waiters. Runs
/// foreign code: with no lock held.
pub(crate) fn tend() {
    heap::pay_owed();
    // Relaxed: what is not seen now is seen when this is called next, after `wake_tender`.
    if FIRST.load(Ordering::Relaxed).is_null() {
        return;
    }
    // Acquire: partner of the Release in `leave`.
    // SAFETY: null, or a mutex that was put here, and is never freed.
    let mut next = unsafe { FIRST.swap(ptr::null_mut(), Ordering::Acquire).as_ref() };
    while let Some(mutex) = next {
        let mut shared = mutex.lock();
        next = shared.next_to_tend.take();
        shared.to_tend = false;
        let departures = Departures::take(&mut shared);
        let (grave, left) = (shared.graveyard.take(), std::mem::take(&mut shared.left));
        let wakes = shared.queue.has_wakes();
        drop(shared);
        departures.tell_quietly();
        // A listener or policy of a node that panics when it is dropped must not keep the other trees from their turn.
        events::catch(|| free_all(grave));
        heap::give_back_all(left);
        if wakes {
            wake::run(mutex);
        }
    }
}

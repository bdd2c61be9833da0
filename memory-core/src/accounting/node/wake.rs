//! Waking those whose wait is over, with no lock held.
//!
//! A waker is foreign code: it may block, panic, run a task to its end, or take the tree's mutex again. So a
//! thread takes a batch of wakers out of the list while it holds the mutex, and calls them after it released it.
//! Sections inside of a waker leave their part to the outermost one of the thread, so that a chain of wakers that
//! release memory does not become a chain of stack frames. What a thread that blocks in a waker has left in the
//! list is woken by the next section of any thread.

use std::cell::{Cell, RefCell};

use super::super::queue::BATCH;
use super::mutex::SharedMutex;
use crate::events;

/// How many trees a thread remembers whose waiters are to be woken.
const TREES: usize = 8;

#[cfg(not(loom))]
thread_local! {
    /// Whether this thread is calling wakers.
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    /// The trees whose waiters the outermost section is to wake. Without a destructor.
    static PENDING: RefCell<[Option<SharedMutex>; TREES]> = const { RefCell::new([None; TREES]) };
}
#[cfg(loom)]
loom::thread_local! {
    static ACTIVE: Cell<bool> = Cell::new(false);
    static PENDING: RefCell<[Option<SharedMutex>; TREES]> = RefCell::new([None; TREES]);
}

/// Wakes the waiters in the list of a tree, or has the outermost section of this thread do that.
#[cold]
pub(super) fn run(mutex: SharedMutex) {
    #[cfg(not(loom))]
    if crate::sync::plain::held() > 0 {
        // The caller has another lock. Nothing that makes room is called under one.
        debug_assert!(false, "waiters to wake under a lock");
        return;
    }
    if ACTIVE.with(Cell::get) {
        if !remember(mutex) {
            drain(mutex);
        }
        return;
    }
    ACTIVE.with(|active| active.set(true));
    drain(mutex);
    while let Some(mutex) = next() {
        drain(mutex);
    }
    ACTIVE.with(|active| active.set(false));
}

/// Wakes all in the list of a tree.
fn drain(mutex: SharedMutex) {
    loop {
        let mut batch = [const { None }; BATCH];
        let mut shared = lock(mutex);
        for place in &mut batch {
            *place = shared.queue.take_wake();
        }
        drop(shared);
        if batch[0].is_none() {
            return;
        }
        for wake in batch.into_iter().flatten() {
            if events::catch(|| events::inside(|| wake.call())) {
                events::waker_panicked();
            }
        }
    }
}

/// `false`: there are too many trees.
fn remember(mutex: SharedMutex) -> bool {
    PENDING.with(|pending| {
        let mut pending = pending.borrow_mut();
        let known = |place: &Option<SharedMutex>| place.is_some_and(|one| std::ptr::eq(one, mutex));
        if pending.iter().any(known) {
            return true;
        }
        let free = pending.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(mutex)).is_some()
    })
}

fn next() -> Option<SharedMutex> {
    PENDING.with(|pending| pending.borrow_mut().iter_mut().find_map(Option::take))
}

#[cfg(not(loom))]
fn lock(mutex: SharedMutex) -> super::mutex::SharedGuard {
    mutex.lock()
}

#[cfg(loom)]
fn lock(mutex: SharedMutex) -> super::mutex::SharedGuard {
    crate::sync::lock(mutex)
}

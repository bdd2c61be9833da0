//! Waking those whose wait is over, with no lock held.
//!
//! A waker is foreign code: it may block, panic, run a task to its end, or take the tree's mutex again. So a
//! thread takes a batch of wakers out of the list while it holds the mutex, and calls them after it released it.
//! Sections inside of a waker leave their part to the outermost one of the thread, so that a chain of wakers that
//! release memory does not become a chain of stack frames. What a thread that blocks in a waker has left in the
//! list is woken by the next section of any thread.
//!
//! The trees that are left to a thread form a list through the data of their mutexes, which are never freed. So it
//! has room for any number of trees, without memory of its own.

use std::cell::Cell;
use std::num::NonZeroUsize;

use super::super::queue::BATCH;
use super::SharedMutex;
use super::mutex::lock;
use crate::events;

#[cfg(not(loom))]
thread_local! {
    /// Whether this thread is calling wakers.
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    /// The first of the trees whose waiters the outermost section is to wake. Without a destructor.
    static NEXT: Cell<Option<SharedMutex>> = const { Cell::new(None) };
}
#[cfg(loom)]
loom::thread_local! {
    static ACTIVE: Cell<bool> = Cell::new(false);
    static NEXT: Cell<Option<SharedMutex>> = Cell::new(None);
}

/// Wakes the waiters in the list of a tree, or has the outermost section of this thread do that.
#[cold]
pub(super) fn run(mutex: SharedMutex) {
    #[cfg(not(loom))]
    if crate::sync::plain::held() > 0 {
        // The caller has another lock. Nothing that makes room is called under one, so these waiters are in the
        // list of a thread that is about to wake them.
        return;
    }
    if ACTIVE.with(Cell::get) {
        return leave(mutex);
    }
    ACTIVE.with(|active| active.set(true));
    drain(mutex);
    while let Some(mutex) = take() {
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

/// Leaves a tree to the outermost section of this thread. If it is in the list of another thread, which is inside
/// a waker, too, this one does not rely on that: it wakes the waiters at once.
fn leave(mutex: SharedMutex) {
    let me = NEXT.with(|next| NonZeroUsize::new(std::ptr::from_ref(next).addr()));
    let mut shared = lock(mutex);
    let left_to = shared.waking;
    if left_to.is_none() {
        shared.waking = me;
        shared.next_to_wake = NEXT.with(|next| next.replace(Some(mutex)));
    }
    drop(shared);
    if left_to.is_some() && left_to != me {
        drain(mutex);
    }
}

/// Takes a tree that was left to this thread.
fn take() -> Option<SharedMutex> {
    let mutex = NEXT.with(Cell::take)?;
    let mut shared = lock(mutex);
    shared.waking = None;
    let next = shared.next_to_wake.take();
    drop(shared);
    NEXT.with(|first| first.set(next));
    Some(mutex)
}

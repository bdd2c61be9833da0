//! [`ReclaimInbox`]: asks for code that answers on its own thread or task.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::ask::{Ask, Cost, Reclaim};
use super::guard::ReclaimGuard;
use crate::accounting::Spiller;
use crate::allocator::BufferAllocator;
use crate::events;
use crate::sync::Ordering;
use crate::sync::plain::{AtomicBool, AtomicUsize, Mutex};
use crate::sync::process::ObjectLocks;

static LOCKS: ObjectLocks = ObjectLocks::new();

/// Where asks for memory arrive, for code that answers on its own thread or task: made by
/// [`BufferAllocator::reclaim_inbox`].
///
/// There is at most one ask in it. Nobody waits for the answer but requests that wait anyway, so it may take a
/// lock, or be given at the next batch. With the feature `futures` it is a `Stream`.
///
/// Dropping the inbox answers what is in it, and ends the registration.
#[must_use = "nobody is asked any more once this is dropped"]
pub struct ReclaimInbox {
    guard: ReclaimGuard,
    shared: Arc<Letters>,
}

/// What the inbox and its registration share.
#[derive(Debug)]
struct Letters {
    reclaimable: AtomicUsize,
    /// Whether the tree wakes the task when a share of the spill reserve is free.
    waits_for_share: AtomicBool,
    /// Locked under one of `LOCKS`. What is taken out is dropped with no lock held.
    waiting: Mutex<Arrived>,
}

#[derive(Debug, Default)]
struct Arrived {
    ask: Option<Ask>,
    waker: Option<Waker>,
    /// The inbox is gone: an ask would stay here forever.
    closed: bool,
}

impl ReclaimInbox {
    pub(super) fn new(allocator: &BufferAllocator, cost: Cost) -> Self {
        let shared = Arc::new(Letters {
            reclaimable: AtomicUsize::new(0),
            waits_for_share: AtomicBool::new(false),
            waiting: Mutex::default(),
        });
        let guard = ReclaimGuard::new(allocator, cost, Arc::new(Post(Arc::clone(&shared))), true);
        Self { guard, shared }
    }

    /// Says about how many bytes could come back: how many others are asked depends on it. One atomic store.
    pub fn set_reclaimable(&self, bytes: usize) {
        // Relaxed: a number for others.
        self.shared.reclaimable.store(bytes, Ordering::Relaxed);
    }

    /// Returns the ask that has arrived, if any. One of [`Cost::Spill`] stays where it is as long as all shares of the
    /// spill reserve are taken.
    pub fn try_ask(&self) -> Option<Ask> {
        loop {
            match self.take() {
                Ok(ask) => return ask,
                // Looks again, since nobody was woken by what became free before.
                Err(PutBack { polled: true }) if self.wait_for_share() => {}
                Err(PutBack { .. }) => return None,
            }
        }
    }

    /// Returns the next ask, or has the task woken when one arrives. If one has arrived and all shares of the spill
    /// reserve are taken, the task is woken when one of them is free. If several tasks poll, the latest one is woken.
    pub fn poll_ask(&self, context: &mut Context<'_>) -> Poll<Ask> {
        if let Some(ask) = self.try_ask() {
            return Poll::Ready(ask);
        }
        let waker = Some(context.waker().clone());
        let replaced = LOCKS.with(&self.shared.waiting, |waiting| {
            std::mem::replace(&mut waiting.waker, waker)
        });
        events::quietly(self.guard.allocator().info(), || drop(replaced));
        // Looks again, since nobody was woken by what arrived before.
        self.try_ask().map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes the ask that has arrived, if any, with a share of the spill reserve. If all shares are taken, the ask goes
    /// back, unless another one has arrived.
    fn take(&self) -> Result<Option<Ask>, PutBack> {
        let ask = LOCKS.with(&self.shared.waiting, |waiting| waiting.ask.take());
        let Some(mut ask) = ask else {
            return Ok(None);
        };
        if ask.take_share().is_ok() {
            return Ok(Some(ask));
        }
        let (surplus, polled) = LOCKS.with(&self.shared.waiting, |waiting| {
            let polled = waiting.waker.is_some();
            if waiting.ask.is_some() {
                return (Some(ask), polled);
            }
            waiting.ask = Some(ask);
            (None, polled)
        });
        drop(surplus);
        Err(PutBack { polled })
    }

    /// Has the task that polled last woken when a share of the spill reserve is free. False if that was arranged for
    /// before.
    fn wait_for_share(&self) -> bool {
        let spiller: Arc<dyn Spiller> = self.shared.clone();
        self.guard.allocator().handle.list_spiller(&spiller)
    }
}

/// All shares of the spill reserve were taken, so an ask went back.
struct PutBack {
    /// Whether a task is to be woken. It may have looked while the ask was out, and so be the only one that can read it.
    polled: bool,
}

#[cfg(feature = "futures")]
impl futures_core::Stream for ReclaimInbox {
    type Item = Ask;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.poll_ask(context).map(Some)
    }
}

impl Drop for ReclaimInbox {
    fn drop(&mut self) {
        let left = LOCKS.with(&self.shared.waiting, |waiting| {
            waiting.closed = true;
            (waiting.ask.take(), waiting.waker.take())
        });
        events::quietly(self.guard.allocator().info(), || drop(left));
        let spiller: Arc<dyn Spiller> = self.shared.clone();
        self.guard.allocator().handle.unlist_spiller(&spiller);
    }
}

impl fmt::Debug for ReclaimInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimInbox")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl Spiller for Letters {
    fn listed(&self) -> &AtomicBool {
        &self.waits_for_share
    }

    fn share_is_free(&self) {
        let waker = LOCKS.with(&self.waiting, |waiting| waiting.waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The registration's side of an inbox.
struct Post(Arc<Letters>);

impl Reclaim for Post {
    fn reclaimable(&self) -> usize {
        // Relaxed: a number from another thread.
        self.0.reclaimable.load(Ordering::Relaxed)
    }

    fn reclaim(&self, ask: Ask) {
        let (old, waker) = LOCKS.with(&self.0.waiting, |waiting| {
            if waiting.closed {
                return (Some(ask), None);
            }
            (waiting.ask.replace(ask), waiting.waker.take())
        });
        if let Some(waker) = waker {
            waker.wake();
        }
        // One that was out for longer than the patience, or the ask itself.
        drop(old);
    }
}

#[cfg(all(test, loom))]
mod model;

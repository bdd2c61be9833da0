//! The owner's side of a wait: to ask, to look, to give up.

use std::task::Waker;
use std::time::Instant;

use super::super::charge::{Mode, Obstacle};
use super::super::handle::{Handle, release_under};
use super::super::node::{Locked, NodePtr};
use super::super::refusal::Refusal;
use super::memory::Spare;
use super::waiter::{Age, Ask, Turn, Verdict, Wake};
use crate::events;
use crate::sync::current::unscoped;

/// A request in the queue; its owner. Dropping it ends the wait, and gives back what was granted and not taken.
pub(crate) struct Queued {
    handle: Handle,
    /// The slot; `None` once the verdict was taken.
    id: Option<u32>,
    /// Whether the last look found that the request is to ask others for memory once more.
    asks: bool,
}

enum Entered {
    Granted,
    Queued(u32),
    /// The queue must have memory for as many waiters first.
    Full(usize),
}

impl Handle {
    /// Charges `ask.bytes` (at least 1) to the node; or queues the request with `wake`, which is then taken, and
    /// returns its place.
    ///
    /// # Errors
    ///
    /// The refusal, if the request can never be granted.
    pub(crate) fn charge_or_queue(
        &self,
        ask: Ask,
        wake: &mut Option<Wake>,
    ) -> Result<Option<Queued>, Box<Refusal>> {
        let mut spare = Spare::new(0);
        loop {
            let mut stripes = self.stripes_if_contended();
            let mut locked = self.tree.lock();
            locked.install_stripes(self.ptr(), &mut stripes);
            let entered = locked.charge_or_queue(self.ptr(), ask, wake, &mut spare);
            drop(locked);
            // Boxed with the mutex released.
            match entered.map_err(Box::new)? {
                Entered::Granted => return Ok(None),
                Entered::Full(capacity) => spare = unscoped(|| Spare::new(capacity)),
                Entered::Queued(id) => {
                    return Ok(Some(Queued {
                        handle: self.clone(),
                        id: Some(id),
                        asks: false,
                    }));
                }
            }
        }
    }
}

impl Locked<'_> {
    fn charge_or_queue(
        &mut self,
        node: NodePtr,
        ask: Ask,
        wake: &mut Option<Wake>,
        spare: &mut Spare<NodePtr>,
    ) -> Result<Entered, Refusal> {
        let turn = self.queue().turn(ask.age, ask.admission);
        let bytes = ask.bytes;
        let (at, needed) = match self.decide(node, |_| bytes, Mode::Refusable(turn), &[]) {
            Ok(_) => return Ok(Entered::Granted),
            Err(Obstacle::Short { at, needed })
                if !self.never(node, bytes, ask.kept) && wake.is_some() =>
            {
                (at, needed)
            }
            Err(obstacle) => {
                let mut refused = self.refused(node, bytes, obstacle, turn);
                if let Refusal::Limit(levels) = &mut refused.refusal {
                    levels.never |= self.never(node, bytes, ask.kept);
                }
                return Err(self.end(node, refused));
            }
        };
        let entered = match (self.queue_mut().make_room(spare), wake.take()) {
            (Ok(()), Some(wake)) => Entered::Queued(self.enqueue(node, ask, wake, at, needed)),
            (Err(capacity), given) => {
                *wake = given;
                Entered::Full(capacity)
            }
            (Ok(()), None) => unreachable!("asked above"),
        };
        self.thaw(node, at);
        Ok(entered)
    }
}

impl Queued {
    /// The verdict, once there is one, with the request's age for another attempt. Until then, `waker` is the
    /// one that will be woken. After a verdict this is not called again.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Option<(Verdict, Age)> {
        if let Some(ended) =
            self.look(|wake| matches!(wake, Wake::Task(one) if one.will_wake(waker)))
        {
            return ended;
        }
        let mut wake = Some(Wake::Task(waker.clone()));
        let ended = self.replace_wake(&mut wake);
        // The drop of a waker is foreign code, too. The verdict must not be lost if it panics.
        events::quietly(&self.handle.info, || drop(wake));
        ended
    }

    /// The same for a thread that blocks, and was given as the one to wake.
    pub(crate) fn verdict(&mut self) -> Option<(Verdict, Age)> {
        self.look(|_| true).flatten()
    }

    /// Whether the request is to ask others for memory once more, as the last look found. The caller does so now.
    pub(crate) fn asks_again(&mut self) -> bool {
        let asks = std::mem::take(&mut self.asks);
        if let Some(id) = self.id.filter(|_| asks) {
            self.handle.tree.lock().queue_mut().waiter_mut(id).asks = false;
        }
        asks
    }

    /// The place of the request among those that wait.
    pub(crate) fn turn(&self) -> Turn {
        let turn = |id: u32| self.handle.tree.lock().queue().waiter(id).turn;
        self.id.map_or(Turn::TRY, turn)
    }

    /// Whether there is a verdict.
    pub(crate) fn has_ended(&self) -> bool {
        let verdict = |id: u32| self.handle.tree.lock().queue().waiter(id).verdict;
        self.id.and_then(verdict).is_some()
    }

    /// Takes the verdict. `Some(None)` if there is none and the waiter is woken as it should be; `None` if it is
    /// to be woken otherwise.
    fn look(&mut self, is_right: impl FnOnce(&Wake) -> bool) -> Option<Option<(Verdict, Age)>> {
        let id = self.id?;
        let mut locked = self.handle.tree.lock();
        let waiter = locked.queue_mut().waiter_mut(id);
        self.asks = waiter.asks;
        if let Some(verdict) = waiter.verdict {
            let age = waiter.age();
            let wake = locked.queue_mut().free(id);
            let unused = locked.queue_mut().take_unused();
            self.id = None;
            drop(locked);
            drop(unused);
            events::quietly(&self.handle.info, || drop(wake));
            return Some(Some((verdict, age)));
        }
        let right = waiter.wake.as_ref().is_some_and(is_right);
        right.then_some(None)
    }

    fn replace_wake(&mut self, wake: &mut Option<Wake>) -> Option<(Verdict, Age)> {
        let id = self.id?;
        let mut locked = self.handle.tree.lock();
        let waiter = locked.queue_mut().waiter_mut(id);
        if waiter.verdict.is_none() {
            // The old one, which may have been called to have others asked, is dropped by the caller.
            self.asks = waiter.asks;
            std::mem::swap(&mut waiter.wake, wake);
            return None;
        }
        drop(locked);
        self.verdict()
    }

    /// Ends the wait if its deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(id) = self.id {
            let mut locked = self.handle.tree.lock();
            let waiter = locked.queue().waiter(id);
            let expired = waiter.ask.deadline.is_some_and(|deadline| deadline <= now);
            if expired && waiter.verdict.is_none() {
                locked.end_wait(id, Verdict::TimedOut);
            }
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let wants_late = events::wants_late_release();
        let node = self.handle.ptr();
        let mut locked = self.handle.tree.lock();
        let waiter = locked.queue().waiter(id);
        let (verdict, bytes) = (waiter.verdict, waiter.ask.bytes);
        if verdict.is_none() {
            locked.cancel_wait(id);
        }
        let wake = locked.queue_mut().free(id);
        let unused = locked.queue_mut().take_unused();
        if verdict == Some(Verdict::Granted) {
            release_under(locked, node, bytes, wants_late);
        } else {
            drop(locked);
        }
        drop(unused);
        events::quietly(&self.handle.info, || drop(wake));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{BufferAllocator, RootAllocator};

    /// A root that is full, and that no timer looks at.
    fn full() -> RootAllocator {
        let builder = RootAllocator::builder().allocation_manager(Arc::new(TrackingManager::new()));
        let root = builder.limit(1024).own_timer(true).build();
        let root = root.expect("nothing is missing");
        root.allocate_bytes(1024).expect("it is the limit");
        root
    }

    fn queued(allocator: &BufferAllocator, deadline: Instant) -> Queued {
        let mut ask = Ask::new(false);
        ask.bytes = 64;
        ask.until(deadline);
        let mut wake = Some(Wake::Thread(thread::current()));
        let queued = allocator.handle.charge_or_queue(ask, &mut wake);
        queued.expect("it may be granted").expect("it is full")
    }

    #[test]
    fn a_wait_expires_at_its_deadline_and_not_before() {
        let (root, now) = (full(), Instant::now());
        let deadline = now + Duration::from_secs(1);
        let mut queued = queued(&root, deadline);

        queued.expire(now);
        assert!(!queued.has_ended());
        queued.expire(deadline);

        let verdict = queued.verdict().map(|(verdict, _)| verdict);
        assert_eq!(verdict, Some(Verdict::TimedOut));
        root.release_bytes(1024);
    }

    #[test]
    fn a_wait_that_was_granted_expires_no_more() {
        let (root, now) = (full(), Instant::now());
        let mut queued = queued(&root, now);
        root.release_bytes(1024);

        queued.expire(now);

        assert_eq!((queued.has_ended(), root.allocated_memory()), (true, 64));
        drop(queued);
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
    }

    /// Each level that counted one too many would take what it keeps for loose, and stay tight for it.
    #[test]
    fn no_level_counts_those_that_wait_no_more() {
        let (root, now) = (full(), Instant::now());
        let parent = root.child("parent").build().unwrap();
        let child = parent.child("child").build().unwrap();
        let waiters_below = || {
            let path: [&BufferAllocator; 3] = [&root, &parent, &child];
            let locked = root.handle.tree.lock();
            path.map(|level| locked.look(level.handle.ptr()).waiters_below)
        };
        let mut waits = [&parent, &child, &child].map(|level| queued(level, now));
        assert_eq!(waiters_below(), [3, 3, 2]);

        waits[1].expire(now);
        assert_eq!(waiters_below(), [2, 2, 1]);
        let [first, _, third] = waits;
        drop(third);
        assert_eq!(waiters_below(), [1, 1, 0]);
        root.release_bytes(1024);
        assert_eq!((first.has_ended(), waiters_below()), (true, [0; 3]));
    }
}

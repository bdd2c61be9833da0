//! Operators that spill on threads of their own, with memory of the spill reserve.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use arrow_memory_core::{ArrowBufMut, Ask, BufferAllocator, Cost, ReclaimInbox};

use crate::totals::Totals;
use crate::{SHARE, World};

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An operator that holds memory and spills when it is asked.
struct Operator {
    allocator: BufferAllocator,
    inbox: ReclaimInbox,
    held: Vec<ArrowBufMut>,
}

/// Has one operator after another until the world stops.
pub(crate) fn run(world: &Arc<World>, seed: u64) {
    fastrand::seed(seed);
    while !world.stop.load(Ordering::Acquire) {
        let parent = match fastrand::bool() {
            true => world.any_query(),
            false => (*world.root).clone(),
        };
        let Ok(allocator) = parent.child("sort").build() else {
            continue; // the query was closed
        };
        let mut operator = Operator {
            inbox: allocator.reclaim_inbox(Cost::Spill),
            held: Vec::new(),
            allocator,
        };
        for _ in 0..fastrand::u32(1..200) {
            if world.stop.load(Ordering::Acquire) {
                break;
            }
            operator.step(world);
        }
        // Perhaps with an ask in its inbox.
    }
}

impl Operator {
    fn step(&mut self, world: &World) {
        // Now and then it waits for its inbox before it does anything else.
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        match self.inbox.poll_ask(&mut Context::from_waker(&waker)) {
            Poll::Ready(ask) => self.spill(world, ask),
            Poll::Pending => thread::park_timeout(Duration::from_micros(fastrand::u64(..2000))),
        }
        let wait = self.allocator.wait().at_most(Duration::from_millis(1));
        if self.held.len() < 16
            && let Ok(buffer) = wait.buffer(fastrand::usize(..1 << 20))
        {
            self.held.push(buffer);
        }
        let bytes = self.held.iter().map(|buffer| buffer.capacity()).sum();
        self.inbox.set_reclaimable(bytes);
    }

    /// Writes what it holds elsewhere, for which it needs memory.
    fn spill(&mut self, world: &World, ask: Ask) {
        Totals::add(&world.totals.spilled);
        let Some(memory) = ask.memory().cloned() else {
            // The operator's query was closed and has left the tree.
            if !self.allocator.is_closed() {
                world.totals.fail("an ask without a share".to_owned());
            }
            return;
        };
        let mut pages = Vec::new();
        for _ in 0..4 {
            match memory.buffer(SHARE / 4) {
                Ok(page) => pages.push(page),
                Err(error) => world.totals.fail(format!("no memory to spill: {error:#}")),
            }
            if ask.is_over() && fastrand::bool() {
                break;
            }
            self.held.truncate(self.held.len() / 2);
        }
        if fastrand::u32(..16) == 0 {
            // Longer than the patience: the ask counts for nothing by then.
            thread::park_timeout(Duration::from_millis(30));
        }
        drop(ask);
        drop((pages, memory)); // the share is free when nothing of it is used any more
    }
}

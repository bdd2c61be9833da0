//! Operators that hold memory and spill on threads of their own, with memory of the spill reserve.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use arrow_memory_core::{ArrowBufMut, Ask, BufferAllocator, Cost, ReclaimInbox};

use super::ground::Ground;
use super::totals::Count;

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An operator that holds memory and spills when it is asked.
pub struct Operator {
    allocator: BufferAllocator,
    inbox: ReclaimInbox,
    held: Vec<ArrowBufMut>,
}

impl Operator {
    /// An operator that charges `allocator`.
    pub fn new(allocator: BufferAllocator) -> Self {
        Self {
            inbox: allocator.reclaim_inbox(Cost::Spill),
            held: Vec::new(),
            allocator,
        }
    }

    /// Spills if it is asked, and takes some memory. An ask comes with `share` bytes of the spill reserve.
    pub fn step(&mut self, ground: &Ground, share: usize) {
        // Now and then it waits for its inbox before it does anything else.
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        match self.inbox.poll_ask(&mut Context::from_waker(&waker)) {
            Poll::Ready(ask) => self.spill(ground, ask, share),
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
    fn spill(&mut self, ground: &Ground, ask: Ask, share: usize) {
        ground.totals.add(Count::Spilled);
        let Some(memory) = ask.memory().cloned() else {
            // The operator's query was closed and has left the tree.
            if !self.allocator.is_closed() {
                ground.totals.fail("an ask without a share".to_owned());
            }
            return;
        };
        let mut pages = Vec::new();
        for _ in 0..4 {
            match memory.buffer(share / 4) {
                Ok(page) => pages.push(page),
                Err(error) => ground.no_memory_to_spill(&error),
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

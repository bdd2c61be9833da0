//! Caches that drop what they hold when memory is short, and a few that behave badly.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use arrow_memory_core::{
    AllocError, ArrowBufMut, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard, WaitError,
};

use super::ground::Ground;
use super::lock;
use super::totals::Count;

/// A cache with an allocator of its own. Its registration ends with it.
pub struct Cache {
    allocator: BufferAllocator,
    held: Mutex<Vec<ArrowBufMut>>,
    guard: Mutex<Option<ReclaimGuard>>,
    ground: Arc<Ground>,
    /// Whether it behaves badly. Then it holds little.
    hostile: bool,
}

impl Cache {
    /// Registers a cache below an allocator.
    pub fn new(ground: &Arc<Ground>, parent: &BufferAllocator) -> Option<Arc<Self>> {
        let child = parent.child("cache").priority(fastrand::i32(-2..3));
        let cache = Arc::new(Self {
            allocator: child.build().ok()?,
            held: Mutex::default(),
            guard: Mutex::default(),
            ground: Arc::clone(ground),
            hostile: fastrand::u32(..8) == 0,
        });
        let cost = [Cost::Drop, Cost::Spill][usize::from(fastrand::u32(..4) == 0)];
        let registered = Registered(Arc::downgrade(&cache), cache.hostile);
        let guard = cache.allocator.on_shortage(cost, registered);
        *lock(&cache.guard) = Some(guard);
        Some(cache)
    }

    /// Takes some memory, if there is any soon; `false` if its query was closed.
    pub fn fill(&self) -> bool {
        let most = if self.hostile { 16 << 10 } else { 1 << 20 };
        let wait = self.allocator.wait().at_most(Duration::from_micros(500));
        match wait.buffer(fastrand::usize(..most)) {
            Ok(buffer) => {
                let mut held = lock(&self.held);
                let surplus = if held.len() < 16 { None } else { held.pop() };
                held.push(buffer);
                drop(held);
                drop(surplus);
                true
            }
            Err(error) => !matches!(error, WaitError::Refused(AllocError::Closed { .. })),
        }
    }

    /// Drops up to so many buffers, unless another thread has the lock.
    fn evict(&self, count: usize) {
        let evicted = self.held.try_lock().map(|mut held| {
            let rest = held.len().saturating_sub(count);
            held.split_off(rest)
        });
        drop(evicted);
    }

    fn asked(&self, ask: Ask) {
        let totals = &self.ground.totals;
        totals.add(Count::Asked);
        if !self.hostile || fastrand::bool() {
            return self.evict(1 + ask.bytes() / (512 << 10));
        }
        match fastrand::u32(..7) {
            0 => resume_unwind(Box::new("a reclaimer that panics")),
            1 => thread::park_timeout(Duration::from_millis(2)),
            2 => self.reenter(),
            3 => {
                let guard = self.guard.try_lock().ok().and_then(|mut it| it.take());
                drop(guard);
            }
            4 => {
                // What needs memory to free some gets the spill reserve, or what is there.
                let scratch = ask.memory().map(|memory| memory.buffer(4096));
                if let Some(Err(error)) = scratch {
                    self.ground.no_memory_to_spill(&error);
                }
                drop(self.allocator.buffer(1 << 20));
            }
            5 => self.evict(usize::MAX),
            _ => {}
        }
        // Answered before or after what it frees, or much later.
        if fastrand::bool() {
            drop(ask);
            self.evict(1);
        } else {
            self.ground.keep(ask);
        }
    }

    /// What it does is done at once: nobody is asked for it, and it does not wait.
    fn reenter(&self) {
        let totals = &self.ground.totals;
        if self.allocator.reclaim(usize::MAX) != 0 {
            totals.fail("a reclaimer asked others".to_owned());
        }
        for wait in [
            self.allocator.wait(),
            self.allocator.wait().at_most(Duration::ZERO),
        ] {
            if let Err(error @ (WaitError::TimedOut(_) | WaitError::GiveWay(_))) =
                wait.reserve(1 << 24)
            {
                totals.fail(format!("queued in a reclaimer: {error:#}"));
            }
        }
    }
}

/// What the tree knows of a cache, and whether that behaves badly.
struct Registered(Weak<Cache>, bool);

impl Reclaim for Registered {
    fn reclaimable(&self) -> usize {
        match fastrand::u32(..4) {
            0 if self.1 => resume_unwind(Box::new("a reclaimer that panics")),
            1 if self.1 => usize::MAX,
            _ => 1 << 20,
        }
    }

    fn reclaim(&self, ask: Ask) {
        if let Some(cache) = self.0.upgrade() {
            cache.asked(ask);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.1 && fastrand::bool() {
            resume_unwind(Box::new("a reclaimer that panics when it is dropped"));
        }
    }
}

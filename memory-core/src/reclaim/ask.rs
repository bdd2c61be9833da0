//! [`Reclaim`] and [`Ask`]: one request to one registration, and what the registration remembers of its answers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accounting::{AllShares, Answer, Reclaimer, Shortage};
use crate::allocator::BufferAllocator;
use crate::events;
use crate::outcome::AllocatorInfo;
use crate::sync::plain::AtomicBool;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Can give memory back when others need it: a cache that can be dropped, a sort that can spill.
///
/// Register one with [`BufferAllocator::on_shortage`]. A request that is refused, here or at an allocator above,
/// asks those that are registered below the allocator that lacks room, then looks at the numbers again: what was
/// released counts, and nothing that a method returns. So an answer cannot be wrong, only useless: who freed
/// nothing is left alone for a while.
///
/// They are asked in the order of [`Cost`], then of the allocator's
/// [priority](crate::ChildAllocatorBuilder::priority) (larger is asked later), then of what their branch uses beyond
/// its reservation. Bytes that a reservation covers are not asked for, and an allocator is not asked for its own
/// requests.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use std::sync::{Arc, Mutex};
/// use arrow_memory_core::{ArrowBuf, Ask, Cost, Reclaim};
///
/// struct Cache(Arc<Mutex<Vec<ArrowBuf>>>);
///
/// impl Reclaim for Cache {
///     fn reclaimable(&self) -> usize {
///         self.0.try_lock().map_or(0, |entries| entries.iter().map(|entry| entry.len()).sum())
///     }
///
///     fn reclaim(&self, _ask: Ask) {
///         // The thread that asks may hold this very lock: never wait for it.
///         let dropped = self.0.try_lock().map(|mut entries| std::mem::take(&mut *entries));
///         drop(dropped); // with the lock released
///     }
/// }
///
/// let allocator = root.child("cache").build()?;
/// let entries = Arc::new(Mutex::new(vec![allocator.buffer_zeroed(1 << 20)?.freeze()]));
/// let guard = allocator.on_shortage(Cost::Drop, Cache(Arc::clone(&entries)));
/// let query = root.child("query").build()?;
/// let buffer = query.buffer(4096)?; // did not fit: the cache was dropped
/// assert!(entries.lock().unwrap().is_empty());
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
pub trait Reclaim: Send + Sync {
    /// Returns about how many bytes could come back.
    ///
    /// It decides only how many others are asked at the same time. It runs on the thread of whoever needs memory,
    /// with none of this crate's locks held. A panic is caught, and counts as 0.
    fn reclaimable(&self) -> usize;

    /// Gives memory back: at once, or later by whoever gets the `ask`.
    ///
    /// It runs on the thread of whoever needs memory, with none of this crate's locks held. That thread may hold
    /// locks of the program: use `try_lock` only. What needs a lock or takes long should be done elsewhere, by an
    /// [inbox](BufferAllocator::reclaim_inbox). Only if [`Ask::may_block`] says so may it block. The request goes on when
    /// it returns; other requests, and deadlines, do not wait for it.
    ///
    /// The ask is answered when it is dropped. Memory that this method allocates is granted or refused at once: it
    /// neither asks others nor waits. A panic is caught and reported as an event; the ask is answered then.
    fn reclaim(&self, ask: Ask);
}

/// What it takes to give memory back. Lower costs are asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Cost {
    /// Something is dropped that can be had again: an entry of a cache.
    Drop,
    /// Something is written elsewhere first, for which memory is needed: see
    /// [`spill_reserve`](crate::RootAllocatorBuilder::spill_reserve).
    Spill,
}

/// A request for memory that somebody else needs. It is answered when it is dropped.
///
/// An ask that is not answered within the tree's [patience](crate::RootAllocatorBuilder::patience) counts as
/// answered: its registration may be asked again.
#[must_use = "dropping it says that memory was given back"]
pub struct Ask {
    missing: usize,
    shortage: Arc<Shortage>,
    standing: Arc<Standing>,
    /// A share of the spill reserve.
    memory: Option<BufferAllocator>,
    /// Bytes that the registration's allocator used when it was asked.
    used: usize,
    /// Which ask of the registration this is.
    number: u64,
}

impl Ask {
    /// Returns how many bytes were missing when the request began to ask. Less, or more, may be given back: others that
    /// are asked may give some, and an inbox may hand the ask out later. [`is_over`](Self::is_over) says whether it is
    /// still worth while.
    pub fn bytes(&self) -> usize {
        self.missing
    }

    /// Returns whether the bytes are not needed any more: the request was granted, or has given up. For one that waits
    /// this is known once its thread or task has run again, so count what you release against [`bytes`](Self::bytes), too.
    pub fn is_over(&self) -> bool {
        self.shortage.is_over()
    }

    /// Returns whether [`Reclaim::reclaim`] may block: then a thread blocks for the request, in a
    /// [`wait`](BufferAllocator::wait) or an [admission](crate::Admission::blocking). It is false wherever that cannot be
    /// known.
    pub fn may_block(&self) -> bool {
        self.shortage.may_block
    }

    /// Returns the allocator that needs memory.
    pub fn requester(&self) -> &AllocatorInfo {
        &self.shortage.requester
    }

    /// Returns memory for spilling: a share of the root's
    /// [spill reserve](crate::RootAllocatorBuilder::spill_reserve), if there is one and the cost is
    /// [`Cost::Spill`]. It is set aside for this ask until it is dropped.
    pub fn memory(&self) -> Option<&BufferAllocator> {
        self.memory.as_ref()
    }

    /// Takes a share of the spill reserve, if there is one and the cost asks for it.
    pub(super) fn take_share(&mut self) -> Result<(), AllShares> {
        if self.standing.cost == Cost::Spill {
            let share = self.standing.allocator.handle.take_spill_share()?;
            self.memory = share.map(BufferAllocator::from_handle);
        }
        Ok(())
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        // The share is free before the registration may be asked again.
        self.memory = None;
        self.standing.answered(self.number, self.used);
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("bytes", &self.missing)
            .field("requester", self.requester())
            .field("may_block", &self.may_block())
            .finish_non_exhaustive()
    }
}

/// The maximum of the shortages in a row for which a registration is left alone.
const MAX_SKIPPED: usize = 64;

/// A [`Reclaim`] at an allocator.
pub(super) struct Registration {
    standing: Arc<Standing>,
    /// Whether asks are read later, from an inbox: then they get their share when they are.
    later: bool,
    /// There until this is dropped.
    reclaim: Option<Arc<dyn Reclaim>>,
    /// The guard was dropped: no further call begins.
    ended: AtomicBool,
}

/// What is remembered of a registration. Its asks have this, and not the [`Reclaim`], which may keep asks.
struct Standing {
    allocator: BufferAllocator,
    cost: Cost,
    made: Instant,
    /// The number of the latest ask; 0 before the first.
    asked: AtomicU64,
    /// The number of the latest ask that was answered, in order or not.
    answered: AtomicU64,
    /// When the latest ask was made, in milliseconds since `made`.
    asked_at: AtomicU64,
    /// For how many shortages it is left alone, and for how many it was last time: the latest answers freed nothing.
    skip: AtomicUsize,
    skipped: AtomicUsize,
}

impl Registration {
    pub(super) fn new(
        allocator: &BufferAllocator,
        cost: Cost,
        reclaim: Arc<dyn Reclaim>,
        later: bool,
    ) -> Self {
        let standing = Arc::new(Standing {
            allocator: allocator.clone(),
            cost,
            made: Instant::now(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            skip: AtomicUsize::new(0),
            skipped: AtomicUsize::new(0),
        });
        Self {
            standing,
            later,
            reclaim: Some(reclaim),
            ended: AtomicBool::new(false),
        }
    }

    /// Has no further call of the [`Reclaim`] begin, except where another thread has looked already.
    pub(super) fn end(&self) {
        // Relaxed: it guards no memory, and whoever knows that the guard was dropped sees this store, too.
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The [`Reclaim`], to be called right away, unless its guard was dropped: a request may have found this registration
    /// before.
    fn reclaim(&self) -> Option<&dyn Reclaim> {
        // Relaxed: see `end`.
        let ended = self.ended.load(Ordering::Relaxed);
        self.reclaim.as_deref().filter(|_| !ended)
    }

    pub(super) fn allocator(&self) -> &BufferAllocator {
        &self.standing.allocator
    }
}

impl Standing {
    fn milliseconds(&self) -> u64 {
        self.made.elapsed().as_millis() as u64
    }

    /// Takes the right to make the next ask, which is its number: unless one is out that is not older than the
    /// patience; or it is to be left alone, on which a request that has waited for long does not `insist`.
    fn begin(&self, insist: bool) -> Option<u64> {
        let patience: Duration = self.allocator.handle.tree.config.patience;
        let now = self.milliseconds();
        // Acquire: partner of the Release below, so that `asked_at` is that of this ask, or a later one.
        let asked = self.asked.load(Ordering::Acquire);
        // Relaxed, here and below: the numbers guard no memory. (The tree's mutex orders what was done before an answer
        // and what is done by who has seen the answer: see `answered`.)
        let out = self.answered.load(Ordering::Relaxed) < asked;
        let age = now.saturating_sub(self.asked_at.load(Ordering::Relaxed));
        if out && u128::from(age) < patience.as_millis().max(1) {
            return None;
        }
        let left_alone = self
            .skip
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if left_alone.is_ok() && !insist {
            return None;
        }
        self.asked_at.store(now, Ordering::Relaxed);
        // Release: partner of the Acquire above. It decides who asks.
        self.asked
            .compare_exchange(asked, asked + 1, Ordering::Release, Ordering::Relaxed)
            .ok()?;
        Some(asked + 1)
    }

    /// Notes an answer to the ask of that number, when so many bytes were used.
    fn answered(&self, number: u64, used_before: usize) {
        let freed = self.allocator.charged_memory() < used_before;
        // Relaxed, all: the mutex was taken above, and who sees the answer takes it afterwards for the numbers. So all that
        // was done before the answer comes before the next call, and what was given back is in the numbers. What others
        // allocate and release meanwhile can make `freed` wrong either way; it decides only who is asked.
        let skip = if freed {
            0
        } else {
            let before = self.skipped.load(Ordering::Relaxed);
            (before * 2).clamp(1, MAX_SKIPPED)
        };
        self.skipped.store(skip, Ordering::Relaxed);
        self.skip.store(skip, Ordering::Relaxed);
        self.answered.fetch_max(number, Ordering::Relaxed);
    }
}

impl Reclaimer for Registration {
    fn rank(&self) -> (u8, i32) {
        let standing = &self.standing;
        (standing.cost as u8, standing.allocator.node().priority)
    }

    fn estimate(&self) -> usize {
        let (mut bytes, Some(reclaim)) = (0, self.reclaim()) else {
            return 0;
        };
        if events::catch(|| events::inside(|| bytes = reclaim.reclaimable())) {
            events::callback_panicked(self.allocator().info());
        }
        bytes
    }

    fn ask(self: Arc<Self>, shortage: &Arc<Shortage>, missing: usize, insist: bool) -> Answer {
        let standing = &self.standing;
        let Some(number) = standing.begin(insist) else {
            return Answer::default();
        };
        let before = self.allocator().allocated_memory();
        let mut ask = Ask {
            missing,
            shortage: Arc::clone(shortage),
            standing: Arc::clone(standing),
            memory: None,
            used: self.allocator().charged_memory(),
            number,
        };
        if !self.later && ask.take_share().is_err() {
            // Others spill already. It counts as answered, and as having freed nothing.
            return Answer::default();
        }
        let Some(reclaim) = self.reclaim() else {
            return Answer::default();
        };
        events::quietly(self.allocator().info(), || reclaim.reclaim(ask));
        Answer {
            // Relaxed: before the mutex is taken for the numbers, see `answered`.
            out: standing.answered.load(Ordering::Relaxed) < number,
            freed: before.saturating_sub(self.allocator().allocated_memory()),
        }
    }
}

impl Drop for Registration {
    /// The last one may be dropped anywhere. What the user registered may panic when it is dropped.
    fn drop(&mut self) {
        if let Some(reclaim) = self.reclaim.take() {
            events::quietly(self.standing.allocator.info(), || drop(reclaim));
        }
    }
}

#[cfg(all(test, loom))]
mod model;

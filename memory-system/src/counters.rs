//! What is lent and what was lent, for the whole process, at a nanosecond per call.
//!
//! A shared counter costs 5 ns per update on one core, and a cache line that travels on several;
//! live, peak, total and count would be four of them. So each thread has a [`Shard`] that it alone
//! writes, with plain loads and stores, and whoever asks adds all of them up. A shard outlives its
//! thread and is passed on to the next new one: there are as many as ever lived at once.
//!
//! The sum of live bytes is never negative: `freed` is read first, with Acquire. Who frees a block
//! has seen its allocation, so whoever sees the one sees the other.
//!
//! The peak cannot be had from sums that are read now and then. Each shard knows how much its live
//! bytes have moved since they were last added to one shared sum, and how high they were between.
//! It adds them as soon as they have moved by [`QUANTUM`], so that large blocks are added at
//! once, and 64-byte ones that come and go never. The peak is the shared sum before that, plus how
//! high this shard was: exact for one thread, off by a quantum for each other one.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The sums over all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Bytes that are lent.
    pub(crate) live_bytes: usize,
    /// The largest `live_bytes`, as exact as the module says.
    pub(crate) peak_bytes: usize,
    /// Bytes that were lent, growth with its difference.
    pub(crate) total_bytes: u64,
    /// Blocks that were lent.
    pub(crate) allocations: u64,
}

/// Counts a block of `bytes` that was lent.
#[inline]
pub(crate) fn allocated(bytes: usize) {
    with_shard(
        |shard| shard.allocated(bytes, 1),
        |bytes| OWNERLESS.add(bytes, 1),
        bytes,
    );
}

/// Counts a block of `bytes` that came back.
#[inline]
pub(crate) fn freed(bytes: usize) {
    with_shard(
        |shard| shard.freed(bytes),
        |bytes| OWNERLESS.sub(bytes),
        bytes,
    );
}

/// Counts a block that changed its size.
pub(crate) fn resized(old: usize, new: usize) {
    if new >= old {
        let more = new - old;
        with_shard(
            |shard| shard.allocated(more, 0),
            |more| OWNERLESS.add(more, 0),
            more,
        );
    } else {
        freed(old - new);
    }
}

/// Adds everything up.
pub(crate) fn read() -> Counted {
    let shards = lock(&SHARDS).clone();
    // Acquire: see the module; the partner is the Release of `Shard::freed` and `Ownerless::sub`.
    let freed = |shard: &Shard| shard.freed.load(Ordering::Acquire);
    let freed: u64 = shards.iter().map(|shard| freed(shard)).sum::<u64>() + freed(&OWNERLESS.0);

    let all = || shards.iter().copied().chain([&OWNERLESS.0]);
    // Relaxed, all of them: counters guard no other memory.
    let total: u64 = all()
        .map(|shard| shard.allocated.load(Ordering::Relaxed))
        .sum();
    let allocations = all()
        .map(|shard| shard.allocations.load(Ordering::Relaxed))
        .sum();
    let pending = shards.iter().map(|shard| {
        let high = shard.high.load(Ordering::Relaxed);
        high - shard.flushed.load(Ordering::Relaxed)
    });
    let pending = pending.max().unwrap_or(0).max(0);
    let live = total.saturating_sub(freed) as i64;
    let high = (LIVE.load(Ordering::Relaxed) + pending).max(live);
    // What was answered once is not taken back.
    let peak = PEAK.fetch_max(high, Ordering::Relaxed).max(high);
    Counted {
        live_bytes: live as usize,
        peak_bytes: peak as usize,
        total_bytes: total,
        allocations,
    }
}

/// What one thread has lent and taken back. Only that thread writes; everybody may read.
///
/// The live bytes of a shard are negative where it freed what others allocated.
#[derive(Debug)]
#[repr(align(128))] // Two lines, since neighbours are fetched in pairs.
struct Shard {
    /// Bytes that were lent, growth with its difference.
    allocated: AtomicU64,
    /// Bytes that came back, shrinking with its difference.
    freed: AtomicU64,
    /// Blocks that were lent.
    allocations: AtomicU64,
    /// `allocated - freed` when it was last added to [`LIVE`].
    flushed: AtomicI64,
    /// The largest `allocated - freed` since then.
    high: AtomicI64,
}

impl Shard {
    const fn new() -> Self {
        Self {
            allocated: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            flushed: AtomicI64::new(0),
            high: AtomicI64::new(0),
        }
    }

    // Relaxed, all that says nothing else: only this thread writes, and the counters guard no
    // other memory.

    #[inline]
    fn allocated(&self, bytes: usize, blocks: u64) {
        let allocated = self.allocated.load(Ordering::Relaxed) + bytes as u64;
        self.allocated.store(allocated, Ordering::Relaxed);
        let allocations = self.allocations.load(Ordering::Relaxed) + blocks;
        self.allocations.store(allocations, Ordering::Relaxed);

        let live = allocated.wrapping_sub(self.freed.load(Ordering::Relaxed)) as i64;
        if live > self.high.load(Ordering::Relaxed) {
            self.high.store(live, Ordering::Relaxed);
            if live - self.flushed.load(Ordering::Relaxed) >= QUANTUM {
                self.flush(live);
            }
        }
    }

    #[inline]
    fn freed(&self, bytes: usize) {
        let freed = self.freed.load(Ordering::Relaxed) + bytes as u64;
        // Release: the partner is the Acquire of `read`, as the module says.
        self.freed.store(freed, Ordering::Release);

        let live = self.allocated.load(Ordering::Relaxed).wrapping_sub(freed) as i64;
        if self.flushed.load(Ordering::Relaxed) - live >= QUANTUM {
            self.flush(live);
        }
    }

    /// Adds what moved since the last time to the shared sum.
    #[cold]
    fn flush(&self, live: i64) {
        let flushed = self.flushed.load(Ordering::Relaxed);
        let before = LIVE.fetch_add(live - flushed, Ordering::Relaxed);
        let high = self.high.load(Ordering::Relaxed) - flushed;
        PEAK.fetch_max(before + high, Ordering::Relaxed);
        self.flushed.store(live, Ordering::Relaxed);
        self.high.store(live, Ordering::Relaxed);
    }

    fn retire(&self) {
        let allocated = self.allocated.load(Ordering::Relaxed);
        let freed = self.freed.load(Ordering::Relaxed);
        self.flush(allocated.wrapping_sub(freed) as i64);
    }
}

/// The shard of threads that have given theirs back: their last destructors still free blocks.
/// Many may write, so it costs read-modify-writes, and nothing is ever pending.
struct Ownerless(Shard);

impl Ownerless {
    // Relaxed, all that says nothing else: counters guard no other memory.

    #[cold]
    fn add(&self, bytes: usize, blocks: u64) {
        self.0.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        self.0.allocations.fetch_add(blocks, Ordering::Relaxed);
        let before = LIVE.fetch_add(bytes as i64, Ordering::Relaxed);
        PEAK.fetch_max(before + bytes as i64, Ordering::Relaxed);
    }

    #[cold]
    fn sub(&self, bytes: usize) {
        // Release: the partner is the Acquire of `read`, as the module says.
        self.0.freed.fetch_add(bytes as u64, Ordering::Release);
        LIVE.fetch_sub(bytes as i64, Ordering::Relaxed);
    }
}

/// Calls `owned` with this thread's shard, or `ownerless` if it gave its shard back already.
#[inline]
fn with_shard(owned: impl FnOnce(&Shard), ownerless: impl FnOnce(usize), bytes: usize) {
    if let Some(shard) = SHARD.get() {
        owned(shard);
    } else if let Some(shard) = lease() {
        owned(shard);
    } else {
        ownerless(bytes);
    }
}

/// Gets a shard for this thread until it ends; `None` if it is ending.
#[cold]
fn lease() -> Option<&'static Shard> {
    LEASE.try_with(|_lease| ()).ok()?;
    let idle = lock(&IDLE).pop();
    let shard = idle.unwrap_or_else(|| {
        let shard: &'static Shard = Box::leak(Box::new(Shard::new()));
        lock(&SHARDS).push(shard);
        shard
    });
    SHARD.set(Some(shard));
    Some(shard)
}

/// Gives the shard of a thread back when the thread ends.
struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shard) = SHARD.take() {
            shard.retire();
            lock(&IDLE).push(shard);
        }
    }
}

/// Locks `mutex`. Nothing panics while it is locked, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This thread's shard. Without a destructor, so that it is there to the very end.
    static SHARD: Cell<Option<&'static Shard>> = const { Cell::new(None) };
    /// What gives `SHARD` back.
    static LEASE: Lease = const { Lease };
}

/// All shards that there ever were.
static SHARDS: Mutex<Vec<&'static Shard>> = Mutex::new(Vec::new());

/// Those whose thread has ended; the mutex orders the writes of one owner before the next one's.
static IDLE: Mutex<Vec<&'static Shard>> = Mutex::new(Vec::new());

/// What threads count that have given their shard back.
static OWNERLESS: Ownerless = Ownerless(Shard::new());

/// The live bytes that shards have added. Behind the truth by up to [`QUANTUM`] for each of them.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// The highest that `LIVE` was seen, with what was pending in the shard that saw it.
static PEAK: AtomicI64 = AtomicI64::new(0);

/// How far the live bytes of a shard may move before they are added to [`LIVE`].
const QUANTUM: i64 = 64 * 1024;

//! Counters for managers whose library keeps none: [`Tally`] counts without shared writes.
//!
//! A counter that every thread adds to costs 5 ns while one thread writes it. If several threads write it, the
//! whole program gets no further than some 24 million updates a second: an update then takes several times as
//! long as an allocation.
//! So a tally has one *shard* for each [number](crate::thread) of a thread, on its own cache line, which only
//! the thread with that number writes: with a load and a store, no read-modify-write. A reader adds the shards up.
//!
//! A shard is 128 bytes, which a thread allocates when it first counts in a tally; the tally has a pointer
//! for each of 1,024 numbers. Threads that have no number (1,024 others have one each, or they are ending)
//! spread over 16 shards that they share, with read-modify-writes.
//!
//! # Invariants
//!
//! 1. A number is held by at most one living thread, and its next holder sees what the last one wrote:
//!    [`thread`](crate::thread) promises that. Only the thread that holds a number writes its shard.
//! 2. Shards are never reset: the next holder of a number continues the sums, which wrap. Live bytes are
//!    the difference of two sums modulo 2^64, so blocks may be given back by other threads. Sums therefore
//!    include the shards of all numbers that were ever taken, and no others.
//! 3. A number's pointer is null, or leads to a shard that this tally has allocated. It is stored once,
//!    by the holder of the number, and its shard is freed with the tally.
//! 4. Every shard, shared or not, has added to the tally's `published` what its own `published` says.

#![expect(
    unsafe_code,
    reason = "shards are found by a thread's number, without a second look"
)]

use std::alloc::{Layout, alloc};
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};

use crate::manager::ManagerStats;
use crate::size::KIB;
use crate::thread::{self, NUMBERS};

/// Counts what a manager lends and takes back, at about a nanosecond for each.
///
/// For implementations of [`AllocationManager`](crate::AllocationManager): call
/// [`lent`](Self::lent), [`returned`](Self::returned) and [`resized`](Self::resized) after the fact
/// and start [`stats`](crate::AllocationManager::stats) with [`stats`](Self::stats).
///
/// # Examples
///
/// ```
/// let tally = arrow_memory_manager::Tally::new();
/// tally.lent(4096);
/// tally.resized(4096, 8192);
/// tally.lent(64);
/// tally.returned(8192);
///
/// let stats = tally.stats();
/// assert_eq!(stats.live_bytes, Some(64));
/// assert_eq!((stats.total_bytes, stats.allocations), (Some(8256), Some(2)));
/// ```
pub struct Tally {
    /// A shard for each number; the last pointer stays null, for threads that have none.
    own: [AtomicPtr<Shard>; NUMBERS + 1],
    /// The shards that threads without a number share.
    shared: [Shard; SHARED],
    /// The sum of what the shards have published. Each shard may lag by up to `PUBLISH_BYTES`.
    published: AtomicI64,
    /// The maximum of `published`, and of exact sums, since the last reset.
    peak: AtomicI64,
}

impl Tally {
    /// Creates a tally in which nothing was counted.
    pub const fn new() -> Self {
        Self {
            own: [const { AtomicPtr::new(ptr::null_mut()) }; NUMBERS + 1],
            shared: [const { Shard::new() }; SHARED],
            published: AtomicI64::new(0),
            peak: AtomicI64::new(0),
        }
    }

    /// Counts a block of `bytes` that was handed out. Costs about a nanosecond.
    #[inline]
    pub fn lent(&self, bytes: usize) {
        if !self.try_lent(bytes) {
            self.lent_slowly(bytes);
        }
    }

    /// Counts a block of `bytes` that was taken back. Costs about a nanosecond.
    #[inline]
    pub fn returned(&self, bytes: usize) {
        if !self.try_returned(bytes) {
            self.returned_slowly(bytes);
        }
    }

    /// Counts a block of `bytes` that was handed out, if that takes no function call.
    ///
    /// Returns `false` if nothing was counted; the caller then calls [`lent`](Self::lent). That happens in a
    /// thread that has no shard of its own (yet), and when the thread's live bytes have grown or shrunk by
    /// 256 KiB since it last published them.
    ///
    /// A hot path that calls `lent` last, only if this returned `false`, has no registers to save for the call.
    ///
    /// ```
    /// let tally = arrow_memory_manager::Tally::new();
    /// assert!(!tally.try_lent(64)); // this thread has no place yet
    /// tally.lent(64);
    /// assert!(tally.try_lent(128));
    /// assert!(tally.try_returned(64));
    /// assert_eq!((tally.stats().live_bytes, tally.stats().allocations), (Some(128), Some(2)));
    /// ```
    #[inline]
    #[must_use]
    pub fn try_lent(&self, bytes: usize) -> bool {
        self.own().is_some_and(|shard| shard.try_lent(bytes))
    }

    /// Counts a block of `bytes` that was taken back, if that takes no function call.
    ///
    /// Returns `false` if nothing was counted; the caller then calls [`returned`](Self::returned). The cases are
    /// those of [`try_lent`](Self::try_lent).
    #[inline]
    #[must_use]
    pub fn try_returned(&self, bytes: usize) -> bool {
        self.own().is_some_and(|shard| shard.try_returned(bytes))
    }

    #[cold]
    fn lent_slowly(&self, bytes: usize) {
        match self.place() {
            Place::Own(shard) => {
                add(&shard.allocations, 1);
                self.count_lent(shard, bytes as u64);
            }
            Place::Shared(shard) => {
                // Relaxed: a sum.
                shard.allocations.fetch_add(1, Ordering::Relaxed);
                self.share(shard, &shard.lent, bytes as u64);
            }
        }
    }

    #[cold]
    fn returned_slowly(&self, bytes: usize) {
        match self.place() {
            Place::Own(shard) => self.count_returned(shard, bytes as u64),
            Place::Shared(shard) => self.share(shard, &shard.returned, bytes as u64),
        }
    }

    /// Counts a block whose size changed from `old` to `new` bytes: the difference, and no allocation.
    pub fn resized(&self, old: usize, new: usize) {
        let grown = new.saturating_sub(old) as u64;
        let shrunk = old.saturating_sub(new) as u64;
        match self.place() {
            Place::Own(shard) if grown > 0 => self.count_lent(shard, grown),
            Place::Own(shard) => self.count_returned(shard, shrunk),
            Place::Shared(shard) if grown > 0 => self.share(shard, &shard.lent, grown),
            Place::Shared(shard) => self.share(shard, &shard.returned, shrunk),
        }
    }

    /// Live, peak and total bytes, and allocations; the other fields are `None`.
    ///
    /// Exact when no other thread is allocating. The peak is exact for one thread, and may be off by
    /// 256 KiB for each further one.
    pub fn stats(&self) -> ManagerStats {
        // Other threads may count while the shards are summed, so no sum need hold at any one moment.
        // `returned` is summed before and after `lent`: `low` is a lower bound of the live bytes, `live` an
        // upper bound. Of several tries the one counts during which the fewest bytes were returned.
        let (mut churn, mut lent, mut allocations, mut low) = (u64::MAX, 0, 0, 0);
        let mut before = self.sum(|shard| &shard.returned);
        for _ in 0..TRIES {
            let blocks = self.sum(|shard| &shard.allocations);
            let sum = self.sum(|shard| &shard.lent);
            let after = self.sum(|shard| &shard.returned);
            if after.wrapping_sub(before) < churn {
                churn = after.wrapping_sub(before);
                (allocations, lent) = (blocks, sum);
                low = (sum.wrapping_sub(after) as i64).max(0);
            }
            if churn == 0 {
                break;
            }
            before = after;
        }
        // Relaxed, all: numbers that guard no other memory. One shard's own peak counts on top of
        // what is published; two shards' peaks may have been at different times. A shard that is
        // publishing may be seen with both, so no more of it counts than may be unpublished.
        let highs = self.used().map(|shard| {
            let high = shard.high.load(Ordering::Relaxed);
            high.saturating_sub(shard.published.load(Ordering::Relaxed))
                .clamp(0, PUBLISH_BYTES)
        });
        let high = self.published.load(Ordering::Relaxed) + highs.max().unwrap_or(0);
        let high = high.max(low);
        let peak = self.peak.fetch_max(high, Ordering::Relaxed).max(high);
        // Bytes returned meanwhile were live before, so they are no more than all that were ever lent.
        let live = low.saturating_add_unsigned(churn).min(peak);
        ManagerStats {
            live_bytes: Some(live as usize),
            peak_bytes: Some(peak as usize),
            total_bytes: Some(lent),
            allocations: Some(allocations),
            ..ManagerStats::default()
        }
    }

    /// Resets the peak to the bytes that are live now, as exactly as [`stats`](Self::stats) knows them.
    pub fn reset_peak(&self) {
        if let Some(shard) = self.own() {
            self.publish(shard, shard.live());
        }
        // Relaxed, all: the numbers guard no other memory. A thread that is counting may store its old high
        // mark again, or not see yet that it was cleared. The mark is cleared rather than set to a sum of the
        // shard: that sum might be old, and so too high, and the thread would not publish until it passed it.
        for shard in self.used() {
            shard.high.store(i64::MIN, Ordering::Relaxed);
        }
        self.peak.store(0, Ordering::Relaxed);
        let _ = self.stats();
    }

    /// The sum of a counter over all shards.
    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.used()
            // Acquire: its partner is the Release in `add`. A block whose return is seen here was lent before,
            // by a thread that passed it to the one that returned it, so later sums include the lending.
            .map(|shard| counter(shard).load(Ordering::Acquire))
            .fold(0, u64::wrapping_add)
    }

    /// The shards that a thread may have written to. Each sum calls this anew: a value seen in one sum may come
    /// from a thread whose shard only the next call finds.
    fn used(&self) -> impl Iterator<Item = &Shard> {
        let own = self.own.iter().take(thread::ever()).filter_map(|own| {
            // Acquire: its partner is the Release in `make`.
            let shard = own.load(Ordering::Acquire);
            // SAFETY: by invariant 3 it is null, or alive as long as the tally.
            unsafe { shard.as_ref() }
        });
        own.chain(&self.shared)
    }

    /// This thread's shard, if it has one.
    #[inline]
    fn own(&self) -> Option<&Shard> {
        // SAFETY: by invariant 2 of `thread` an index is at most `NUMBERS`.
        let own = unsafe { self.own.get_unchecked(thread::index()) };
        // Relaxed: stored by this thread, or by one that held the number before.
        let shard = own.load(Ordering::Relaxed);
        // SAFETY: by invariant 3 it is null, or alive as long as the tally.
        unsafe { shard.as_ref() }
    }

    /// The shard in which this thread counts.
    #[inline]
    fn place(&self) -> Place<'_> {
        match self.own() {
            Some(shard) => Place::Own(shard),
            None => self.find_place(),
        }
    }

    /// The shard for a thread that has no number, or no shard yet.
    #[cold]
    #[inline(never)]
    fn find_place(&self) -> Place<'_> {
        let own = thread::number().and_then(|number| {
            // The thread may have taken its number just now; an earlier holder may have made the shard.
            self.own().or_else(|| make(&self.own[number]))
        });
        match own {
            Some(shard) => Place::Own(shard),
            None => Place::Shared(&self.shared[thread::spread() % SHARED]),
        }
    }

    fn count_lent(&self, shard: &Shard, bytes: u64) {
        add(&shard.lent, bytes);
        let live = shard.live();
        // Relaxed, all: by invariant 1 no other thread writes them (`high` is a mere hint).
        if live > shard.high.load(Ordering::Relaxed) {
            shard.high.store(live, Ordering::Relaxed);
            if live >= shard.top.load(Ordering::Relaxed) {
                self.publish(shard, live);
            }
        }
    }

    fn count_returned(&self, shard: &Shard, bytes: u64) {
        add(&shard.returned, bytes);
        let live = shard.live();
        // Relaxed: by invariant 1 no other thread writes it.
        if live <= shard.low.load(Ordering::Relaxed) {
            self.publish(shard, live);
        }
    }

    /// Publishes this shard's live bytes to the other threads.
    fn publish(&self, shard: &Shard, live: i64) {
        // Relaxed, all: sums that guard no other memory; the peak is taken from our own update.
        let published = shard.published.load(Ordering::Relaxed);
        let before = self
            .published
            .fetch_add(live - published, Ordering::Relaxed);
        let high = shard.high.load(Ordering::Relaxed);
        let high = high.saturating_sub(published).max(0);
        self.peak.fetch_max(before + high, Ordering::Relaxed);
        shard.published.store(live, Ordering::Relaxed);
        shard.high.store(live, Ordering::Relaxed);
        let (top, low) = (
            live.saturating_add(PUBLISH_BYTES),
            live.saturating_sub(PUBLISH_BYTES),
        );
        shard.top.store(top, Ordering::Relaxed);
        shard.low.store(low, Ordering::Relaxed);
    }

    /// Adds to one of the sums of a shard that several threads share.
    fn share(&self, shard: &Shard, counter: &AtomicU64, bytes: u64) {
        // Release: its partner is the Acquire load in `sum`. Acquire: so that the other sum, which is read
        // next, is not older than what this one includes.
        counter.fetch_add(bytes, Ordering::AcqRel);
        let live = shard.live();
        // Relaxed, all: hints, and sums that guard no other memory.
        if live > shard.high.load(Ordering::Relaxed) {
            shard.high.fetch_max(live, Ordering::Relaxed);
        }
        let apart = live.wrapping_sub(shard.published.load(Ordering::Relaxed));
        if apart.unsigned_abs() < PUBLISH_BYTES as u64 {
            return;
        }
        // Each exchange starts from the value that the one before it stored, so the additions to the tally's
        // sum amount to the last stored value, in whatever order they happen.
        let published = shard.published.swap(live, Ordering::Relaxed);
        let high = shard.high.swap(live, Ordering::Relaxed);
        let before = self
            .published
            .fetch_add(live.wrapping_sub(published), Ordering::Relaxed);
        let high = high.max(live).saturating_sub(published).max(0);
        self.peak
            .fetch_max(before.saturating_add(high), Ordering::Relaxed);
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tally").field(&self.stats()).finish()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        for own in &mut self.own {
            if !own.get_mut().is_null() {
                // SAFETY: by invariant 3 it comes from `make`, as a box would, and this is its end.
                drop(unsafe { Box::from_raw(*own.get_mut()) });
            }
        }
    }
}

/// Makes the shard of the calling thread's number, if there is memory for it.
fn make(own: &AtomicPtr<Shard>) -> Option<&Shard> {
    // The global allocator may count in this tally.
    let memory = thread::without_number(|| {
        // SAFETY: a shard's size is not zero.
        unsafe { alloc(Layout::new::<Shard>()) }
    });
    let shard = ptr::NonNull::new(memory.cast::<Shard>())?;
    // SAFETY: fresh memory with the layout of a shard.
    unsafe { shard.write(Shard::new()) };
    // Release: its partner is the Acquire in `used`.
    own.store(shard.as_ptr(), Ordering::Release);
    // SAFETY: it was written just now; by invariant 3 it lives as long as the pointer to it.
    Some(unsafe { shard.as_ref() })
}

/// The shard in which a thread counts.
enum Place<'a> {
    /// A shard that only this thread writes.
    Own(&'a Shard),
    /// A shard that several threads write, by read-modify-writes.
    Shared(&'a Shard),
}

/// What one thread counted, written by it alone; or what several threads counted together. Wrapping sums.
#[repr(align(128))] // Two lines: processors fetch neighbours in pairs.
struct Shard {
    /// Bytes handed out, with growth.
    lent: AtomicU64,
    /// Bytes taken back, with shrinking.
    returned: AtomicU64,
    /// Blocks handed out.
    allocations: AtomicU64,
    /// `lent - returned` when it was last added to the tally's `published`.
    published: AtomicI64,
    /// The maximum of `lent - returned` since then, or less: `reset_peak` clears it.
    high: AtomicI64,
    /// Upper bound of `lent - returned`, at which it is published: `PUBLISH_BYTES` above `published`.
    top: AtomicI64,
    /// Lower bound of `lent - returned`, at which it is published: `PUBLISH_BYTES` below `published`.
    low: AtomicI64,
}

impl Shard {
    const fn new() -> Self {
        Self {
            lent: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            published: AtomicI64::new(0),
            high: AtomicI64::new(0),
            top: AtomicI64::new(PUBLISH_BYTES),
            low: AtomicI64::new(-PUBLISH_BYTES),
        }
    }

    /// Counts a lent block unless it has to be published; see [`Tally::try_lent`]. Only the thread that owns the
    /// shard calls this.
    #[inline]
    fn try_lent(&self, bytes: usize) -> bool {
        // Relaxed, all: by invariant 1 no other thread writes them (`high` is a mere hint).
        let sum = self.lent.load(Ordering::Relaxed);
        let lent = sum.wrapping_add(bytes as u64);
        let live = lent.wrapping_sub(self.returned.load(Ordering::Relaxed)) as i64;
        if live > self.high.load(Ordering::Relaxed) {
            if live >= self.top.load(Ordering::Relaxed) {
                return false;
            }
            self.high.store(live, Ordering::Relaxed);
        }
        add(&self.allocations, 1);
        // Release: its partner is the Acquire load in `sum`. (On x86-64 a plain store.)
        self.lent.store(lent, Ordering::Release);
        true
    }

    /// Counts a returned block unless it has to be published; see [`Tally::try_returned`]. Only the thread that
    /// owns the shard calls this.
    #[inline]
    fn try_returned(&self, bytes: usize) -> bool {
        // Relaxed, all: by invariant 1 no other thread writes them.
        let sum = self.returned.load(Ordering::Relaxed);
        let returned = sum.wrapping_add(bytes as u64);
        let live = self.lent.load(Ordering::Relaxed).wrapping_sub(returned) as i64;
        if live <= self.low.load(Ordering::Relaxed) {
            return false;
        }
        // Release: its partner is the Acquire load in `sum`. (On x86-64 a plain store.)
        self.returned.store(returned, Ordering::Release);
        true
    }

    /// Bytes lent minus bytes returned in this shard. Below zero if this shard counted the return of blocks that
    /// another one counted as lent. Exact for the thread that owns the shard.
    fn live(&self) -> i64 {
        // Relaxed, both: by invariant 1 no other thread writes them; in a shared shard any value is a hint.
        let returned = self.returned.load(Ordering::Relaxed);
        self.lent.load(Ordering::Relaxed).wrapping_sub(returned) as i64
    }
}

/// Adds to a counter that only this thread writes.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    // Relaxed: by invariant 1 this thread wrote the value, or has acquired the number since.
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    // Release: its partner is the Acquire load in `Tally::stats`. (On x86-64 a plain store.)
    counter.store(sum, Ordering::Release);
}

/// How far a shard's live bytes may move from what it has published, in bytes.
const PUBLISH_BYTES: i64 = 256 * KIB as i64;

/// How many shards the threads without a number share.
const SHARED: usize = 16;

/// How often sums are retried if other threads changed them meanwhile.
const TRIES: usize = 8;

#[cfg(all(test, not(loom)))]
mod tests;

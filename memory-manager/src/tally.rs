//! Counters for managers whose library keeps none: [`Tally`] counts without shared writes.
//!
//! A counter that every thread adds to costs 5 ns where nobody else writes and caps a program at
//! some 24 million updates a second where somebody does, several times what an allocation takes.
//! So a tally has one *shard* for each [number](crate::thread) of a thread, on its own cache line, which only
//! the thread with that number writes: with a load and a store, no read-modify-write. To read the tally is to
//! add the shards up.
//!
//! A shard is 128 bytes, which a thread allocates when it first counts in a tally; the tally has a pointer
//! for each of 1,024 numbers. Threads that have no number (1,024 others have one each, or they are ending)
//! spread over 16 shards that they share, with read-modify-writes.
//!
//! # Invariants
//!
//! 1. A number is held by at most one living thread, and its next holder sees what the last one wrote:
//!    that is promised by [`thread`](crate::thread). A shard of its own is written by the thread alone.
//! 2. Shards are never reset: their sums go on when a number changes hands, and wrap. Live bytes are
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
    /// The sum of what the shards have published, late by at most `PUBLISH_BYTES` each.
    published: AtomicI64,
    /// The largest value that `published`, or an exact sum, had since the last reset.
    peak: AtomicI64,
}

impl Tally {
    /// A tally of nothing.
    pub const fn new() -> Self {
        Self {
            own: [const { AtomicPtr::new(ptr::null_mut()) }; NUMBERS + 1],
            shared: [const { Shard::new() }; SHARED],
            published: AtomicI64::new(0),
            peak: AtomicI64::new(0),
        }
    }

    /// Counts a block of `bytes` that was handed out.
    #[inline]
    pub fn lent(&self, bytes: usize) {
        if !self.try_lent(bytes) {
            self.lent_slowly(bytes);
        }
    }

    /// Counts a block of `bytes` that was taken back.
    #[inline]
    pub fn returned(&self, bytes: usize) {
        if !self.try_returned(bytes) {
            self.returned_slowly(bytes);
        }
    }

    /// As [`lent`](Self::lent), if that takes no call. `false`: nothing was counted, and it is for
    /// `lent` to do.
    ///
    /// For hot paths: a function that leaves the rest to another, which it calls last, need not save
    /// registers for that. It is `false` for a thread that has no place of its own (yet), and when what
    /// the thread has lent has grown or shrunk by 256 KiB since other threads were told of it.
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

    /// As [`returned`](Self::returned), if that takes no call: see [`try_lent`](Self::try_lent).
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

    /// Counts a block that went from `old` to `new` bytes: only the difference, and no allocation.
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
        // What comes and goes while the sums are taken makes them differ from any moment's truth. So
        // `returned` is summed on either side of `lent`, and of some tries the one counts during
        // which least was returned: `low` is not above the truth, `live` not below it.
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
        // What went meanwhile was live before: at most as much as ever was.
        let live = low.saturating_add_unsigned(churn).min(peak);
        ManagerStats {
            live_bytes: Some(live as usize),
            peak_bytes: Some(peak as usize),
            total_bytes: Some(lent),
            allocations: Some(allocations),
            ..ManagerStats::default()
        }
    }

    /// Lets the peak start again from what is live now, as exact as [`stats`](Self::stats) says.
    pub fn reset_peak(&self) {
        if let Some(shard) = self.own() {
            self.publish(shard, shard.live());
        }
        // Relaxed, all: as in `stats`. A thread that is counting may put its own high back, or not know
        // yet that it is gone. It is not replaced by another sum of that shard's, which might be an
        // old one and so too high: the thread would publish nothing until it has passed that.
        for shard in self.used() {
            shard.high.store(i64::MIN, Ordering::Relaxed);
        }
        self.peak.store(0, Ordering::Relaxed);
        let _ = self.stats();
    }

    /// The sum of a counter over all shards.
    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.used()
            // Acquire: its partner is the Release in `add`: a block that is seen returned was lent
            // before, by a thread that told the one that returned it. And later sums come later.
            .map(|shard| counter(shard).load(Ordering::Acquire))
            .fold(0, u64::wrapping_add)
    }

    /// The shards that somebody may have written to. To be asked anew for each sum: what was seen in the last
    /// one may have told of a thread that is counted in this one.
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

    /// Where this thread counts.
    #[inline]
    fn place(&self) -> Place<'_> {
        match self.own() {
            Some(shard) => Place::Own(shard),
            None => self.find_place(),
        }
    }

    /// Where a thread counts that has no number, or no shard yet.
    #[cold]
    #[inline(never)]
    fn find_place(&self) -> Place<'_> {
        let own = thread::number().and_then(|number| {
            // It may have got the number just now, whose shard an earlier holder has made.
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
        // Relaxed, all: by invariant 1 nobody else writes them (`high` is a mere hint).
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
        // Relaxed: by invariant 1 nobody else writes it.
        if live <= shard.low.load(Ordering::Relaxed) {
            self.publish(shard, live);
        }
    }

    /// Tells the others what this shard's live bytes are.
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
        // Each exchange continues where the one before it ended, so what is added to the tally's sum is, in
        // all, what the last one has put here, whatever order the additions come in.
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

/// Where a thread counts.
enum Place<'a> {
    /// In a shard that it alone writes.
    Own(&'a Shard),
    /// In one that it shares, by read-modify-writes.
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
    /// The largest `lent - returned` since then, or less: `reset_peak` clears it.
    high: AtomicI64,
    /// The `lent - returned` at which it is to be published: `PUBLISH_BYTES` above the last.
    top: AtomicI64,
    /// The same below.
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

    /// As [`Tally::try_lent`]. For the thread whose own shard this is.
    #[inline]
    fn try_lent(&self, bytes: usize) -> bool {
        // Relaxed, all: by invariant 1 nobody else writes them (`high` is a mere hint).
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

    /// As [`Tally::try_returned`]. For the thread whose own shard this is.
    #[inline]
    fn try_returned(&self, bytes: usize) -> bool {
        // Relaxed, all: by invariant 1 nobody else writes them.
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

    /// What was lent here and not taken back; below zero if blocks were taken back here that others lent.
    /// Exact for a thread whose own shard this is.
    fn live(&self) -> i64 {
        // Relaxed, both: by invariant 1 nobody else writes them, or several do and any value is a hint.
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

/// How far a shard's difference may go before it is added to what all threads see.
const PUBLISH_BYTES: i64 = 256 * KIB as i64;

/// How many shards the threads without a number share.
const SHARED: usize = 16;

/// How often sums are taken again that others changed meanwhile.
const TRIES: usize = 8;

#[cfg(all(test, not(loom)))]
mod tests;

//! Counters for managers whose library keeps none: [`Tally`] counts without shared writes.
//!
//! A counter that every thread adds to costs 5 ns where nobody else writes and caps a program at
//! some 24 million updates a second where somebody does, several times what an allocation takes.
//! So a tally has one *shard* for each [slot](crate::slots), on its own cache line, which only the
//! thread that holds the slot writes: with a load and a store, no read-modify-write. Whoever asks
//! adds the shards up.
//!
//! # Invariants
//!
//! 1. A slot is held by at most one living thread, and its next holder sees what the last one wrote:
//!    that is promised by `slots`.
//! 2. Shards are never reset: their sums go on when a slot changes hands, and wrap. Live bytes are
//!    the difference of two sums modulo 2^64, so blocks may be given back by other threads.
//! 3. Threads without a slot (there are more than 128, or their thread-locals are gone) share one
//!    shard and use read-modify-writes there.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::manager::ManagerStats;
use crate::size::KIB;
use crate::slots::{self, SLOT_COUNT};

/// Counts what a manager lends and takes back, at about a nanosecond for each.
///
/// For implementations of [`AllocationManager`](crate::AllocationManager): call
/// [`lent`](Self::lent), [`returned`](Self::returned) and [`resized`](Self::resized) after the fact
/// and start [`stats`](crate::AllocationManager::stats) with [`stats`](Self::stats).
///
/// # Examples
///
/// ```
/// let tally = arrow_memory_core::Tally::new();
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
    /// One for each slot, then the one that threads without a slot share.
    shards: [Shard; SLOT_COUNT + 1],
    /// The sum of what the shards have published, late by at most `PUBLISH_BYTES` each.
    published: AtomicI64,
    /// The largest value that `published`, or an exact sum, had since the last reset.
    peak: AtomicI64,
}

impl Tally {
    /// A tally of nothing.
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard::new() }; SLOT_COUNT + 1],
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
    /// let tally = arrow_memory_core::Tally::new();
    /// assert!(!tally.try_lent(64)); // this thread has no place yet
    /// tally.lent(64);
    /// assert!(tally.try_lent(128));
    /// assert!(tally.try_returned(64));
    /// assert_eq!((tally.stats().live_bytes, tally.stats().allocations), (Some(128), Some(2)));
    /// ```
    #[inline]
    #[must_use]
    pub fn try_lent(&self, bytes: usize) -> bool {
        let Some(shard) = self.shard() else {
            return false;
        };
        // Relaxed, all: by invariant 1 nobody else writes them (`high` is a mere hint).
        let sum = shard.lent.load(Ordering::Relaxed);
        let lent = sum.wrapping_add(bytes as u64);
        let live = lent.wrapping_sub(shard.returned.load(Ordering::Relaxed)) as i64;
        if live > shard.high.load(Ordering::Relaxed) {
            if live >= shard.top.load(Ordering::Relaxed) {
                return false;
            }
            shard.high.store(live, Ordering::Relaxed);
        }
        add(&shard.allocations, 1);
        // Release: its partner is the Acquire load in `sum`. (On x86-64 a plain store.)
        shard.lent.store(lent, Ordering::Release);
        true
    }

    /// As [`returned`](Self::returned), if that takes no call: see [`try_lent`](Self::try_lent).
    #[inline]
    #[must_use]
    pub fn try_returned(&self, bytes: usize) -> bool {
        let Some(shard) = self.shard() else {
            return false;
        };
        // Relaxed, all: by invariant 1 nobody else writes them.
        let sum = shard.returned.load(Ordering::Relaxed);
        let returned = sum.wrapping_add(bytes as u64);
        let live = shard.lent.load(Ordering::Relaxed).wrapping_sub(returned) as i64;
        if live <= shard.low.load(Ordering::Relaxed) {
            return false;
        }
        // Release: its partner is the Acquire load in `sum`. (On x86-64 a plain store.)
        shard.returned.store(returned, Ordering::Release);
        true
    }

    #[cold]
    fn lent_slowly(&self, bytes: usize) {
        match slots::slot() {
            Some(slot) => {
                let shard = &self.shards[slot];
                add(&shard.allocations, 1);
                self.count_lent(shard, bytes as u64);
            }
            None => self.count_without_slot(bytes as u64, 0, 1),
        }
    }

    #[cold]
    fn returned_slowly(&self, bytes: usize) {
        match slots::slot() {
            Some(slot) => self.count_returned(&self.shards[slot], bytes as u64),
            None => self.count_without_slot(0, bytes as u64, 0),
        }
    }

    /// Counts a block that went from `old` to `new` bytes: only the difference, and no allocation.
    pub fn resized(&self, old: usize, new: usize) {
        let grown = new.saturating_sub(old) as u64;
        let shrunk = old.saturating_sub(new) as u64;
        match slots::slot() {
            Some(slot) if grown > 0 => self.count_lent(&self.shards[slot], grown),
            Some(slot) => self.count_returned(&self.shards[slot], shrunk),
            None => self.count_without_slot(grown, shrunk, 0),
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
        let highs = self.shards.iter().map(|shard| {
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
        if let Some(shard) = self.shard() {
            self.publish(shard, shard.live());
        }
        // Relaxed, all: as in `stats`. A thread that is counting may put its own high back, or not know
        // yet that it is gone. It is not replaced by another sum of that shard's, which might be an
        // old one and so too high: the thread would publish nothing until it has passed that.
        for shard in &self.shards {
            shard.high.store(i64::MIN, Ordering::Relaxed);
        }
        self.peak.store(0, Ordering::Relaxed);
        let _ = self.stats();
    }

    /// The sum of a counter over all shards.
    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards
            .iter()
            // Acquire: its partner is the Release in `add`: a block that is seen returned was lent
            // before, by a thread that told the one that returned it. And later sums come later.
            .map(|shard| counter(shard).load(Ordering::Acquire))
            .fold(0, u64::wrapping_add)
    }

    /// This thread's shard, if it has a slot.
    #[inline]
    fn shard(&self) -> Option<&Shard> {
        slots::held().map(|slot| &self.shards[slot])
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

    #[cold]
    fn count_without_slot(&self, lent: u64, returned: u64, allocations: u64) {
        let shard = &self.shards[SLOT_COUNT];
        // Relaxed: sums; see `stats` for why `returned` is a Release.
        shard.lent.fetch_add(lent, Ordering::Relaxed);
        shard.allocations.fetch_add(allocations, Ordering::Relaxed);
        shard.returned.fetch_add(returned, Ordering::Release);
        let difference = lent.wrapping_sub(returned) as i64;
        let sum = self.published.fetch_add(difference, Ordering::Relaxed) + difference;
        self.peak.fetch_max(sum, Ordering::Relaxed);
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

/// What one thread counted. Written by the holder of the slot only; wrapping sums.
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

    /// What the thread has lent and not taken back; below zero if it took back what others lent. For
    /// the holder of the slot.
    fn live(&self) -> i64 {
        // Relaxed, both: by invariant 1 nobody else writes them.
        let returned = self.returned.load(Ordering::Relaxed);
        self.lent.load(Ordering::Relaxed).wrapping_sub(returned) as i64
    }
}

/// Adds to a counter that only this thread writes.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    // Relaxed: by invariant 1 this thread wrote the value, or has acquired the slot since.
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    // Release: its partner is the Acquire load in `Tally::stats`. (On x86-64 a plain store.)
    counter.store(sum, Ordering::Release);
}

/// How far a shard's difference may go before it is added to what all threads see.
const PUBLISH_BYTES: i64 = 256 * KIB as i64;

/// How often sums are taken again that others changed meanwhile.
const TRIES: usize = 8;

#[cfg(all(test, not(loom)))]
mod tests;

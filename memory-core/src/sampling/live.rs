//! The records of sampling: the sites with their totals, and the live samples.
//!
//! Samples are in shards by the address of their slot. A shard's lock may be taken under a tree's mutex
//! ([`moved`]), so it is only held while one sample is looked up, linked or unlinked, or while the
//! samples of one shard are copied. [`report`] sorts its copies when no lock is held.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::gap::weight;
use crate::outcome::AllocatorInfo;
use crate::stack::{StackTrace, WordHasher};
use crate::sync::plain::{AtomicU64, AtomicUsize, copy_out};
use crate::sync::process::{Order, ProcessGuard};
use crate::sync::table::{Entry, Room, Table, spread};
use crate::sync::{Ordering, ProcessLock};

/// The maximum number of stacks that are kept apart.
pub const MAX_SITES: usize = 4096;

/// The maximum number of live samples that are kept.
pub const MAX_LIVE: usize = 1 << 16;

/// The maximum number of stacks that are kept apart for the growth of one allocation.
const MAX_GROWTH: usize = 16;

/// All that was sampled, by the stack that allocated it. Bytes and counts are unbiased estimates; the
/// [module](super) says why.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SampleReport {
    /// The sites, those with the most live bytes first.
    pub sites: Vec<SiteReport>,
    /// Samples that were not kept because there were [`MAX_LIVE`] already, or because one allocation grew
    /// at too many sites; their live bytes are missing.
    pub dropped: u64,
}

/// One site of a [`SampleReport`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SiteReport {
    /// The stack; `None` stands for all sites beyond [`MAX_SITES`].
    pub stack: Option<StackTrace>,
    /// The estimate of what is still held, by allocator, the one with the most bytes first.
    pub live: Vec<(AllocatorInfo, Estimate)>,
    /// The estimate of what was allocated there since the start, or since [`reset`].
    pub allocated: Estimate,
    /// The number of samples on which `allocated` is based.
    pub samples: u64,
}

/// An estimate of allocations and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The number of allocations.
    pub count: f64,
    /// The number of bytes.
    pub bytes: f64,
}

impl Estimate {
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

impl SiteReport {
    /// Returns the sum of `live` over all allocators.
    pub fn live_total(&self) -> Estimate {
        let mut total = Estimate::default();
        for (_, live) in &self.live {
            total.add(*live);
        }
        total
    }
}

/// The sites by the hashes of their stacks. The lock is held while one site is looked up or linked, or
/// while all are copied or set to zero.
static SITES: ProcessLock<Sites> = ProcessLock::new(
    Order::Inner,
    Sites {
        by_stack: Table::new(),
        other: Totals::ZERO,
    },
);

/// The samples by the addresses of the home slots of the sampled allocations, which are marked as
/// sampled. A shard's lock is held while one sample is looked up, linked or unlinked, or while all are
/// copied.
static SHARDS: [ProcessLock<Shard>; SHARD_COUNT] = [const {
    ProcessLock::new(
        Order::Inner,
        Shard {
            live: Table::new(),
            parts: 0,
        },
    )
}; SHARD_COUNT];

const SHARD_COUNT: usize = 64;

/// The number of samples that are kept.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The number of samples that were not kept.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of parts of live samples at the site `(other)`.
static OTHER_ALIVE: AtomicU64 = AtomicU64::new(0);

struct Sites {
    by_stack: Table<(Arc<Site>, Totals)>,
    /// The totals of all stacks beyond the maximum that is kept apart.
    other: Totals,
}

/// A stack, and the number of parts of live samples there.
struct Site {
    stack: StackTrace,
    alive: AtomicU64,
}

#[derive(Clone, Copy)]
struct Totals {
    allocated: Estimate,
    samples: u64,
}

impl Totals {
    const ZERO: Self = Self {
        allocated: Estimate {
            count: 0.0,
            bytes: 0.0,
        },
        samples: 0,
    };

    fn add(&mut self, estimate: Estimate) {
        self.allocated.add(estimate);
        self.samples += 1;
    }
}

struct Shard {
    live: Table<Sample>,
    /// The number of parts of all samples of the shard.
    parts: usize,
}

/// A sampled allocation.
struct Sample {
    /// The allocator that is charged.
    allocator: AllocatorInfo,
    part: Part,
    /// The parts that were sampled when the same allocation grew, as a list.
    growth: Option<Box<Growth>>,
}

struct Growth {
    part: Part,
    next: Option<Box<Growth>>,
}

/// One site of a sample, and the estimate that it stands for.
struct Part {
    /// The site that allocated it; `None` stands for `(other)`.
    site: Option<Arc<Site>>,
    /// The estimated bytes shrink when the allocation does.
    stands_for: Estimate,
}

impl Part {
    fn new(site: Option<Arc<Site>>, stands_for: Estimate) -> Self {
        // Relaxed: a count that `reset` reads under the lock of the sites, under which each part is
        // created.
        alive(site.as_ref()).fetch_add(1, Ordering::Relaxed);
        Self { site, stands_for }
    }

    fn is_of(&self, other: &Self) -> bool {
        same_site(self.site.as_ref(), other.site.as_ref())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Relaxed: a count; `reset` may keep a site whose last part is dropped meanwhile.
        alive(self.site.as_ref()).fetch_sub(1, Ordering::Relaxed);
    }
}

fn alive(site: Option<&Arc<Site>>) -> &AtomicU64 {
    site.map_or(&OTHER_ALIVE, |site| &site.alive)
}

fn same_site(a: Option<&Arc<Site>>, b: Option<&Arc<Site>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Sample {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let growth = std::iter::successors(self.growth.as_deref(), |growth| growth.next.as_deref());
        std::iter::once(&self.part).chain(growth.map(|growth| &growth.part))
    }

    fn each(&mut self, mut change: impl FnMut(&mut Part)) {
        change(&mut self.part);
        let mut at = self.growth.as_deref_mut();
        while let Some(growth) = at {
            change(&mut growth.part);
            at = growth.next.as_deref_mut();
        }
    }

    /// Adds the part that was sampled when the allocation grew, unless it has too many parts already.
    fn grow(&mut self, growth: &mut Option<Box<Growth>>) -> Grown {
        let Some(new) = growth.as_mut() else {
            return Grown::Merged;
        };
        let mut merged = false;
        let mut count = 0;
        self.each(|part| {
            count += 1;
            if !merged && part.is_of(&new.part) {
                part.stands_for.add(new.part.stands_for);
                merged = true;
            }
        });
        if merged {
            return Grown::Merged;
        }
        if count > MAX_GROWTH {
            return Grown::Dropped;
        }
        new.next = self.growth.take();
        self.growth = growth.take();
        Grown::Added
    }
}

/// The result of adding a growth to a sample.
enum Grown {
    Added,
    Merged,
    Dropped,
}

fn shard(slot: usize) -> ProcessGuard<Shard> {
    // The table uses the lowest bits, so this picks the shard by others.
    SHARDS[(spread(slot) >> 32) as usize % SHARD_COUNT].lock()
}

/// Records an allocation, or growth, of `bytes` that contains a point. If it returns `true`, the caller
/// has to mark the slot as sampled, and to call [`forget`] before the slot is given back. The caller has
/// the only reference.
#[cold]
pub(crate) fn record(slot: usize, allocator: &AllocatorInfo, bytes: usize, scale: u64) -> bool {
    let stack = StackTrace::capture();
    let count = weight(bytes, scale);
    let stands_for = Estimate {
        count,
        bytes: bytes as f64 * count,
    };
    // If the sample is not kept, dropping the part takes it out of its site's count.
    let part = count_at(stack, stands_for);
    // Relaxed, all: a bound that threads which record at the same time may pass by one each.
    if LIVE.load(Ordering::Relaxed) >= MAX_LIVE {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return false;
    }
    follow(slot, allocator, part)
}

/// Counts an allocation at its site, and creates the site if there is room. The returned part is counted
/// as alive before the lock is released, so that [`reset`] neither forgets the site nor counts one sample
/// too few.
fn count_at(stack: StackTrace, stands_for: Estimate) -> Part {
    let mut hasher = WordHasher::default();
    stack.hash(&mut hasher);
    let key = hasher.finish() as usize;
    // Created before the lock is taken, and dropped after it if not needed.
    let site = Arc::new(Site {
        stack,
        alive: AtomicU64::new(0),
    });
    let mut made = Some(Entry::new(key, (Arc::clone(&site), Totals::ZERO)));
    let mut room = Room::default();
    loop {
        room.prepare();
        let mut sites = SITES.lock();
        if let Some((known, totals)) = sites
            .by_stack
            .find_mut(key, |(known, _)| known.stack == stack)
        {
            totals.add(stands_for);
            return Part::new(Some(Arc::clone(known)), stands_for);
        }
        if sites.by_stack.len() >= MAX_SITES {
            sites.other.add(stands_for);
            return Part::new(None, stands_for);
        }
        if room.is_in(&mut sites.by_stack)
            && let Some(mut entry) = made.take()
        {
            entry.value.1.add(stands_for);
            sites.by_stack.insert(entry);
            return Part::new(Some(site), stands_for);
        }
    }
}

/// Keeps a sample of the allocation at `slot`. If there is one already, the allocation grew, and the part
/// is added to it.
fn follow(slot: usize, allocator: &AllocatorInfo, part: Part) -> bool {
    // Created before the lock is taken; if not needed, it is dropped after that. The part is moved, not
    // copied, because each existing part counts as alive.
    let mut sample = Some(Entry::new(
        slot,
        Sample {
            allocator: allocator.clone(),
            part,
            growth: None,
        },
    ));
    let mut growth = None;
    let mut room = Room::default();
    loop {
        room.prepare();
        let mut shard = shard(slot);
        if let Some(known) = shard.live.get_mut(slot) {
            if let Some(sample) = sample.take() {
                drop(shard);
                let Entry { value, .. } = *sample;
                growth = Some(Box::new(Growth {
                    part: value.part,
                    next: None,
                }));
                continue;
            }
            match known.grow(&mut growth) {
                Grown::Added => shard.parts += 1,
                Grown::Merged => {}
                // Relaxed: a number for reports.
                Grown::Dropped => drop(DROPPED.fetch_add(1, Ordering::Relaxed)),
            }
            return true;
        }
        if !room.is_in(&mut shard.live) {
            continue;
        }
        // The sample is still here: it is taken only once the slot is found in the table, where the caller's
        // sole reference keeps it.
        let Some(sample) = sample.take() else {
            return false;
        };
        shard.live.insert(sample);
        shard.parts += 1;
        // Relaxed: a bound.
        LIVE.fetch_add(1, Ordering::Relaxed);
        return true;
    }
}

/// Forgets the samples of an allocation that is about to be freed.
#[cold]
pub(crate) fn forget(slot: usize) {
    let mut shard = shard(slot);
    let gone = shard.live.remove(slot);
    let parts = gone.as_ref().map_or(0, |gone| gone.value.parts().count());
    shard.parts -= parts;
    drop(shard);
    if gone.is_some() {
        // Relaxed: a bound.
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Notes that the charge of an allocation moved. May be called under a tree's mutex; the caller drops the
/// returned value after it has released that.
#[cold]
#[must_use = "dropped when no lock is held: it may be the last of its kind"]
pub(crate) fn moved(slot: usize, to: &AllocatorInfo) -> Option<AllocatorInfo> {
    let mut shard = shard(slot);
    let sample = shard.live.get_mut(slot)?;
    Some(std::mem::replace(&mut sample.allocator, to.clone()))
}

/// Notes that an allocation shrank: the estimated bytes of its samples shrink in proportion.
#[cold]
pub(crate) fn resized(slot: usize, old_size: usize, new_size: usize) {
    let share = new_size as f64 / old_size as f64;
    if let Some(sample) = shard(slot).live.get_mut(slot) {
        sample.each(|part| part.stands_for.bytes *= share);
    }
}

/// Returns all that was sampled since the start, or since [`reset`].
///
/// Copies the sites and samples under their locks, one shard at a time, so the numbers of different
/// shards may be of different instants.
pub fn report() -> SampleReport {
    let mut sites: Vec<(Option<Arc<Site>>, Totals)> = Vec::new();
    copy_out(
        &mut sites,
        || SITES.lock(),
        |sites| sites.by_stack.len() + 1,
        |sites, copy| {
            copy.push((None, sites.other));
            let known = sites.by_stack.iter().map(|entry| &entry.value);
            copy.extend(known.map(|(site, totals)| (Some(Arc::clone(site)), *totals)));
        },
    );
    let address = |site: &Option<Arc<Site>>| site.as_ref().map(|site| Arc::as_ptr(site).addr());
    let indices = sites.iter().enumerate();
    let index_of: HashMap<Option<usize>, usize> = indices
        .map(|(index, (site, _))| (address(site), index))
        .collect();
    let mut live: Vec<HashMap<AllocatorInfo, Estimate>> = vec![HashMap::new(); sites.len()];
    for shard in &SHARDS {
        let mut parts = Vec::new();
        copy_out(
            &mut parts,
            || shard.lock(),
            |shard| shard.parts,
            |shard, copy| {
                for Entry { value, .. } in shard.live.iter() {
                    let allocator = &value.allocator;
                    copy.extend(
                        value
                            .parts()
                            .map(|part| (part.site.clone(), allocator.clone(), part.stands_for)),
                    );
                }
            },
        );
        for (site, allocator, stands_for) in parts {
            // A site that was created after the sites were copied is left out.
            if let Some(&index) = index_of.get(&address(&site)) {
                live[index].entry(allocator).or_default().add(stands_for);
            }
        }
    }
    let sites = sites.into_iter().zip(live);
    let mut sites: Vec<SiteReport> = sites
        .filter(|((_, totals), _)| totals.samples > 0)
        .map(|((site, totals), live)| SiteReport::new(site.as_deref(), totals, live))
        .collect();
    sites.sort_by(|a, b| {
        let live = b.live_total().bytes.total_cmp(&a.live_total().bytes);
        live.then(b.allocated.bytes.total_cmp(&a.allocated.bytes))
    });
    SampleReport {
        sites,
        // Relaxed: a number for a report.
        dropped: DROPPED.load(Ordering::Relaxed),
    }
}

impl SiteReport {
    fn new(site: Option<&Site>, totals: Totals, live: HashMap<AllocatorInfo, Estimate>) -> Self {
        let mut live: Vec<(AllocatorInfo, Estimate)> = live.into_iter().collect();
        live.sort_by(|(a, x), (b, y)| y.bytes.total_cmp(&x.bytes).then(a.id.cmp(&b.id)));
        Self {
            stack: site.map(|site| site.stack),
            live,
            allocated: totals.allocated,
            samples: totals.samples,
        }
    }
}

/// Sets the totals of all sites to zero, and forgets the sites that have no live sample.
pub fn reset() {
    // Relaxed, all: numbers for reports.
    DROPPED.store(0, Ordering::Relaxed);
    let alive = |count: &AtomicU64| Totals {
        samples: count.load(Ordering::Relaxed),
        ..Totals::ZERO
    };
    let mut sites = SITES.lock();
    sites.other = alive(&OTHER_ALIVE);
    let forgotten = sites.by_stack.remove_all(|(site, totals)| {
        *totals = alive(&site.alive);
        totals.samples == 0
    });
    drop(sites);
    drop(forgotten);
}

#[cfg(all(test, not(loom)))]
mod tests;

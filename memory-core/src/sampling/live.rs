//! What was sampled: the sites with their totals, and the samples that are alive.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::gap::weight;
use crate::debug::{StackTrace, WordHasher};
use crate::outcome::AllocatorInfo;
use crate::sync::plain::{Mutex, MutexGuard, lock};

/// The most stacks that are kept apart.
pub const MOST_SITES: usize = 4096;

/// The most samples that are followed at a time.
pub const MOST_LIVE: usize = 1 << 16;

/// The most stacks that are kept apart of the growth of one allocation.
const MOST_GROWTH: usize = 16;

/// Everything that was sampled, by the stack that allocated it. Bytes and counts are estimates,
/// unbiased; see the [module](super).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SampleReport {
    /// The sites, those with the most live bytes first.
    pub sites: Vec<SiteReport>,
    /// Samples that were not followed because too many were alive; their live bytes are missing.
    pub dropped: u64,
}

/// One site of a [`SampleReport`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SiteReport {
    /// The stack; `None` stands for all sites beyond the most that are kept apart.
    pub stack: Option<StackTrace>,
    /// What is alive of it, by allocator, the most bytes first.
    pub live: Vec<(AllocatorInfo, Estimate)>,
    /// What was allocated there since the start, or since [`reset`].
    pub allocated: Estimate,
    /// How many samples that is made of.
    pub samples: u64,
}

/// An estimate of allocations and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// How many allocations.
    pub count: f64,
    /// How many bytes.
    pub bytes: f64,
}

impl Estimate {
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

impl SiteReport {
    /// What is alive of it in all allocators.
    pub fn live_total(&self) -> Estimate {
        let mut total = Estimate::default();
        for (_, live) in &self.live {
            total.add(*live);
        }
        total
    }
}

#[derive(Default)]
struct Samples {
    sites: Vec<SiteTotals>,
    site_of: HashMap<StackTrace, usize, BuildHasherDefault<WordHasher>>,
    /// By the address of the home slot of the sampled allocation, which is marked as sampled.
    live: HashMap<usize, Sample, BuildHasherDefault<WordHasher>>,
    dropped: u64,
}

struct SiteTotals {
    stack: Option<StackTrace>,
    allocated: Estimate,
    samples: u64,
}

struct Sample {
    site: usize,
    /// Who is charged for it.
    allocator: AllocatorInfo,
    /// What it stands for; the bytes shrink if the allocation does.
    stands_for: Estimate,
    /// What was sampled when the same allocation grew.
    growth: Vec<Sample>,
}

impl Sample {
    fn and_growth(&self) -> impl Iterator<Item = &Sample> {
        std::iter::once(self).chain(&self.growth)
    }

    fn each(&mut self, mut change: impl FnMut(&mut Sample)) {
        change(self);
        self.growth.iter_mut().for_each(change);
    }
}

static SAMPLES: Mutex<Option<Samples>> = Mutex::new(None);

/// Calls `with` with the samples locked.
fn samples<T>(with: impl FnOnce(&mut Samples) -> T) -> T {
    let mut samples: MutexGuard<'_, Option<Samples>> = lock(&SAMPLES);
    with(samples.get_or_insert_default())
}

/// Records an allocation, or growth, of `bytes` that is due. `true`: the caller has to mark the
/// slot as sampled, and call [`forget`] before it is given back. The caller has the only reference.
#[cold]
pub(crate) fn record(slot: usize, allocator: &AllocatorInfo, bytes: usize, scale: u64) -> bool {
    let stack = StackTrace::capture();
    let count = weight(bytes, scale);
    let stands_for = Estimate {
        count,
        bytes: bytes as f64 * count,
    };
    samples(|samples| {
        let site = samples.site(stack);
        samples.sites[site].allocated.add(stands_for);
        samples.sites[site].samples += 1;
        if samples.live.len() >= MOST_LIVE {
            samples.dropped += 1;
            return false;
        }
        samples.follow(
            slot,
            Sample {
                site,
                allocator: allocator.clone(),
                stands_for,
                growth: Vec::new(),
            },
        );
        true
    })
}

/// Forgets the samples of an allocation that goes.
#[cold]
pub(crate) fn forget(slot: usize) {
    let gone = samples(|samples| samples.live.remove(&slot));
    drop(gone);
}

/// Notes that the charge of an allocation moved. May be called under a tree's mutex.
#[cold]
pub(crate) fn moved(slot: usize, to: &AllocatorInfo) {
    samples(|samples| {
        if let Some(sample) = samples.live.get_mut(&slot) {
            sample.each(|sample| sample.allocator.clone_from(to));
        }
    });
}

/// Notes that an allocation shrank: its samples stand for as much less.
#[cold]
pub(crate) fn resized(slot: usize, old_size: usize, new_size: usize) {
    let share = new_size as f64 / old_size as f64;
    samples(|samples| {
        if let Some(sample) = samples.live.get_mut(&slot) {
            sample.each(|sample| sample.stands_for.bytes *= share);
        }
    });
}

/// What was sampled since the start, or since [`reset`].
pub fn report() -> SampleReport {
    samples(|samples| samples.report())
}

/// Sets the totals of what was allocated to zero, and forgets sites of which nothing is alive.
pub fn reset() {
    samples(Samples::reset);
}

impl Samples {
    /// The index of a stack's site.
    fn site(&mut self, stack: StackTrace) -> usize {
        if let Some(&site) = self.site_of.get(&stack) {
            return site;
        }
        if self.sites.is_empty() {
            self.sites.push(SiteTotals::new(None));
        }
        if self.sites.len() > MOST_SITES {
            return 0;
        }
        self.sites.push(SiteTotals::new(Some(stack)));
        let site = self.sites.len() - 1;
        self.site_of.insert(stack, site);
        site
    }

    /// Keeps a sample of the allocation at `slot`; of one that grew, a few.
    fn follow(&mut self, slot: usize, sample: Sample) {
        let Some(first) = self.live.get_mut(&slot) else {
            self.live.insert(slot, sample);
            return;
        };
        let mut known = first.growth.iter_mut();
        if first.site == sample.site {
            first.stands_for.add(sample.stands_for);
        } else if let Some(known) = known.find(|known| known.site == sample.site) {
            known.stands_for.add(sample.stands_for);
        } else if first.growth.len() < MOST_GROWTH {
            first.growth.push(sample);
        } else {
            self.dropped += 1;
        }
    }

    fn report(&self) -> SampleReport {
        let mut live: Vec<HashMap<&AllocatorInfo, Estimate>> =
            vec![HashMap::new(); self.sites.len()];
        for sample in self.live.values().flat_map(Sample::and_growth) {
            let estimate = live[sample.site].entry(&sample.allocator).or_default();
            estimate.add(sample.stands_for);
        }
        let sites = self
            .sites
            .iter()
            .zip(live)
            .filter(|(site, _)| site.samples > 0);
        let mut sites: Vec<SiteReport> = sites
            .map(|(site, live)| {
                let mut live: Vec<(AllocatorInfo, Estimate)> = live
                    .into_iter()
                    .map(|(allocator, estimate)| (allocator.clone(), estimate))
                    .collect();
                live.sort_by(|(a, x), (b, y)| y.bytes.total_cmp(&x.bytes).then(a.id.cmp(&b.id)));
                SiteReport {
                    stack: site.stack,
                    live,
                    allocated: site.allocated,
                    samples: site.samples,
                }
            })
            .collect();
        sites.sort_by(|a, b| {
            let live = b.live_total().bytes.total_cmp(&a.live_total().bytes);
            live.then(b.allocated.bytes.total_cmp(&a.allocated.bytes))
        });
        SampleReport {
            sites,
            dropped: self.dropped,
        }
    }

    fn reset(&mut self) {
        let before = std::mem::take(&mut self.sites);
        self.site_of.clear();
        self.dropped = 0;
        let mut moved = HashMap::new();
        let mut live = std::mem::take(&mut self.live);
        let mut move_to_new = |sample: &mut Sample| {
            let site = *moved.entry(sample.site).or_insert_with(|| {
                let site = match before[sample.site].stack {
                    Some(stack) => self.site(stack),
                    None => 0,
                };
                if self.sites.is_empty() {
                    self.sites.push(SiteTotals::new(None));
                }
                site
            });
            sample.site = site;
            self.sites[site].samples += 1;
        };
        for sample in live.values_mut() {
            sample.each(&mut move_to_new);
        }
        self.live = live;
    }
}

impl SiteTotals {
    fn new(stack: Option<StackTrace>) -> Self {
        Self {
            stack,
            allocated: Estimate::default(),
            samples: 0,
        }
    }
}

//! Numbers for the `metrics` facade (feature `metrics`): [`MetricsExporter`].

use std::collections::BTreeMap;

use metrics::{counter, gauge};

use crate::allocator::{BufferAllocator, WeakBufferAllocator};
use crate::report::AllocatorSnapshot;

/// Publishes the numbers of a tree through the [`metrics`] facade each time that it is asked to.
///
/// | metric | labels | what |
/// |---|---|---|
/// | `arrow_memory_allocated_bytes` | `allocator` | gauge: allocated now |
/// | `arrow_memory_peak_bytes` | `allocator` | gauge: the peak, or the epoch's |
/// | `arrow_memory_limit_bytes` | `allocator` | gauge: the limit; absent if there is none |
/// | `arrow_memory_reservation_bytes` | `allocator` | gauge: the initial reservation |
/// | `arrow_memory_buffers` | `allocator` | gauge: allocations that it owns (with `.statistics(true)`) |
/// | `arrow_memory_refusals_total` | `allocator` | counter: requests refused |
/// | `arrow_memory_forced_bytes_total` | `allocator` | counter: bytes charged by force |
/// | `arrow_memory_manager_{live,peak,cached,active,resident,retained}_bytes` | `manager` | gauges, as far as the backend knows them |
/// | `arrow_memory_manager_allocations_total` | `manager` | counter: blocks handed out |
/// | `arrow_memory_accounted_bytes` | `root` | gauge: see [`MemoryTotals`](crate::MemoryTotals) |
/// | `arrow_memory_held_bytes` | `manager` | gauge: the same |
/// | `arrow_memory_resident_bytes` | | gauge: the same |
///
/// `allocator` is the path of names from the root, joined by `/`. Allocators of the same path are
/// added up (of peaks and limits, the largest counts), so that queries that come and go under one
/// name do not add series. A path that has gone is set to 0.
///
/// Keeps no allocator alive.
#[derive(Debug)]
pub struct MetricsExporter {
    root: WeakBufferAllocator,
    peaks: Peaks,
    /// By path: what was published last.
    published: BTreeMap<String, Numbers>,
    /// By path: what counters had reached when an allocator of the path went.
    counted: BTreeMap<String, BTreeMap<u64, (u64, u64)>>,
}

/// Which peaks a [`MetricsExporter`] publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peaks {
    /// Since the allocator was created.
    #[default]
    EverReached,
    /// Since the last export, which starts a new epoch: [`BufferAllocator::reset_peak`].
    OfEpoch,
}

#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    allocated: usize,
    peak: usize,
    limit: Option<usize>,
    reservation: usize,
    buffers: Option<u64>,
}

impl MetricsExporter {
    /// An exporter of this allocator and all below it.
    pub fn new(root: &BufferAllocator) -> Self {
        Self {
            root: root.downgrade(),
            peaks: Peaks::default(),
            published: BTreeMap::new(),
            counted: BTreeMap::new(),
        }
    }

    /// Chooses the peaks.
    #[must_use]
    pub fn peaks(mut self, peaks: Peaks) -> Self {
        self.peaks = peaks;
        self
    }

    /// Publishes the numbers as they are now. Takes the tree's lock, O(subtree); call it before a
    /// scrape, or every few seconds. `false`: the tree has gone.
    pub fn export(&mut self) -> bool {
        let Some(root) = self.root.upgrade() else {
            self.publish(BTreeMap::new());
            return false;
        };
        let snapshot = root.snapshot();
        if self.peaks == Peaks::OfEpoch {
            reset_peaks(&root);
        }
        self.count(&snapshot);
        self.publish(numbers_of(&snapshot));
        publish_manager(&root);
        true
    }

    fn publish(&mut self, now: BTreeMap<String, Numbers>) {
        for (path, numbers) in &now {
            publish(path, numbers);
        }
        for (path, before) in &self.published {
            if !now.contains_key(path) {
                let gone = Numbers {
                    buffers: before.buffers.map(|_| 0),
                    ..Numbers::default()
                };
                publish(path, &gone);
            }
        }
        self.published = now;
    }

    /// Adds what the counters have gained since the last export.
    fn count(&mut self, snapshot: &AllocatorSnapshot) {
        let mut counted: BTreeMap<String, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
        for (path, entry) in with_paths(snapshot) {
            let id = entry.allocator.id.as_u64();
            let now = (entry.stats.refusals, entry.stats.forced_bytes);
            let before = self.counted.get(&path).and_then(|known| known.get(&id));
            let (refusals, forced) = before.copied().unwrap_or_default();
            counter!("arrow_memory_refusals_total", "allocator" => path.clone())
                .increment(now.0.saturating_sub(refusals));
            counter!("arrow_memory_forced_bytes_total", "allocator" => path.clone())
                .increment(now.1.saturating_sub(forced));
            counted.entry(path).or_default().insert(id, now);
        }
        self.counted = counted;
    }
}

/// Starts a new epoch of the peaks in the whole subtree.
fn reset_peaks(root: &BufferAllocator) {
    let mut left = vec![root.clone()];
    while let Some(allocator) = left.pop() {
        allocator.reset_peak();
        left.extend(allocator.child_allocators());
    }
}

fn with_paths(
    snapshot: &AllocatorSnapshot,
) -> impl Iterator<Item = (String, &crate::report::SnapshotEntry)> {
    let mut path: Vec<&str> = Vec::new();
    snapshot.entries.iter().map(move |entry| {
        path.truncate(entry.depth);
        path.push(&entry.allocator.name);
        (path.join("/"), entry)
    })
}

fn numbers_of(snapshot: &AllocatorSnapshot) -> BTreeMap<String, Numbers> {
    let mut numbers: BTreeMap<String, Numbers> = BTreeMap::new();
    for (path, entry) in with_paths(snapshot) {
        let sum = numbers.entry(path).or_default();
        sum.allocated += entry.allocated;
        sum.peak = sum.peak.max(entry.peak);
        let limit = (entry.limit <= isize::MAX as usize).then_some(entry.limit);
        sum.limit = sum.limit.max(limit);
        sum.reservation += entry.reservation;
        if let Some(live) = entry.stats.live_buffers {
            *sum.buffers.get_or_insert(0) += live;
        }
    }
    numbers
}

fn publish(path: &str, numbers: &Numbers) {
    let Numbers {
        allocated,
        peak,
        limit,
        reservation,
        buffers,
    } = *numbers;
    let path = || path.to_owned();
    gauge!("arrow_memory_allocated_bytes", "allocator" => path()).set(allocated as f64);
    gauge!("arrow_memory_peak_bytes", "allocator" => path()).set(peak as f64);
    gauge!("arrow_memory_reservation_bytes", "allocator" => path()).set(reservation as f64);
    if let Some(limit) = limit {
        gauge!("arrow_memory_limit_bytes", "allocator" => path()).set(limit as f64);
    }
    if let Some(buffers) = buffers {
        gauge!("arrow_memory_buffers", "allocator" => path()).set(buffers as f64);
    }
}

fn publish_manager(root: &BufferAllocator) {
    let manager = || root.allocation_manager().name().to_owned();
    let stats = root.allocation_manager().stats();
    let totals = root.memory_totals();
    let known = [
        ("arrow_memory_manager_live_bytes", stats.live_bytes),
        ("arrow_memory_manager_peak_bytes", stats.peak_bytes),
        ("arrow_memory_manager_cached_bytes", stats.cached_bytes),
        ("arrow_memory_manager_active_bytes", stats.active_bytes),
        ("arrow_memory_manager_resident_bytes", stats.resident_bytes),
        ("arrow_memory_manager_retained_bytes", stats.retained_bytes),
        ("arrow_memory_held_bytes", totals.held_bytes),
    ];
    for (name, bytes) in known {
        if let Some(bytes) = bytes {
            gauge!(name, "manager" => manager()).set(bytes as f64);
        }
    }
    if let Some(allocations) = stats.allocations {
        counter!("arrow_memory_manager_allocations_total", "manager" => manager())
            .absolute(allocations);
    }
    let name = root.root_allocator().name().to_owned();
    gauge!("arrow_memory_accounted_bytes", "root" => name).set(totals.accounted_bytes as f64);
    if let Some(resident) = totals.resident_bytes {
        gauge!("arrow_memory_resident_bytes").set(resident as f64);
    }
}

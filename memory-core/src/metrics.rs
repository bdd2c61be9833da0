//! Export of numbers to the `metrics` facade (feature `metrics`): [`MetricsExporter`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use metrics::{counter, gauge};

mod described;

use arrow_memory_manager::AllocationManager;

use crate::accounting::{Census, Paths};
use crate::allocator::{BufferAllocator, WeakBufferAllocator};
use crate::outcome::AllocatorId;
use crate::report::SnapshotEntry;
use crate::text::Escaped;
use crate::totals;

/// Publishes the numbers of a tree through the [`metrics`] facade on each call of
/// [`export`](Self::export).
///
/// | metric | labels | meaning |
/// |---|---|---|
/// | `arrow_memory_allocated_bytes` | `allocator` | gauge: bytes allocated now |
/// | `arrow_memory_peak_bytes` | `allocator` | gauge: the peak, ever or of the epoch ([`Peaks`]) |
/// | `arrow_memory_limit_bytes` | `allocator` | gauge: the limit; absent if there never was one |
/// | `arrow_memory_reservation_bytes` | `allocator` | gauge: the live reservation |
/// | `arrow_memory_live_allocations` | `allocator` | gauge: allocations owned (with `.statistics(true)`) |
/// | `arrow_memory_refusals_total` | `allocator` | counter: requests refused |
/// | `arrow_memory_forced_bytes_total` | `allocator` | counter: bytes charged by force |
/// | `arrow_memory_manager_{live,peak,cached}_bytes` | `manager` | gauges, if the backend has them |
/// | `arrow_memory_manager_{active,resident,retained}_bytes` | `manager` | gauges, if the backend has them |
/// | `arrow_memory_manager_allocations_total` | `manager` | counter: blocks handed out |
/// | `arrow_memory_accounted_bytes` | `root` | gauge: bytes charged in the tree, see [`MemoryTotals`] |
/// | `arrow_memory_waiting_requests` | `root` | gauge: requests that wait for memory in the tree |
/// | `arrow_memory_waiting_bytes` | `root` | gauge: the bytes that they wait for |
/// | `arrow_memory_waits_total` | `root` | counter: requests that began to wait |
/// | `arrow_memory_waited_seconds_total` | `root` | counter: whole seconds that requests waited |
/// | `arrow_memory_give_ways_total` | `root` | counter: requests that were told to give way |
/// | `arrow_memory_held_bytes` | `manager` | gauge: bytes held by the backend, see [`MemoryTotals`] |
/// | `arrow_memory_resident_bytes` | | gauge: bytes resident in the process, see [`MemoryTotals`] |
///
/// [`MemoryTotals`]: crate::MemoryTotals
///
/// The first export describes all metrics with their units, so that a Prometheus page has `# HELP` lines.
/// Install the recorder before that.
///
/// # Paths
///
/// The label `allocator` is the path from the exporter's allocator down, joined by `/`. Each allocator on
/// the path contributes its [group](crate::ChildAllocatorBuilder::group), or its name if it has no group.
/// Names and groups are escaped as in error messages (`/` is `\/`), so that two different paths never
/// look alike.
///
/// Allocators of one path share a series: the sum of their allocated bytes, reservations, live
/// allocations and counters, and the maximum of their peaks and limits. The peak of a path that several
/// allocators share is therefore the peak of one of them, and not of their sum, which their parent's peak
/// covers.
///
/// # Number of series
///
/// Each path adds about seven series, for the life of the process. Two choices bound the paths:
///
/// * [`group`](crate::ChildAllocatorBuilder::group) gives many allocators with unique names one label;
/// * [`max_depth`](Self::max_depth) adds the numbers of deeper allocators to those of their ancestor.
///
/// Without either, the children of one path have at most 1,000 labels, and a tree has at most 10,000
/// paths. Beyond that, new children with new labels, and all allocators below them, have the label
/// `(other)` below their parent's path.
///
/// # Allocators that have left the tree
///
/// Counters lose nothing. A tree keeps the counts of each path for its whole life. So an allocator that
/// was created and left between two exports is counted under its path, as are the events before the first
/// export. A counter never decreases. All allocators of a path share its counters, so an exporter of an
/// allocator other than the root also publishes the counts of other allocators of the same path in the
/// tree: give such an allocator a path of its own.
///
/// The gauges of a path without allocators, including its limit, are set to 0, and are not changed again
/// until there is an allocator of this path. The facade cannot remove them, but a recorder may:
/// `PrometheusBuilder::idle_timeout(MetricKindMask::GAUGE, …)` of `metrics-exporter-prometheus` drops
/// gauges that were not set for some time (choose more than the time between two exports). Leave counters
/// out of that mask: a counter that was dropped starts again at 0.
///
/// # Peaks
///
/// A peak is exact for an allocator without children that few threads share, and for every allocator of a
/// tree that was built with [`.credit(0)`](crate::RootAllocatorBuilder::credit). Any other peak may be too
/// high, by at most the credit that was outstanding at and below the allocator at that moment (at most
/// 1 MiB for each allocator by default). No peak is ever too low. To size a limit by its peak, measure with
/// `.credit(0)`.
///
/// An exporter keeps no allocator alive.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{MetricsExporter, RootAllocator};
///
/// let root = RootAllocator::builder().name("server").limit(1 << 30).build()?;
/// let mut exporter = MetricsExporter::new(&root).max_depth(2);
/// let query = root.child("query-7").group("query").build()?; // the path `server/query`
/// assert!(exporter.export()); // before each scrape
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MetricsExporter {
    root: WeakBufferAllocator,
    /// The escaped name of the tree's root.
    root_name: String,
    manager: Weak<dyn AllocationManager>,
    /// The backend's name, and the gauges that were published for it.
    manager_name: String,
    manager_gauges: Vec<&'static str>,
    /// The paths of the tree. They are kept here beyond the tree's end, so that the last export misses
    /// nothing.
    paths: Paths,
    /// The index of the path of the exporter's allocator.
    top: usize,
    peaks: Peaks,
    max_depth: usize,
    described: bool,
    /// The gauges of the last export, by series.
    published: BTreeMap<usize, Gauges>,
    /// The counts that were added to the counters so far, by series.
    counted: BTreeMap<usize, Counts>,
    /// The series whose limit was published at least once.
    limited: BTreeSet<usize>,
    /// The sums of the waits that were published.
    waits: [u64; 3],
}

/// The peaks that a [`MetricsExporter`] publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peaks {
    /// The peaks since the allocators were created.
    #[default]
    EverReached,
    /// The peaks since the last export, which starts a new epoch by [`BufferAllocator::reset_peak`].
    OfEpoch,
}

/// The gauges of one series.
#[derive(Clone, Copy, Debug, Default)]
struct Gauges {
    allocated: usize,
    peak: usize,
    limit: Option<usize>,
    reservation: usize,
    live_allocations: Option<u64>,
}

/// The counters of one series.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refusals: u64,
    forced_bytes: u64,
}

/// The series of one export. The key of a series is the index of its first path.
#[derive(Default)]
struct SeriesTable {
    /// The series of each path, and the depth of that series.
    of_path: HashMap<usize, (usize, usize)>,
    /// The label and the counts of each series.
    series: BTreeMap<usize, (Arc<str>, Counts)>,
}

impl MetricsExporter {
    /// Creates an exporter of this allocator and all below it.
    pub fn new(root: &BufferAllocator) -> Self {
        let node = root.node();
        Self {
            root: root.downgrade(),
            root_name: Escaped(root.root_allocator().name()).to_string(),
            manager: Arc::downgrade(root.allocation_manager()),
            manager_name: root.allocation_manager().name().to_owned(),
            manager_gauges: Vec::new(),
            paths: node.tree.paths().clone(),
            top: node.path.index,
            peaks: Peaks::default(),
            max_depth: usize::MAX,
            described: false,
            published: BTreeMap::new(),
            counted: BTreeMap::new(),
            limited: BTreeSet::new(),
            waits: [0; 3],
        }
    }

    /// Selects the peaks to publish; [`Peaks::EverReached`] by default.
    #[must_use]
    pub fn peaks(mut self, peaks: Peaks) -> Self {
        self.peaks = peaks;
        self
    }

    /// Sets the maximum number of levels below the exporter's allocator that have series of their own:
    /// with 1, the allocator and its children have series. There is no maximum by default.
    ///
    /// The numbers of deeper allocators are added to those of their ancestor at that depth. Its allocated
    /// bytes, peak, limit and reservation are its own, which include all below it already; live
    /// allocations, refusals and forced bytes are added up.
    #[must_use]
    pub fn max_depth(mut self, levels: usize) -> Self {
        self.max_depth = levels;
        self
    }

    /// Publishes the current numbers; returns `false` once the tree is gone.
    ///
    /// Call it before a scrape, or every few seconds. O(subtree) under the tree's lock.
    pub fn export(&mut self) -> bool {
        if !std::mem::replace(&mut self.described, true) {
            described::describe();
        }
        let root = self.root.upgrade();
        let census = root.as_ref().map(|root| root.handle.census());
        let peaks = match &root {
            Some(root) if self.peaks == Peaks::OfEpoch => reset_peaks(root),
            _ => HashMap::new(),
        };
        // Read after the census, which adds the counts of the allocators since the last one.
        let table = self.series();
        let now = census.map(|census| gauges_of(&census, &peaks, &table));
        let now = now.unwrap_or_default();
        self.count(&table, &now);
        self.publish(&table, now);
        let accounted = root
            .as_ref()
            .map_or(0, |root| root.root_allocator().allocated_memory());
        gauge!(described::ACCOUNTED, "root" => self.root_name.clone()).set(accounted as f64);
        self.publish_waits(root.as_ref());
        if let Some(resident) = totals::resident_bytes() {
            gauge!(described::RESIDENT).set(resident as f64);
        }
        self.publish_manager();
        root.is_some()
    }

    /// Builds the series of the paths below the exporter's allocator.
    fn series(&self) -> SeriesTable {
        let mut table = SeriesTable::default();
        // The list has parents before their children.
        for path in self.paths.read() {
            let name = Escaped(&path.label);
            let (label, depth) = if path.index == self.top {
                (Some(name.to_string()), 0)
            } else {
                match table.of_path.get(&path.parent) {
                    None => continue,
                    Some(&(above, depth)) if depth < self.max_depth => (
                        Some(format!("{}/{name}", table.series[&above].0)),
                        depth + 1,
                    ),
                    Some(&(above, depth)) => {
                        table.of_path.insert(path.index, (above, depth));
                        (None, depth)
                    }
                }
            };
            if let Some(label) = label {
                table.of_path.insert(path.index, (path.index, depth));
                let new = (Arc::from(label), Counts::default());
                table.series.insert(path.index, new);
            }
            let (series, _) = table.of_path[&path.index];
            if let Some((_, sums)) = table.series.get_mut(&series) {
                sums.refusals += path.refusals;
                sums.forced_bytes += path.forced_bytes;
            }
        }
        table
    }

    /// Adds the counts since the last export to the counters. A path without any counts gets counters
    /// once it has an allocator.
    fn count(&mut self, table: &SeriesTable, now: &BTreeMap<usize, Gauges>) {
        for (series, (label, counts)) in &table.series {
            let Counts {
                refusals,
                forced_bytes,
            } = *counts;
            let nothing = refusals == 0 && forced_bytes == 0;
            if nothing && !now.contains_key(series) && !self.counted.contains_key(series) {
                continue;
            }
            let before = self.counted.insert(*series, *counts).unwrap_or_default();
            counter!(described::REFUSALS, "allocator" => label.clone())
                .increment(refusals - before.refusals);
            counter!(described::FORCED, "allocator" => label.clone())
                .increment(forced_bytes - before.forced_bytes);
        }
    }

    /// Sets the gauges of the current series, and of those that have no allocator any more since the last
    /// export.
    fn publish(&mut self, table: &SeriesTable, now: BTreeMap<usize, Gauges>) {
        for (series, gauges) in &now {
            let limit = gauges.limit.map(|limit| limit as f64);
            if limit.is_some() {
                self.limited.insert(*series);
            }
            // If a limit was removed, the gauge must not keep the last one.
            let unlimited = self.limited.contains(series).then_some(f64::INFINITY);
            table.publish(*series, gauges, limit.or(unlimited));
        }
        for (series, before) in &self.published {
            if !now.contains_key(series) {
                let gone = Gauges {
                    live_allocations: before.live_allocations.map(|_| 0),
                    ..Gauges::default()
                };
                let limit = self.limited.contains(series).then_some(0.0);
                table.publish(*series, &gone, limit);
            }
        }
        self.published = now;
    }

    /// Publishes the numbers of the requests that wait in the tree, or waited.
    fn publish_waits(&mut self, root: Option<&BufferAllocator>) {
        let name = &self.root_name;
        let (requests, bytes) = root.map_or((0, 0), |root| root.handle.waiting());
        gauge!(described::WAITING_REQUESTS, "root" => name.clone()).set(requests as f64);
        gauge!(described::WAITING_BYTES, "root" => name.clone()).set(bytes as f64);
        let sums = self.paths.waits();
        let before = std::mem::replace(&mut self.waits, sums);
        let metrics = [described::WAITS, described::WAITED, described::GIVE_WAYS];
        for (metric, (sum, before)) in metrics.into_iter().zip(sums.into_iter().zip(before)) {
            counter!(metric, "root" => name.clone()).increment(sum - before);
        }
    }

    /// Publishes the numbers of the backend. Its gauges are set to 0 once it is dropped with the tree.
    fn publish_manager(&mut self) {
        let name = &self.manager_name;
        let Some(manager) = self.manager.upgrade() else {
            for metric in self.manager_gauges.drain(..) {
                gauge!(metric, "manager" => name.clone()).set(0.0);
            }
            return;
        };
        let stats = manager.stats();
        let known = [
            (described::MANAGER_LIVE, stats.live_bytes),
            (described::MANAGER_PEAK, stats.peak_bytes),
            (described::MANAGER_CACHED, stats.cached_bytes),
            (described::MANAGER_ACTIVE, stats.active_bytes),
            (described::MANAGER_RESIDENT, stats.resident_bytes),
            (described::MANAGER_RETAINED, stats.retained_bytes),
            (described::HELD, totals::held_bytes(&stats)),
        ];
        self.manager_gauges.clear();
        for (metric, bytes) in known {
            if let Some(bytes) = bytes {
                gauge!(metric, "manager" => name.clone()).set(bytes as f64);
                self.manager_gauges.push(metric);
            }
        }
        if let Some(allocations) = stats.allocations {
            counter!(described::MANAGER_ALLOCATIONS, "manager" => name.clone())
                .absolute(allocations);
        }
    }
}

impl SeriesTable {
    /// Sets the gauges of one series.
    fn publish(&self, series: usize, gauges: &Gauges, limit: Option<f64>) {
        let Gauges {
            allocated,
            peak,
            limit: _,
            reservation,
            live_allocations,
        } = *gauges;
        let label = || Arc::clone(&self.series[&series].0);
        gauge!(described::ALLOCATED, "allocator" => label()).set(allocated as f64);
        gauge!(described::PEAK, "allocator" => label()).set(peak as f64);
        gauge!(described::RESERVATION, "allocator" => label()).set(reservation as f64);
        if let Some(limit) = limit {
            gauge!(described::LIMIT, "allocator" => label()).set(limit);
        }
        if let Some(live) = live_allocations {
            gauge!(described::LIVE_ALLOCATIONS, "allocator" => label()).set(live as f64);
        }
    }
}

/// Starts a new epoch of the peaks in the whole subtree. Returns the peaks of the epoch that ends, which
/// include those after the census.
fn reset_peaks(root: &BufferAllocator) -> HashMap<AllocatorId, usize> {
    let (mut peaks, mut left) = (HashMap::new(), vec![root.clone()]);
    while let Some(allocator) = left.pop() {
        peaks.insert(allocator.id(), allocator.reset_peak());
        left.extend(allocator.child_allocators());
    }
    peaks
}

/// Returns the gauges by series. `peaks` are those of the epoch that ended after the census.
fn gauges_of(
    census: &Census,
    peaks: &HashMap<AllocatorId, usize>,
    table: &SeriesTable,
) -> BTreeMap<usize, Gauges> {
    let mut gauges: BTreeMap<usize, Gauges> = BTreeMap::new();
    // The series of the allocators from the first one down to the current one.
    let mut line: Vec<usize> = Vec::new();
    for (entry, counted) in census.snapshot.entries.iter().zip(&census.nodes) {
        // The table has the path of every node, because it was read after the census.
        let Some(&(series, _)) = table.of_path.get(&counted.node.path.index) else {
            continue;
        };
        line.truncate(entry.depth);
        // An allocator with the series of its parent is below the maximum depth, and its bytes are part
        // of the parent's.
        let inside = line.last() == Some(&series);
        line.push(series);
        let sum = gauges.entry(series).or_default();
        if !inside {
            sum.add(entry, peaks.get(&entry.allocator.id).copied());
        }
        if let Some(live) = entry.stats.live_allocations {
            *sum.live_allocations.get_or_insert(0) += live;
        }
    }
    gauges
}

impl Gauges {
    /// Adds an allocator that has another series than its parent.
    fn add(&mut self, entry: &SnapshotEntry, peak_of_epoch: Option<usize>) {
        self.allocated += entry.allocated;
        let peak = entry.peak.max(peak_of_epoch.unwrap_or(0));
        self.peak = self.peak.max(peak);
        let limit = (entry.limit <= isize::MAX as usize).then_some(entry.limit);
        self.limit = self.limit.max(limit);
        self.reservation += entry.reservation;
    }
}

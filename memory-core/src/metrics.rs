//! Numbers for the `metrics` facade (feature `metrics`): [`MetricsExporter`].

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

/// Publishes the numbers of a tree through the [`metrics`] facade each time that it is asked to.
///
/// | metric | labels | what |
/// |---|---|---|
/// | `arrow_memory_allocated_bytes` | `allocator` | gauge: allocated now |
/// | `arrow_memory_peak_bytes` | `allocator` | gauge: the peak, or the epoch's |
/// | `arrow_memory_limit_bytes` | `allocator` | gauge: the limit; absent if there never was one |
/// | `arrow_memory_reservation_bytes` | `allocator` | gauge: the initial reservation |
/// | `arrow_memory_live_allocations` | `allocator` | gauge: allocations that it owns (with `.statistics(true)`) |
/// | `arrow_memory_refusals_total` | `allocator` | counter: requests refused |
/// | `arrow_memory_forced_bytes_total` | `allocator` | counter: bytes charged by force |
/// | `arrow_memory_manager_{live,peak,cached,active,resident,retained}_bytes` | `manager` | gauges, as far as the backend knows them |
/// | `arrow_memory_manager_allocations_total` | `manager` | counter: blocks handed out |
/// | `arrow_memory_accounted_bytes` | `root` | gauge: see [`MemoryTotals`](crate::MemoryTotals) |
/// | `arrow_memory_held_bytes` | `manager` | gauge: the same |
/// | `arrow_memory_resident_bytes` | | gauge: the same |
///
/// The first export describes all of them with their units, so that a Prometheus page has `# HELP`
/// lines. Install the recorder before.
///
/// # Paths
///
/// `allocator` is the path from the exporter's allocator down, joined by `/`: of each allocator its
/// [group](crate::ChildAllocatorBuilder::group), or its name if it has no group. Names and groups are
/// escaped as in error messages (`/` is `\/`), so that two different paths never look alike.
///
/// Allocators of one path share a series. Allocated bytes, reservations, live allocations and counters are
/// added up; of peaks and limits the largest counts. The peak of a path that several allocators share is
/// therefore the peak of one of them, and not of their sum, which their parent's peak covers.
///
/// # How many series there are
///
/// Each path adds about seven series, for the life of the process. Two choices bound the paths:
///
/// * [`group`](crate::ChildAllocatorBuilder::group) gives many allocators with unique names one label;
/// * [`max_depth`](Self::max_depth) counts what lies deeper in its ancestor.
///
/// Without either, the children of one path have at most 1,000 labels, and a tree has at most 10,000
/// paths. Children that are created with further labels, and all that is created below them, have the
/// label `(other)` below their parent's path.
///
/// # Allocators that are gone
///
/// Counters lose nothing. A tree keeps the counts of each path for as long as it lives, so an allocator
/// that was created and has left between two exports is counted under its path, as are the events that
/// preceded the first export. A counter never falls. All allocators of a path share its counters, so an
/// exporter of an allocator other than the root also publishes what others of the same path have
/// counted in the same tree: give such an allocator a path of its own.
///
/// The gauges of a path without allocators are set to 0, its limit too, and are not touched again until
/// there is an allocator of this path. The facade cannot remove them, but a recorder may:
/// `PrometheusBuilder::idle_timeout(MetricKindMask::GAUGE, …)` of `metrics-exporter-prometheus` drops
/// gauges that were not set for some time (choose more than the time between two exports). Leave
/// counters out of that mask: a counter that was dropped starts again at 0.
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
    /// The paths of the tree, which outlive it here, so that the last export misses nothing.
    paths: Paths,
    /// The index of the path of the exporter's allocator.
    top: usize,
    peaks: Peaks,
    max_depth: usize,
    described: bool,
    /// By series: the gauges of the last export.
    published: BTreeMap<usize, Gauges>,
    /// By series: what was added to the counters so far.
    counted: BTreeMap<usize, Counts>,
    /// The series whose limit was ever published.
    limited: BTreeSet<usize>,
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

/// The series of one export. A series is known by the index of the first path that it stands for.
#[derive(Default)]
struct SeriesTable {
    /// By path: its series, and that series' depth.
    of_path: HashMap<usize, (usize, usize)>,
    /// By series: its label and its counts.
    series: BTreeMap<usize, (Arc<str>, Counts)>,
}

impl MetricsExporter {
    /// An exporter of this allocator and all below it.
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
        }
    }

    /// Chooses the peaks.
    #[must_use]
    pub fn peaks(mut self, peaks: Peaks) -> Self {
        self.peaks = peaks;
        self
    }

    /// Bounds the paths to so many levels below the exporter's allocator: with 1, the allocator and its
    /// children have series. There is no bound by default.
    ///
    /// What lies deeper counts in its ancestor at that depth. That ancestor's allocated bytes, peak, limit
    /// and reservation are its own, which cover all below it already; live allocations, refusals and forced
    /// bytes are added up.
    #[must_use]
    pub fn max_depth(mut self, levels: usize) -> Self {
        self.max_depth = levels;
        self
    }

    /// Publishes the numbers as they are now. Takes the tree's lock, O(subtree); call it before a
    /// scrape, or every few seconds. `false`: the tree has gone.
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
        // Read after the census, which has added what allocators have counted since the last one.
        let table = self.series();
        let now = census.map(|census| gauges_of(&census, &peaks, &table));
        let now = now.unwrap_or_default();
        self.count(&table, &now);
        self.publish(&table, now);
        let accounted = root
            .as_ref()
            .map_or(0, |root| root.root_allocator().allocated_memory());
        gauge!(described::ACCOUNTED, "root" => self.root_name.clone()).set(accounted as f64);
        if let Some(resident) = totals::resident_bytes() {
            gauge!(described::RESIDENT).set(resident as f64);
        }
        self.publish_manager();
        root.is_some()
    }

    /// The series of the paths below the exporter's allocator.
    fn series(&self) -> SeriesTable {
        let mut table = SeriesTable::default();
        // Parents come before children.
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

    /// Adds what the counters have gained since the last export. A path on which nothing was ever counted
    /// has counters once there is an allocator.
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

    /// Sets the gauges of the series that are there, and of those that have gone since the last export.
    fn publish(&mut self, table: &SeriesTable, now: BTreeMap<usize, Gauges>) {
        for (series, gauges) in &now {
            let limit = gauges.limit.map(|limit| limit as f64);
            if limit.is_some() {
                self.limited.insert(*series);
            }
            // A limit that was removed: there is none, and the last one must not stay.
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

    /// Publishes the numbers of the backend. Its gauges are set to 0 once it has gone with the tree.
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

/// Starts a new epoch of the peaks in the whole subtree. Returns the peaks of the one that ends, which
/// include what came after the census.
fn reset_peaks(root: &BufferAllocator) -> HashMap<AllocatorId, usize> {
    let (mut peaks, mut left) = (HashMap::new(), vec![root.clone()]);
    while let Some(allocator) = left.pop() {
        peaks.insert(allocator.id(), allocator.reset_peak());
        left.extend(allocator.child_allocators());
    }
    peaks
}

/// The gauges by series. `peaks` are those of the epoch that ended after the census.
fn gauges_of(
    census: &Census,
    peaks: &HashMap<AllocatorId, usize>,
    table: &SeriesTable,
) -> BTreeMap<usize, Gauges> {
    let mut gauges: BTreeMap<usize, Gauges> = BTreeMap::new();
    // The series of the allocators from the first one down to the current one.
    let mut line: Vec<usize> = Vec::new();
    for (entry, counted) in census.snapshot.entries.iter().zip(&census.nodes) {
        // Every node's path is in the table, which was read after the census.
        let Some(&(series, _)) = table.of_path.get(&counted.node.path.index) else {
            continue;
        };
        line.truncate(entry.depth);
        // What has the series of its parent is deeper than the series go, and is part of the parent's
        // bytes.
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
    /// Adds an allocator whose series is another than its parent's.
    fn add(&mut self, entry: &SnapshotEntry, peak_of_epoch: Option<usize>) {
        self.allocated += entry.allocated;
        let peak = entry.peak.max(peak_of_epoch.unwrap_or(0));
        self.peak = self.peak.max(peak);
        let limit = (entry.limit <= isize::MAX as usize).then_some(entry.limit);
        self.limit = self.limit.max(limit);
        self.reservation += entry.reservation;
    }
}

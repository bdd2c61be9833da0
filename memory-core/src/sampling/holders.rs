//! Which allocators are charged for memory now, and which sites allocated what is still held.

use std::collections::HashMap;

use super::live::{Estimate, report};
use super::registry::roots;
use crate::allocator::BufferAllocator;
use crate::outcome::AllocatorId;
use crate::outcome::AllocatorInfo;
use crate::report::ReportEntry;
use crate::stack::StackTrace;
use crate::text::Path;

/// What [`who_holds`] found: the allocators of all trees that are charged for something, the largest
/// charge first, and for each the sites that allocated what is still held.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Holders {
    /// The allocators.
    pub allocators: Vec<Held>,
}

/// What one allocator holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Held {
    /// Which allocator.
    pub allocator: AllocatorInfo,
    /// The names of its ancestors and its own, from the root, escaped as [`AllocatorInfo`] prints them
    /// and joined by `/`.
    pub path: String,
    /// Bytes that it is charged for itself, without its children; exact.
    pub charged_bytes: usize,
    /// All that it ever allocated, exact; `None` without `.statistics(true)`.
    pub total_bytes: Option<u64>,
    /// External bytes and reservations among them, which have no site; exact.
    pub external_bytes: usize,
    /// Whether `sites` is exact, from debug mode, or estimated from samples.
    pub exact: bool,
    /// The sites that allocated it, those with the most bytes first. A clone or a slice that keeps it
    /// alive may have been made elsewhere. Empty if the allocator is neither sampled nor in
    /// debug mode.
    pub sites: Vec<HeldSite>,
}

/// What one site has allocated of what an allocator holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeldSite {
    /// The stack; `None` for sites beyond the most that are kept apart.
    pub stack: Option<StackTrace>,
    /// How many bytes.
    pub bytes: u64,
    /// How many allocations.
    pub count: u64,
}

/// Which allocators are charged for memory now, in all trees of the process, and which sites allocated
/// what is still held. Takes each tree's lock once.
///
/// The sites are those of allocations. Which clone or slice keeps an allocation alive is known in debug
/// mode only, where a [report](BufferAllocator::report) lists every buffer with the line that made it.
pub fn who_holds() -> Holders {
    let mut sampled: HashMap<AllocatorId, Vec<HeldSite>> = HashMap::new();
    for site in report().sites {
        for (allocator, live) in &site.live {
            let sites = sampled.entry(allocator.id).or_default();
            sites.push(HeldSite::new(site.stack, *live));
        }
    }
    let mut allocators = Vec::new();
    for root in roots() {
        add_tree(
            &mut allocators,
            &BufferAllocator::from_handle(root),
            &mut sampled,
        );
    }
    allocators.sort_by(|a, b| {
        let bytes = b.charged_bytes.cmp(&a.charged_bytes);
        bytes.then(a.allocator.id.cmp(&b.allocator.id))
    });
    Holders { allocators }
}

fn add_tree(
    allocators: &mut Vec<Held>,
    root: &BufferAllocator,
    sampled: &mut HashMap<AllocatorId, Vec<HeldSite>>,
) {
    let exact: HashMap<AllocatorId, Vec<HeldSite>> = if root.is_debug() {
        let entries = root.report().entries.into_iter();
        entries
            .map(|entry| (entry.allocator.id, exact_sites(&entry)))
            .collect()
    } else {
        HashMap::new()
    };
    let mut path = Path::default();
    for entry in root.snapshot().entries {
        let id = entry.allocator.id;
        let path = path.enter(entry.depth, &entry.allocator.name);
        let stats = entry.stats;
        let charged_bytes = stats.own_bytes + stats.foreign_bytes + stats.external_bytes;
        let known = exact.get(&id);
        let sites = known.cloned().or_else(|| sampled.remove(&id));
        if charged_bytes == 0 && sites.is_none() {
            continue;
        }
        let mut sites = sites.unwrap_or_default();
        sites.sort_by_key(|site| std::cmp::Reverse(site.bytes));
        allocators.push(Held {
            allocator: entry.allocator,
            path: path.to_owned(),
            charged_bytes,
            total_bytes: stats.total_bytes,
            external_bytes: stats.external_bytes,
            exact: known.is_some(),
            sites,
        });
    }
}

/// In debug mode all is known: who made the oldest buffer of each ledger that owns.
fn exact_sites(entry: &ReportEntry) -> Vec<HeldSite> {
    let mut sites: HashMap<Option<StackTrace>, HeldSite> = HashMap::new();
    for ledger in entry.ledgers.iter().filter(|ledger| ledger.owning) {
        let stack = ledger.history.as_ref().map(|history| history.stack);
        let site = sites.entry(stack).or_insert(HeldSite {
            stack,
            bytes: 0,
            count: 0,
        });
        site.bytes += ledger.size as u64;
        site.count += 1;
    }
    sites.into_values().collect()
}

impl HeldSite {
    fn new(stack: Option<StackTrace>, live: Estimate) -> Self {
        Self {
            stack,
            bytes: live.bytes.round() as u64,
            count: live.count.round() as u64,
        }
    }
}

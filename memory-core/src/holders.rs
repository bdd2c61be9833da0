//! `sampling::who_holds`, which visits the allocators of all trees and so is in a layer above them.

use std::collections::HashMap;

use crate::allocator::BufferAllocator;
use crate::outcome::AllocatorId;
use crate::report::ReportEntry;
use crate::sampling::{Held, HeldSite, Holders, report, roots};
use crate::stack::StackTrace;
use crate::text::Path;

/// Returns the allocators that are charged for memory now, in all trees of the process, and the sites
/// that allocated the memory that is still held.
///
/// Takes each tree's lock, O(tree). For trees in debug mode it also visits every allocation of the
/// process.
///
/// The sites are those of allocations. Only debug mode knows which clone or slice keeps an allocation
/// alive: there a [report](BufferAllocator::report) lists every buffer with the line of code that created
/// it.
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
        let without_block = stats.external_bytes + stats.reserved_bytes;
        let charged_bytes = stats.own_bytes + stats.foreign_bytes + without_block;
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
            reserved_bytes: stats.reserved_bytes,
            exact: known.is_some(),
            sites,
        });
    }
}

/// Returns the sites in debug mode, which knows the creation of each ledger. Only owning ledgers count.
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

//! What an allocator can be asked: numbers, reports, checks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use super::BufferAllocator;
use crate::accounting::{Census, Node};
use crate::error::VerifyError;
use crate::raw::pool;
use crate::report::{
    AllocatorSnapshot, AllocatorStats, OutstandingLedger, SnapshotEntry, limit_text,
};

impl BufferAllocator {
    /// Bytes allocated from this allocator: its own and foreign blocks, external bytes, and for
    /// each child the larger of its reservation and its own allocated bytes.
    ///
    /// Exact at one instant during the call. O(subtree) under the tree's lock; use
    /// [`charged_memory`](Self::charged_memory) to poll a large tree.
    pub fn allocated_memory(&self) -> usize {
        self.handle.allocated()
    }

    /// As [`allocated_memory`](Self::allocated_memory), in constant time: at least that, at most
    /// the credit more that nodes below hold unused.
    pub fn charged_memory(&self) -> usize {
        self.handle.charged()
    }

    /// The largest [`allocated_memory`](Self::allocated_memory) that ever held, in bytes.
    ///
    /// Exact for an allocator without children that few threads share, and everywhere in a tree
    /// built with `.credit(0)`; otherwise it may be too high by at most the credit that was then
    /// outstanding below. It is never too low.
    pub fn peak_memory_allocation(&self) -> usize {
        self.handle.peak()
    }

    /// The limit that was set, in bytes; above `isize::MAX`: unlimited.
    pub fn limit(&self) -> usize {
        self.handle.limit()
    }

    /// Sets the limit, in bytes. Lowering it revokes nothing; raising it takes effect at once.
    pub fn set_limit(&self, limit: usize) {
        self.handle.set_limit(limit);
    }

    /// Bytes that this allocator owns for life, charged to its parent whether used or not.
    pub fn init_reservation(&self) -> usize {
        self.node().reservation
    }

    /// Bytes that could be allocated here now: what the limits leave, here and in every ancestor
    /// that the reservations on the way do not cover. Negative: over a limit by so much. Exact;
    /// O(tree) under the tree's lock.
    pub fn headroom(&self) -> isize {
        self.handle.headroom().0
    }

    /// Whether this allocator or an ancestor has more allocated than its limit. Exact; O(tree)
    /// under the tree's lock.
    pub fn is_over_limit(&self) -> bool {
        self.handle.headroom().1
    }

    /// This allocator's own numbers.
    pub fn stats(&self) -> AllocatorStats {
        self.handle.stats()
    }

    /// This allocator and all below it, parents before children, at one instant. O(subtree) under
    /// the tree's lock.
    pub fn snapshot(&self) -> AllocatorSnapshot {
        self.handle.census().snapshot
    }

    /// Recomputes the sums of this allocator and all below it.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] with the first rule that does not hold: a bug in this crate.
    pub fn verify(&self) -> Result<(), VerifyError> {
        self.handle.verify()
    }

    /// This allocator, all below it, their ledgers and reservations, as text in the form of Arrow
    /// Java's. Looks at every allocation of the process.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::new(8192);
    /// let _buffer = root.buffer(4096)?;
    /// assert_eq!(
    ///     root.to_verbose_string(),
    ///     "Allocator(ROOT) 0/4096/4096/8192 (res/actual/peak/limit)\n  \
    ///        child allocators: 0\n  \
    ///        ledgers: 1\n    \
    ///          owning: true, size: 4096, references: 1\n  \
    ///        reservations: 0\n"
    /// );
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn to_verbose_string(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write_tree(&mut text, &self.handle.census());
        text
    }

    pub(super) fn charged_to_parent(&self) -> usize {
        self.handle.obtained()
    }
}

impl fmt::Display for BufferAllocator {
    /// `Allocator(name) reservation/allocated/peak/limit`, in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = limit_text(self.limit());
        let (reservation, allocated) = (self.init_reservation(), self.allocated_memory());
        let (name, peak) = (self.name(), self.peak_memory_allocation());
        write!(
            f,
            "Allocator({name}) {reservation}/{allocated}/{peak}/{limit}"
        )
    }
}

/// Levels deeper than this are not indented further, so that a tree of depth n is not n² of text.
const DEEPEST_INDENT: usize = 20;

fn write_tree(text: &mut String, census: &Census) -> fmt::Result {
    let entries = &census.snapshot.entries;
    let (ledgers, children) = (ledgers_of(census), children_of(entries));
    // Entries whose ledgers are not written yet: those of the levels above.
    let mut open: Vec<usize> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        while let Some(above) = open.pop_if(|above| entries[*above].depth >= entry.depth) {
            write_tail(text, &entries[above], &ledgers[above])?;
        }
        let indent = indent(entry.depth);
        let SnapshotEntry {
            allocator,
            reservation,
            allocated,
            peak,
            ..
        } = entry;
        let limit = limit_text(entry.limit);
        writeln!(
            text,
            "{indent}Allocator({allocator}) {reservation}/{allocated}/{peak}/{limit} \
             (res/actual/peak/limit)"
        )?;
        writeln!(text, "{indent}  child allocators: {}", children[index])?;
        open.push(index);
    }
    while let Some(above) = open.pop() {
        write_tail(text, &entries[above], &ledgers[above])?;
    }
    Ok(())
}

/// The lines of an entry that follow those of its children.
fn write_tail(
    text: &mut String,
    entry: &SnapshotEntry,
    ledgers: &[OutstandingLedger],
) -> fmt::Result {
    let indent = indent(entry.depth);
    writeln!(text, "{indent}  ledgers: {}", ledgers.len())?;
    for ledger in ledgers {
        writeln!(text, "{indent}    {ledger}")?;
    }
    writeln!(text, "{indent}  reservations: {}", entry.reservations.len())?;
    for bytes in &entry.reservations {
        writeln!(text, "{indent}    {bytes} bytes")?;
    }
    Ok(())
}

fn indent(depth: usize) -> String {
    "    ".repeat(depth.min(DEEPEST_INDENT))
}

/// How many children each entry has.
fn children_of(entries: &[SnapshotEntry]) -> Vec<usize> {
    let mut counts = vec![0; entries.len()];
    let mut path: Vec<usize> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        path.truncate(entry.depth);
        if let Some(&parent) = path.last() {
            counts[parent] += 1;
        }
        path.push(index);
    }
    counts
}

/// The ledgers of each entry's allocator, found by one walk over all slots.
fn ledgers_of(census: &Census) -> Vec<Vec<OutstandingLedger>> {
    let index_of: HashMap<usize, usize> = census
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (address(node), index))
        .collect();
    let mut ledgers = vec![Vec::new(); census.nodes.len()];
    for (address, ledger) in find_ledgers(|address| index_of.contains_key(&address)) {
        if let Some(&index) = index_of.get(&address) {
            ledgers[index].push(ledger);
        }
    }
    for ledgers in &mut ledgers {
        ledgers.sort_by_key(|ledger| Reverse((ledger.owning, ledger.size)));
    }
    ledgers
}

fn address(node: &Arc<Node>) -> usize {
    Arc::as_ptr(node).addr()
}

/// The ledgers in use whose node's address is wanted, with that address.
pub(super) fn find_ledgers(wanted: impl Fn(usize) -> bool) -> Vec<(usize, OutstandingLedger)> {
    // Counted first, so that the walk asks for no memory; those that come later are left out.
    let mut count = 0;
    pool::for_each_in_use(|ledger| count += usize::from(wanted(ledger.node_address().addr())));
    let mut found = Vec::with_capacity(count);
    pool::for_each_in_use(|ledger| {
        let address = ledger.node_address().addr();
        if found.len() < count && wanted(address) {
            let ledger = OutstandingLedger {
                owning: ledger.count.is_owning(),
                foreign: ledger.is_foreign(),
                size: ledger.size(),
                references: ledger.count.buffers(),
            };
            found.push((address, ledger));
        }
    });
    found
}

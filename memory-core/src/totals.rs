//! Totals that are easily confused: accounted, held by the backend, resident in the process; and the library's own.

use std::fs;

use arrow_memory_manager::ManagerStats;

use crate::allocator::BufferAllocator;
use crate::raw::pool;

/// Three measures of the same memory, in bytes, which differ by design, and what records of it take.
///
/// *Accounted* bytes are charged to the allocators: buffers at their capacities, foreign memory, and
/// external bytes and reservations that need not exist as memory. *Held* bytes are those that the backend
/// has allocated or keeps for reuse, for all trees that share it. *Resident* bytes are the physical
/// memory of the whole process: its code, stacks and other heaps too, but no page that was never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryTotals {
    /// The bytes allocated from the root of the tree.
    pub accounted_bytes: usize,
    /// The bytes that the backend has allocated or cached; `None` if it does not count them.
    pub held_bytes: Option<usize>,
    /// The bytes resident in the process; `None` where the platform does not report them.
    pub resident_bytes: Option<usize>,
    /// The bytes of the library's own records of buffers in this process, whatever tree they are of, which no limit counts:
    /// 88 for each buffer that is alive, and those that are kept for the next ones. Each thread keeps up to 1,024, and these
    /// may keep as many pieces of 256 KiB from being freed.
    pub bookkeeping_bytes: usize,
}

impl BufferAllocator {
    /// Returns the totals of this allocator's tree, its backend and the process.
    ///
    /// The first takes the tree's lock, O(tree), and the third reads a file of the operating system.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::unlimited();
    /// let _buffer = root.buffer(4096)?;
    /// let totals = root.memory_totals();
    /// assert_eq!(totals.accounted_bytes, 4096);
    /// assert!(totals.held_bytes.is_none_or(|held| held >= 4096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn memory_totals(&self) -> MemoryTotals {
        let stats = self.allocation_manager().stats();
        MemoryTotals {
            accounted_bytes: self.root_allocator().allocated_memory(),
            held_bytes: held_bytes(&stats),
            resident_bytes: resident_bytes(),
            bookkeeping_bytes: pool::bytes(),
        }
    }
}

/// Returns the bytes that a backend has allocated or keeps for reuse.
pub(crate) fn held_bytes(stats: &ManagerStats) -> Option<usize> {
    stats
        .live_bytes
        .map(|live| live + stats.cached_bytes.unwrap_or(0))
}

/// Returns the physical memory of this process, in bytes.
pub(crate) fn resident_bytes() -> Option<usize> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

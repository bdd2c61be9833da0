//! The trees of a scan, and their contents at one time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_memory_core::{
    AllocationManager, AllocatorId, AllocatorSnapshot, ManagerStats, ProxyManager, RootAllocator,
    backend,
};

use super::options::Options;
use crate::failure::Failure;
use crate::process::ProcessMemory;

/// The tree of the scan, and two further trees for measuring.
pub(super) struct Trees {
    pub(super) root: RootAllocator,
    /// Unlimited. Holds one decoded batch at a time, adopted.
    pub(super) measure: RootAllocator,
    /// Unlimited. Holds the buffers that decoders may return again, to measure the need of keeping everything
    /// in a scan that does not keep it.
    pub(super) keeping: RootAllocator,
    /// Counts the blocks that the backend lent to all three trees.
    counted: Arc<ProxyManager>,
    backend: Arc<dyn AllocationManager>,
}

impl Trees {
    pub(super) fn plant(options: &Options) -> Result<Self, Failure> {
        let backend = match &options.backend {
            Some(name) => backend::manager(name),
            None => default_backend(),
        };
        let backend = backend.map_err(|error| Failure::usage(error.to_string()))?;
        let counted = Arc::new(ProxyManager::new(Arc::clone(&backend)));
        let plant = |name, limit| {
            let manager: Arc<dyn AllocationManager> = Arc::clone(&counted) as _;
            RootAllocator::builder()
                .name(name)
                .limit(limit)
                // Without credit, the peaks are exact at every level.
                .credit(0)
                .allocation_manager(manager)
                .build()
                .map_err(|error| Failure::new(error.to_string()))
        };
        Ok(Self {
            root: plant("scan", options.limit.unwrap_or(usize::MAX))?,
            measure: plant("measure", usize::MAX)?,
            keeping: plant("keeping", usize::MAX)?,
            counted,
            backend,
        })
    }

    pub(super) fn backend_name(&self) -> &str {
        self.backend.name()
    }

    /// The statistics of the blocks that the backend lent so far.
    pub(super) fn handed_out(&self) -> ManagerStats {
        self.counted.stats()
    }

    /// Closes the trees, and returns the process's memory after that.
    pub(super) fn close(self) -> Result<ProcessMemory, Failure> {
        for root in [&self.root, &self.measure, &self.keeping] {
            root.close()
                .map_err(|error| Failure::bug(format!("memory was not given back: {error}")))?;
        }
        match self.counted.stats().live_bytes {
            Some(0) | None => {}
            Some(left) => {
                let name = self.counted.name();
                let message = format!("{left} bytes were not given back to backend `{name}`");
                return Err(Failure::bug(message));
            }
        }
        self.backend.release_unused();
        Ok(ProcessMemory::now())
    }
}

/// The default backend. An unknown name in the environment is an error here: otherwise the person who set it
/// would read the numbers of another backend.
fn default_backend() -> Result<Arc<dyn AllocationManager>, arrow_memory_core::BackendError> {
    match std::env::var(backend::DEFAULT_POOL_VARIABLE) {
        Ok(name) if !name.is_empty() => backend::manager(&name),
        _ => backend::default_manager(),
    }
}

/// The contents of the trees at one time.
#[derive(Default)]
pub(super) struct Moment {
    pub(super) tree: AllocatorSnapshot,
    /// For allocators whose memory is in another allocator's messages, the size of their part.
    pub(super) parts: HashMap<AllocatorId, usize>,
    /// The statistics of the blocks that the backend lent to the trees.
    pub(super) counted: ManagerStats,
    /// The backend's own statistics.
    pub(super) own: ManagerStats,
    pub(super) process: ProcessMemory,
}

impl Moment {
    pub(super) fn of(trees: &Trees, parts: &HashMap<AllocatorId, usize>) -> Self {
        Self {
            tree: trees.root.snapshot(),
            parts: parts.clone(),
            counted: trees.counted.stats(),
            own: trees.backend.stats(),
            process: ProcessMemory::now(),
        }
    }

    /// Replaces the peaks by those of `later`, and these by the ones of `known`.
    pub(super) fn set_peaks(
        &mut self,
        later: &AllocatorSnapshot,
        known: &HashMap<AllocatorId, usize>,
    ) {
        let peaks = later.entries.iter();
        let mut peaks: HashMap<_, _> = peaks
            .map(|entry| (entry.allocator.id, entry.peak))
            .collect();
        peaks.extend(known);
        for entry in &mut self.tree.entries {
            if let Some(&peak) = peaks.get(&entry.allocator.id) {
                entry.peak = peak;
            }
        }
    }

    /// Adds the allocators that were created later, which held nothing at this time.
    pub(super) fn add_missing(&mut self, later: AllocatorSnapshot, with_peaks: bool) {
        let known: HashSet<_> = self.tree.entries.iter().map(|e| e.allocator.id).collect();
        let missing = later.entries.into_iter();
        let missing = missing.filter(|entry| !known.contains(&entry.allocator.id));
        self.tree.entries.extend(missing.map(|mut entry| {
            entry.allocated = 0;
            if !with_peaks {
                entry.peak = 0;
            }
            entry
        }));
    }

    /// Bytes allocated from the root.
    pub(super) fn allocated(&self) -> usize {
        self.tree.entries.first().map_or(0, |root| root.allocated)
    }
}

//! The trees of a scan, and what they held at one time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_memory_core::{
    AllocationManager, AllocatorId, AllocatorSnapshot, ManagerStats, ProxyManager, RootAllocator,
    backend,
};

use super::options::Options;
use crate::failure::Failure;
use crate::process::ProcessMemory;

/// The tree of the scan, and two beside it that measure.
pub(super) struct Trees {
    pub(super) root: RootAllocator,
    /// Unlimited; holds one decoded batch at a time, without a copy.
    pub(super) measure: RootAllocator,
    /// Unlimited; holds what decoders hand out again, for the need of keeping everything where the
    /// scan does not keep it.
    pub(super) keeping: RootAllocator,
    /// Counts what the backend handed out to all of them.
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
                // Exact peaks, at every level.
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

    /// What the backend handed out so far.
    pub(super) fn handed_out(&self) -> ManagerStats {
        self.counted.stats()
    }

    /// Closes the trees, and says what is resident then.
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

/// The default backend. A name in the environment that no backend has is an error here, since a
/// person who gave it reads numbers of another backend otherwise.
fn default_backend() -> Result<Arc<dyn AllocationManager>, arrow_memory_core::BackendError> {
    match std::env::var(backend::DEFAULT_POOL_VARIABLE) {
        Ok(name) if !name.is_empty() => backend::manager(&name),
        _ => backend::default_manager(),
    }
}

/// What everybody held at one time.
#[derive(Default)]
pub(super) struct Moment {
    pub(super) tree: AllocatorSnapshot,
    /// Of allocators whose memory lies in that of others: how much of it is theirs.
    pub(super) parts: HashMap<AllocatorId, usize>,
    /// What the backend handed out to the trees.
    pub(super) counted: ManagerStats,
    /// What the backend says of itself.
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

    /// Takes the peaks of a later time, and those that are known better.
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

    /// Adds the allocators that were made later, which held nothing then.
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

//! The trees of a scan, and their contents at one time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_memory_core::{
    AllocError, AllocationManager, AllocatorId, AllocatorSnapshot, BufferAllocator, ManagerStats,
    ProxyManager, RootAllocator, backend,
};
use arrow_memory_global::Scope;

use super::options::Options;
use crate::failure::Failure;
use crate::process::ProcessMemory;

/// The tree of the program with the scan and its decoder, and two further trees for measuring.
pub(super) struct Trees {
    /// Of the program, unlimited.
    program: RootAllocator,
    /// Of the scan, below that.
    pub(super) root: BufferAllocator,
    /// Charged for what the decoder allocates, until the scan adopts it.
    decoder: BufferAllocator,
    scope: Scope,
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
        let plant = |name| {
            let manager: Arc<dyn AllocationManager> = Arc::clone(&counted) as _;
            RootAllocator::builder()
                .name(name)
                .limit(usize::MAX)
                // Without credit, the peaks are exact at every level.
                .credit(0)
                .allocation_manager(manager)
                .build()
                .map_err(|error| Failure::new(error.to_string()))
        };
        let program = plant("program")?;
        let failure = |error: AllocError| Failure::new(error.to_string());
        let limit = options.limit.unwrap_or(usize::MAX);
        let root = program.child("scan").limit(limit).build();
        let decoder = program.child("decoder").build().map_err(failure)?;
        Ok(Self {
            root: root.map_err(failure)?,
            scope: Scope::new(&decoder).map_err(failure)?,
            program,
            decoder,
            measure: plant("measure")?,
            keeping: plant("keeping")?,
            counted,
            backend,
        })
    }

    /// Calls `work`, which reads from files. What it allocates from the program's heap is the decoder's.
    pub(super) fn decode<R>(&self, work: impl FnOnce() -> R) -> R {
        self.scope.run(work)
    }

    /// The bytes of the decoder that no allocator of the scan is charged for, now and at most; `None` if that cannot be
    /// known here.
    pub(super) fn decoder(&self) -> Option<(usize, usize)> {
        let known = arrow_memory_global::is_installed();
        known.then(|| {
            (
                self.decoder.allocated_memory(),
                self.decoder.peak_memory_allocation(),
            )
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
        for allocator in [&self.root, &self.decoder, &*self.measure, &*self.keeping] {
            allocator
                .close()
                .map_err(|error| Failure::bug(format!("memory was not given back: {error}")))?;
        }
        // A library may keep what it allocated once, so the root of the program may have retained memory.
        drop((self.scope, self.program));
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
    /// The bytes of the decoder that the tree does not have.
    pub(super) decoder: Option<usize>,
}

impl Moment {
    pub(super) fn of(trees: &Trees, parts: &HashMap<AllocatorId, usize>) -> Self {
        Self {
            tree: trees.root.snapshot(),
            parts: parts.clone(),
            counted: trees.counted.stats(),
            own: trees.backend.stats(),
            process: ProcessMemory::now(),
            decoder: trees.decoder().map(|(now, _)| now),
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

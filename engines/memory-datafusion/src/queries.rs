//! The queries under one allocator.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_memory_core::{AllocError, BufferAllocator, RootAllocator};

use crate::options::{Charge, Options};
use crate::query::{Alive, Query};

/// All queries under an allocator.
pub(crate) struct Queries {
    shared: Arc<Query>,
    /// Under [`Charge::Observed`], the root of the tree in which batches are counted.
    observed: Option<RootAllocator>,
    options: Options,
    begun: AtomicU64,
    alive: Arc<Alive>,
}

impl Queries {
    pub(crate) fn new(allocator: BufferAllocator, options: Options) -> Self {
        let observed = || {
            let builder = RootAllocator::builder()
                .name("observed batches")
                .allocation_manager(Arc::clone(allocator.allocation_manager()));
            // Only a manager that is not there is an error.
            builder.build().expect("the manager was given")
        };
        let alive = Arc::default();
        Self {
            observed: (options.charge == Charge::Observed).then(observed),
            shared: Query::shared(allocator, options, &alive),
            options,
            begun: AtomicU64::new(0),
            alive,
        }
    }

    /// Returns the books of what runs beside the queries. Their allocator is the parent of the queries'.
    pub(crate) fn shared(&self) -> &Arc<Query> {
        &self.shared
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Begins a query that nobody admits: under its task's name or a number.
    pub(crate) fn begin(&self, task: Option<&str>, limit: usize) -> Result<Arc<Query>, AllocError> {
        // Relaxed: only the number matters.
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let name = task.map_or_else(|| format!("query#{number}"), str::to_owned);
        let allocator = self
            .shared
            .allocator()
            .child(&name)
            .group("query")
            .limit(limit)
            .build()?;
        Ok(self.add(allocator))
    }

    pub(crate) fn add(&self, allocator: BufferAllocator) -> Arc<Query> {
        let observed = self.observed.as_ref().map(|root| {
            let child = root.child(allocator.name()).build();
            // Its root is never closed, and has no limit.
            child.unwrap_or_else(|_| root.root_allocator())
        });
        Query::new(allocator, observed, self.options, &self.alive)
    }

    /// Returns the queries that are alive.
    pub(crate) fn alive(&self) -> Vec<Arc<Query>> {
        self.alive.all()
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queries")
            .field(self.shared.allocator())
            .finish()
    }
}

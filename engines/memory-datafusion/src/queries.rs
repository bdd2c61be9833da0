//! The queries under one allocator.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow_memory_core::{AllocError, BufferAllocator};

use crate::query::Query;

/// All queries under an allocator.
pub(crate) struct Queries {
    shared: Arc<Query>,
    query_limit: usize,
    begun: AtomicU64,
    alive: Mutex<Vec<Weak<Query>>>,
}

impl Queries {
    pub(crate) fn new(allocator: BufferAllocator, query_limit: usize) -> Self {
        Self {
            shared: Query::shared(allocator),
            query_limit,
            begun: AtomicU64::new(0),
            alive: Mutex::default(),
        }
    }

    /// Returns the books of what runs beside the queries. Their allocator is the parent of the queries'.
    pub(crate) fn shared(&self) -> &Arc<Query> {
        &self.shared
    }

    pub(crate) fn query_limit(&self) -> usize {
        self.query_limit
    }

    /// Begins a query that nobody admits: under its task's name or a number, with the smaller of the limits.
    pub(crate) fn begin(
        &self,
        task: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Arc<Query>, AllocError> {
        // Relaxed: only the number matters.
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let name = task.map_or_else(|| format!("query#{number}"), str::to_owned);
        let limit = limit.unwrap_or(usize::MAX).min(self.query_limit);
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
        let query = Query::new(allocator);
        let mut alive = self.lock();
        alive.retain(|query| query.strong_count() > 0);
        alive.push(Arc::downgrade(&query));
        query
    }

    /// Returns the queries that are alive; what the caller drops, it drops without the lock.
    pub(crate) fn alive(&self) -> Vec<Arc<Query>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Query>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queries")
            .field(self.shared.allocator())
            .finish()
    }
}

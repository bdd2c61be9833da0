//! DataFusion under an allocator: sessions, and queries that are admitted.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use arrow_memory_core::{BufferAllocator, WaitError};
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::error::AdmitError;
use crate::handle::QueryMemory;
use crate::port::{self, QueryPool, QueryRule};
use crate::queries::Queries;
use crate::report::QueryReport;

/// DataFusion's memory in an allocator's tree. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct DataFusionMemory {
    queries: Arc<Queries>,
}

/// Sets up a [`DataFusionMemory`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct DataFusionMemoryBuilder {
    allocator: BufferAllocator,
    query_limit: usize,
}

impl DataFusionMemoryBuilder {
    /// Sets the limit in bytes of queries that set none themselves, and of those that nobody admits. Without this call
    /// they have none of their own.
    pub fn query_limit(mut self, bytes: usize) -> Self {
        self.query_limit = bytes;
        self
    }

    /// Builds it.
    pub fn build(self) -> DataFusionMemory {
        DataFusionMemory {
            queries: Arc::new(Queries::new(self.allocator, self.query_limit)),
        }
    }
}

impl DataFusionMemory {
    /// Puts sessions under an allocator, whose limit then holds for all their queries together.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self::builder(allocator).build()
    }

    /// Returns a builder with all options.
    pub fn builder(allocator: &BufferAllocator) -> DataFusionMemoryBuilder {
        DataFusionMemoryBuilder {
            allocator: allocator.clone(),
            query_limit: usize::MAX,
        }
    }

    /// Returns a session with DataFusion's default features, whose queries are under the allocator.
    ///
    /// # Errors
    ///
    /// None today; what a session needs may fail in a later version.
    pub fn session(&self, config: SessionConfig) -> Result<SessionContext> {
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        Ok(SessionContext::new_with_state(
            self.configure(builder).build(),
        ))
    }

    /// Puts the session that a builder will build under the allocator: replaces its pool, and adds a rule after those
    /// that are there. The disk manager, the caches and the object stores of its runtime stay.
    pub fn configure(&self, builder: SessionStateBuilder) -> SessionStateBuilder {
        port::configure(builder, self.queries.shared(), self.query_rule())
    }

    /// Returns the pool of what runs in a session without a query.
    pub fn pool(&self) -> Arc<dyn MemoryPool> {
        QueryPool::of(self.queries.shared())
    }

    /// Returns the rule that [`configure`](Self::configure) adds, for a list of rules of your own. It must be the last.
    pub fn rule(&self) -> Arc<dyn PhysicalOptimizerRule + Send + Sync> {
        self.query_rule()
    }

    fn query_rule(&self) -> Arc<QueryRule> {
        Arc::new(QueryRule(Arc::clone(&self.queries)))
    }

    /// Returns a builder of a query of that name, which need not be unique.
    pub fn query(&self, name: &str) -> QueryBuilder {
        QueryBuilder {
            queries: Arc::clone(&self.queries),
            name: name.to_owned(),
            limit: self.queries.query_limit(),
            reservation: 0,
            priority: None,
            deadline: None,
        }
    }

    /// Returns the reports of all queries that are alive, those of sessions that nobody admitted included.
    pub fn queries(&self) -> Vec<QueryReport> {
        self.queries
            .alive()
            .iter()
            .map(|query| QueryReport::of(query))
            .collect()
    }

    /// Returns the allocator of all queries.
    pub fn allocator(&self) -> &BufferAllocator {
        self.queries.shared().allocator()
    }
}

/// A query that is to be admitted: made by [`DataFusionMemory::query`].
#[derive(Debug)]
#[must_use = "a query does nothing until it is admitted"]
pub struct QueryBuilder {
    queries: Arc<Queries>,
    name: String,
    limit: usize,
    reservation: usize,
    priority: Option<i32>,
    deadline: Option<Duration>,
}

impl QueryBuilder {
    /// Sets the query's own limit in bytes, in place of that of [`DataFusionMemoryBuilder::query_limit`].
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets aside bytes for the query, for which its admission waits. 0 by default.
    pub fn reservation(mut self, bytes: usize) -> Self {
        self.reservation = bytes;
        self
    }

    /// Sets the number that orders who is asked for memory when it is short: a query with a larger number is asked
    /// later. Without this call it is that of the allocator above.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Waits at most so long for admission, from now on. Without this call the wait has no end.
    pub fn deadline(mut self, at_most: Duration) -> Self {
        self.deadline = Some(at_most);
        self
    }

    /// Admits the query once its reservation fits: queries are admitted in the order of their age, and hold nothing
    /// before. Dropping the future ends the wait. Without a reservation it does not wait.
    ///
    /// # Errors
    ///
    /// An [`AdmitError`] from the future: after the deadline, or at once if the reservation can never fit, or if an
    /// allocator whose memory it needs is closed. Nothing is charged then.
    pub fn admit(self) -> impl Future<Output = Result<QueryMemory, AdmitError>> + Send {
        let parent = self.queries.shared().allocator();
        let mut admission = parent
            .admit(&self.name)
            .group("query")
            .limit(self.limit)
            .reservation(self.reservation);
        if let Some(priority) = self.priority {
            admission = admission.priority(priority);
        }
        if let Some(deadline) = self.deadline {
            admission = admission.at_most(deadline);
        }
        let admitted = admission.into_future();
        async move {
            let allocator = admitted
                .await
                .map_err(|error| AdmitError::of(&self.name, error))?;
            Ok(QueryMemory::new(self.queries.add(allocator)))
        }
    }

    /// Admits the query now, or not at all. It does not wait, and passes queries that do.
    ///
    /// # Errors
    ///
    /// An [`AdmitError`] if the reservation does not fit now.
    pub fn try_admit(self) -> Result<QueryMemory, AdmitError> {
        let parent = self.queries.shared().allocator();
        let mut child = parent
            .child(&self.name)
            .group("query")
            .limit(self.limit)
            .reservation(self.reservation);
        if let Some(priority) = self.priority {
            child = child.priority(priority);
        }
        let allocator = child
            .build()
            .map_err(|error| AdmitError::of(&self.name, WaitError::Refused(error)))?;
        Ok(QueryMemory::new(self.queries.add(allocator)))
    }
}

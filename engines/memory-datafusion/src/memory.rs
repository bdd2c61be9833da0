//! DataFusion under an allocator: sessions, and queries that are admitted.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use arrow_memory_core::{BufferAllocator, WaitError};
#[cfg(feature = "sql")]
use datafusion::catalog::TableFunctionImpl;
#[cfg(feature = "session")]
use datafusion::execution::SessionStateBuilder;
#[cfg(feature = "session")]
use datafusion::prelude::{SessionConfig, SessionContext};
#[cfg(feature = "session")]
use datafusion_common::error::Result;
use datafusion_execution::memory_pool::MemoryPool;
use datafusion_physical_optimizer::PhysicalOptimizerRule;

use crate::error::AdmitError;
use crate::handle::QueryMemory;
use crate::options::{Charge, Granularity, OnRefusal, Options, Policy, Wait};
#[cfg(feature = "session")]
use crate::port;
use crate::port::{QueryPool, QueryRule};
use crate::queries::Queries;
use crate::report::QueryReport;
#[cfg(feature = "sql")]
use crate::table::MemoryTable;

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
    options: Options,
}

impl DataFusionMemoryBuilder {
    /// Sets the limit in bytes of queries that set none themselves, and of those that nobody admits. Without this call
    /// they have none of their own.
    pub fn query_limit(mut self, bytes: usize) -> Self {
        self.options.query_limit = bytes;
        self
    }

    /// Allows `SET datafusion.runtime.memory_limit` to give the session's later queries a limit of at most so many
    /// bytes. Without this call it can lower the limit of [`query_limit`](Self::query_limit), and not raise it. The
    /// limits above hold in any case.
    pub fn allow_set(mut self, max_bytes: usize) -> Self {
        self.options.allow_set = Some(max_bytes);
        self
    }

    /// Sets which bytes operators are charged for: [`Charge::Larger`] by default.
    pub fn charge(mut self, charge: Charge) -> Self {
        self.options.charge = charge;
        self
    }

    /// Sets at which operators batches are counted: [`Granularity::Holders`] by default.
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.options.granularity = granularity;
        self
    }

    /// Sets how operators that can spill share what there is: [`Policy::Greedy`] by default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.options.policy = policy;
        self
    }

    /// Sets whether requests of operators that cannot spill wait for memory of other queries: [`Wait::Never`] by default.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.options.wait = wait;
        self
    }

    /// Sets what becomes of a query that was refused memory: [`OnRefusal::Fail`] by default.
    pub fn on_refusal(mut self, on_refusal: OnRefusal) -> Self {
        self.options.on_refusal = on_refusal;
        self
    }

    /// Sets the part of each limit that operators that can spill leave to those that cannot: 0.1 by default.
    ///
    /// # Panics
    ///
    /// If it is not between 0 and 1.
    pub fn unspillable_headroom(mut self, share: f64) -> Self {
        assert!(
            (0.0..=1.0).contains(&share),
            "a headroom of {share}: it is a share of a limit, between 0 and 1"
        );
        self.options.headroom = share;
        self
    }

    /// Sets the part of a limit by which batches on their way between operators may pass it: 0.1 by default. They
    /// exist already, so that a refusal would free nothing by itself. While a limit is passed, what operators declare
    /// is refused, so that those that can spill do so. A batch that would pass the limit by more is refused, and its
    /// query fails.
    ///
    /// # Panics
    ///
    /// If it is negative, or no number.
    pub fn overdraft(mut self, share: f64) -> Self {
        assert!(
            share >= 0.0,
            "an overdraft of {share}: it is a share of a limit, and not negative"
        );
        self.options.overdraft = share;
        self
    }

    /// Builds it.
    pub fn build(self) -> DataFusionMemory {
        DataFusionMemory {
            queries: Arc::new(Queries::new(self.allocator, self.options)),
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
            options: Options::default(),
        }
    }

    /// Returns a session with DataFusion's default features, whose queries are under the allocator. With the feature
    /// `sql` of this crate it has the table function `memory()`.
    ///
    /// # Errors
    ///
    /// None today; what a session needs may fail in a later version.
    #[cfg(feature = "session")]
    #[cfg_attr(docsrs, doc(cfg(feature = "session")))]
    pub fn session(&self, config: SessionConfig) -> Result<SessionContext> {
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        let session = SessionContext::new_with_state(self.configure(builder).build());
        #[cfg(feature = "sql")]
        session.register_udtf("memory", self.table());
        Ok(session)
    }

    /// Puts the session that a builder will build under the allocator: replaces its pool, and adds a rule after those
    /// that are there. The disk manager, the caches and the object stores of its runtime stay.
    #[cfg(feature = "session")]
    #[cfg_attr(docsrs, doc(cfg(feature = "session")))]
    pub fn configure(&self, builder: SessionStateBuilder) -> SessionStateBuilder {
        port::configure(builder, self.queries.shared(), self.query_rule())
    }

    /// Returns the pool of what runs in a session without a query.
    pub fn pool(&self) -> Arc<dyn MemoryPool> {
        QueryPool::of(self.queries.shared(), true)
    }

    /// Returns the rule that [`configure`](Self::configure) adds, for a list of rules of your own. It must be the last.
    pub fn rule(&self) -> Arc<dyn PhysicalOptimizerRule + Send + Sync> {
        self.query_rule()
    }

    /// Returns the table function that [`session`](Self::session) registers as `memory()`, for a session of your own:
    /// `SELECT * FROM memory()` has a row for each operator of each query that is alive, the query that asks included.
    /// The columns are `query`, `operator`, `declared`, `held`, `charged`, `peak`, `spilled`, `refused`, `forced`,
    /// `revoked` and `consumers`, as [`OperatorReport`](crate::OperatorReport) explains them.
    #[cfg(feature = "sql")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sql")))]
    pub fn table(&self) -> Arc<dyn TableFunctionImpl> {
        Arc::new(MemoryTable::new(&self.queries))
    }

    fn query_rule(&self) -> Arc<QueryRule> {
        Arc::new(QueryRule(Arc::clone(&self.queries)))
    }

    /// Returns a builder of a query of that name, which need not be unique.
    pub fn query(&self, name: &str) -> QueryBuilder {
        QueryBuilder {
            queries: Arc::clone(&self.queries),
            name: name.to_owned(),
            limit: self.queries.options().query_limit,
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

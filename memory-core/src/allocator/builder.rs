//! Builders of roots and children.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::{BufferAllocator, RootAllocator};
use arrow_memory_manager::{AllocationManager, BackendError, GuardedManager, backend};

use crate::accounting::{Handle, NodeConfig, NodeKind, TreeConfig};
use crate::debug::{Operation, Origin, Trail};
use crate::environment::Switch;
use crate::error::AllocError;
use crate::events;
use crate::listener::AllocationListener;
use crate::outcome::{AllocatorInfo, Purpose};
use crate::reclaim::retry_after_asking;
use crate::rounding::RoundingPolicy;
use crate::size::{KIB, MAX_SIZE};
use crate::sync::current::unscoped;

/// The default maximum of the credit that a node holds, in bytes.
pub(crate) const DEFAULT_CREDIT: usize = KIB * KIB;

/// How long a waiter's missing bytes may not fall before another one is told to give way, by default.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(1);

/// The environment variable that turns on debug mode for new trees.
static DEBUG_SWITCH: Switch = Switch::new("ARROW_MEMORY_DEBUG_ALLOCATOR");

/// Builds a [`RootAllocator`].
///
/// ```
/// # use arrow_memory_system as _;
/// use std::sync::Arc;
///
/// use arrow_memory_core::{AllocationListener, RootAllocator, SegmentRoundingPolicy, backend};
///
/// struct Silent;
/// impl AllocationListener for Silent {}
///
/// let root = RootAllocator::builder()
///     .name("server")
///     .limit(1 << 30)
///     .allocation_manager(backend::manager("system")?) // or .backend("system")
///     .listener(Arc::new(Silent))
///     .rounding_policy(SegmentRoundingPolicy::new(4096)?)
///     .debug(false)
///     .statistics(true)
///     .credit(64 << 10)
///     .build()?;
/// let buffer = root.buffer(1)?;
/// assert_eq!(buffer.capacity(), 4096);
/// assert_eq!(root.stats().total_bytes, Some(4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
#[derive(Default)]
pub struct RootAllocatorBuilder {
    name: Option<String>,
    limit: Option<usize>,
    manager: Option<Arc<dyn AllocationManager>>,
    backend: Option<String>,
    listener: Option<Arc<dyn AllocationListener>>,
    policy: Option<Arc<dyn RoundingPolicy>>,
    debug: Option<bool>,
    statistics: bool,
    credit: Option<usize>,
    patience: Option<Duration>,
    own_timer: bool,
    spill_reserve: usize,
}

impl RootAllocatorBuilder {
    /// Sets the root's name; `ROOT` by default.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets the limit of the whole tree in bytes. Without this call, or with a value above `isize::MAX`,
    /// there is no limit.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the backend by value. It takes precedence over [`backend`](Self::backend) and the
    /// environment.
    pub fn allocation_manager(mut self, manager: Arc<dyn AllocationManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Sets the backend by name. It takes precedence over the environment.
    pub fn backend(mut self, name: &str) -> Self {
        self.backend = Some(name.to_owned());
        self
    }

    /// Sets the listener of the root and of its descendants, except those for which another listener is
    /// set. None by default.
    pub fn listener(mut self, listener: Arc<dyn AllocationListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Sets the rounding policy, which decides capacities, of the root and of its descendants, except
    /// those for which another policy is set; [`PaddingRoundingPolicy`](crate::PaddingRoundingPolicy) by
    /// default.
    pub fn rounding_policy(mut self, policy: impl RoundingPolicy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Turns debug mode on or off.
    ///
    /// Without this call the environment variable `ARROW_MEMORY_DEBUG_ALLOCATOR` turns it on: with the
    /// values 1, on, true and yes, in upper or lower case. The opposite words leave it off, and any other
    /// value causes a warning. A `tracing` subscriber that enables level trace for the target
    /// `arrow_memory_core` also turns it on.
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = Some(debug);
        self
    }

    /// Sets whether the tree keeps totals and counts, which costs a few atomic additions per buffer; off
    /// by default.
    pub fn statistics(mut self, statistics: bool) -> Self {
        self.statistics = statistics;
        self
    }

    /// Sets the maximum of unused bytes that a node may hold as credit, so that most allocations need
    /// neither the tree's lock nor an ancestor; 1 MiB by default.
    ///
    /// With 0 every operation takes the tree's lock, and the peaks of all allocators are exact. Limits
    /// and sums are exact with any value. Of all bytes that a node holds unused, including its
    /// reservation, 1 to 2 MiB can be charged without the lock: a larger block always takes it.
    pub fn credit(mut self, most: usize) -> Self {
        self.credit = Some(most);
        self
    }

    /// Sets how long a request may [wait](BufferAllocator::wait) without getting nearer to being granted before
    /// waiters that hold memory are told to give way; 1 second by default.
    ///
    /// See [`WaitError::GiveWay`](crate::WaitError::GiveWay).
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Sets whether the program itself keeps the deadlines of requests that wait in this tree, by calling
    /// [`expire_waits`](BufferAllocator::expire_waits). By default, `false`, a thread of this crate does, which
    /// is started when a request first waits. It serves all trees of the process: a waker that blocks delays their
    /// deadlines. Reclaimers are called by the thread or task that waits, and delay nobody else's.
    pub fn own_timer(mut self, own: bool) -> Self {
        self.own_timer = own;
        self
    }

    /// Sets bytes of the limit aside for spilling; none by default.
    ///
    /// No other request gets them. An [`Ask`](crate::Ask) of [`Cost::Spill`](crate::Cost::Spill) comes with a
    /// quarter of them, [`Ask::memory`](crate::Ask::memory): an allocator with that reservation and that limit, for
    /// what is needed to write the rest elsewhere. No more asks of that cost are out than there are quarters.
    /// Requests of it, and below it, neither ask nor wait, so that spilling does not depend on others.
    pub fn spill_reserve(mut self, bytes: usize) -> Self {
        self.spill_reserve = bytes;
        self
    }

    /// Builds the root.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the backend is unknown, is not linked into the program, or does not start.
    #[track_caller]
    pub fn build(self) -> Result<RootAllocator, BackendError> {
        let manager = match (self.manager, self.backend) {
            (Some(manager), _) => manager,
            (None, Some(name)) => backend::manager(&name)?,
            (None, None) => backend::default_manager()?,
        };
        let config = TreeConfig {
            manager: Some(GuardedManager::by_environment(manager)),
            credit: self.credit.unwrap_or(DEFAULT_CREDIT),
            debug: (self.debug).unwrap_or_else(|| DEBUG_SWITCH.is_on() || events::traced()),
            statistics: self.statistics,
            patience: self.patience.unwrap_or(DEFAULT_PATIENCE),
            own_timer: self.own_timer,
        };
        let root = NodeConfig {
            kind: NodeKind::Allocator,
            name: unscoped(|| Arc::from(self.name.as_deref().unwrap_or("ROOT"))),
            group: None,
            limit: self.limit.unwrap_or(usize::MAX),
            reservation: 0,
            priority: 0,
            in_reserve: false,
            listener: self.listener,
            policy: self.policy,
        };
        let allocator = BufferAllocator::from_handle(unscoped(|| Handle::new_root(config, root)));
        if self.spill_reserve > 0 {
            allocator.handle.set_spill_reserve(self.spill_reserve);
        }
        start_trail(&allocator, Location::caller());
        Ok(RootAllocator { allocator })
    }
}

/// In debug mode, starts the history of a new allocator.
fn start_trail(allocator: &BufferAllocator, caller: &'static Location<'static>) {
    if allocator.is_debug() {
        let origin = Origin::now(Operation::Created, caller);
        let trail = Trail::new(allocator.id().as_u64(), origin);
        allocator.node().set_trail(trail);
    }
}

/// Builds a child allocator; [`BufferAllocator::child`] returns it.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_core::PowerOfTwoRoundingPolicy;
///
/// let query = root
///     .child("query-7")
///     .reservation(4096)
///     .limit(65536)
///     .rounding_policy(PowerOfTwoRoundingPolicy)
///     .build()?;
/// assert_eq!((query.init_reservation(), query.limit()), (4096, 65536));
/// assert_eq!(query.child("scan").build()?.buffer(100)?.capacity(), 128); // inherited
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
#[doc(alias = "newChildAllocator")]
pub struct ChildAllocatorBuilder {
    parent: BufferAllocator,
    name: Arc<str>,
    group: Option<Arc<str>>,
    reservation: usize,
    limit: usize,
    priority: i32,
    listener: Option<Arc<dyn AllocationListener>>,
    policy: Option<Arc<dyn RoundingPolicy>>,
}

impl ChildAllocatorBuilder {
    pub(super) fn new(parent: BufferAllocator, name: &str) -> Self {
        Self {
            listener: parent.node().listener.clone(),
            policy: parent.node().policy.clone(),
            // It stays as long as something names the child, metrics as long as the tree: no scope should pay for it.
            name: unscoped(|| Arc::from(name)),
            group: None,
            reservation: 0,
            limit: usize::MAX,
            priority: parent.node().priority,
            parent,
        }
    }

    /// Sets the group of allocators that this child belongs to, such as `query` for all queries.
    ///
    /// Metrics (`MetricsExporter`) and [`SnapshotEntry::group`](crate::SnapshotEntry::group), which add
    /// up numbers by name, use the group in place of the child's name. Errors, reports and events still
    /// use the name. Give a group to children whose names are unique, so that each does not add a new
    /// label value; the number of allocators in a group is not limited. Without this call the child has
    /// no group. Children do not inherit a group.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let query = root.child("query-7").group("query").build()?;
    /// let entry = &root.snapshot().entries[1];
    /// assert_eq!((query.name(), entry.group.as_deref()), ("query-7", Some("query")));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn group(mut self, group: &str) -> Self {
        self.group = Some(unscoped(|| Arc::from(group)));
        self
    }

    /// Sets the reservation in bytes: the parent is charged for it at once, and until the child leaves or
    /// [`set_reservation`](BufferAllocator::set_reservation) changes it. 0 by default.
    pub fn reservation(mut self, bytes: usize) -> Self {
        self.reservation = bytes;
        self
    }

    /// Sets the child's own limit in bytes. Without this call, or with a value above `isize::MAX`, it has
    /// none.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the number that orders who is asked first when [memory is short](BufferAllocator::on_shortage), among
    /// those of one [`Cost`](crate::Cost): an allocator with a larger number is asked later. Without this call the
    /// child has the number of its parent; that of a root is 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the listener, in place of the one that the child inherits.
    pub fn listener(mut self, listener: Arc<dyn AllocationListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Sets the rounding policy, in place of the one that the child inherits.
    pub fn rounding_policy(mut self, policy: impl RoundingPolicy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Builds the child.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if the reservation passes the child's own limit (the error then
    ///   names the child), or a limit between the parent and the root.
    /// * [`AllocError::Closed`] if the parent, or an allocator whose memory the reservation would need,
    ///   is closed.
    /// * [`AllocError::SizeOverflow`] if a sum would pass `isize::MAX`.
    #[track_caller]
    pub fn build(self) -> Result<BufferAllocator, AllocError> {
        self.build_charged(None, Location::caller())
    }

    /// The parent, and the reservation in bytes.
    pub(crate) fn asks(&self) -> (&BufferAllocator, usize) {
        (&self.parent, self.reservation)
    }

    /// Whether the reservation fits in the child's own limit.
    pub(crate) fn is_sound(&self) -> bool {
        self.reservation <= self.limit.min(MAX_SIZE)
    }

    /// The request for the reservation, as an error names it.
    pub(crate) fn request(&self) -> (usize, Purpose) {
        let child = AllocatorInfo::unnumbered(&self.name);
        (self.reservation, Purpose::Child { child })
    }

    /// Builds the child. If it was `admitted`, its reservation is charged to the parent already; that is called once
    /// the child has taken it over.
    pub(crate) fn build_charged(
        self,
        admitted: Option<&mut dyn FnMut()>,
        caller: &'static Location<'static>,
    ) -> Result<BufferAllocator, AllocError> {
        let Self {
            parent,
            name,
            group,
            reservation,
            limit,
            priority,
            listener,
            policy,
        } = self;
        let config = NodeConfig {
            kind: NodeKind::Allocator,
            name,
            group,
            limit,
            reservation,
            priority,
            in_reserve: parent.handle.is_in_reserve(),
            listener,
            policy,
        };
        let built = parent
            .handle
            .new_child(config, admitted.is_some(), |refusal, attempt| {
                retry_after_asking(&parent.handle, reservation, refusal, attempt)
            });
        let handle = built.map_err(|(refusal, child)| {
            let purpose = Purpose::Child {
                child: child.clone(),
            };
            let error = refusal.to_error(reservation, purpose);
            events::child_refused(&child, reservation, &error);
            error
        })?;
        if let Some(taken_over) = admitted {
            taken_over();
        }
        let child = BufferAllocator::from_handle(handle);
        start_trail(&child, caller);
        events::child_created(child.info(), parent.info(), reservation, limit);
        if let Some(listener) = &parent.node().listener {
            events::inside(|| listener.on_child_added(parent.info(), child.info()));
        }
        Ok(child)
    }
}

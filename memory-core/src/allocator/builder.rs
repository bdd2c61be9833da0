//! Builders of roots and children.

use std::panic::Location;
use std::sync::Arc;

use super::{BufferAllocator, RootAllocator};
use arrow_memory_manager::{AllocationManager, BackendError, GuardedManager, backend};

use crate::accounting::{Handle, NodeConfig, TreeConfig};
use crate::debug::{Operation, Origin, Trail};
use crate::environment::Switch;
use crate::error::AllocError;
use crate::events;
use crate::listener::AllocationListener;
use crate::outcome::Purpose;
use crate::rounding::RoundingPolicy;
use crate::size::KIB;

/// The most credit that a node holds by default, in bytes.
pub(crate) const DEFAULT_CREDIT: usize = KIB * KIB;

/// Turns on debug mode for new trees.
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
}

impl RootAllocatorBuilder {
    /// The root's name; `ROOT` by default.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The limit of the whole tree in bytes; none by default, or above `isize::MAX`.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The backend, as a value. Beats [`backend`](Self::backend) and the environment.
    pub fn allocation_manager(mut self, manager: Arc<dyn AllocationManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// The backend, by name. Beats the environment.
    pub fn backend(mut self, name: &str) -> Self {
        self.backend = Some(name.to_owned());
        self
    }

    /// Who is told what happens here and in children that name no other.
    pub fn listener(mut self, listener: Arc<dyn AllocationListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// What decides capacities, here and in children that name no other;
    /// [`PaddingRoundingPolicy`](crate::PaddingRoundingPolicy) by default.
    pub fn rounding_policy(mut self, policy: impl RoundingPolicy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Debug mode on or off, whatever `ARROW_MEMORY_DEBUG_ALLOCATOR` says (1, on, true and yes turn it
    /// on, in any case of letters; another word than those and their opposites is warned of). Without
    /// this call it is also on if a `tracing` subscriber wants everything of the target `arrow_memory_core` (level trace).
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = Some(debug);
        self
    }

    /// Whether totals and counts are kept (a few atomic additions per buffer); off by default.
    pub fn statistics(mut self, statistics: bool) -> Self {
        self.statistics = statistics;
        self
    }

    /// The most bytes that a node may hold unused, so that most allocations ask nobody; 1 MiB by
    /// default. With 0 every operation takes the tree's lock, and peaks are exact everywhere.
    /// Limits and sums are exact with any value. Of all that a node holds, also for a reservation, 1 to
    /// 2 MiB can be had without the lock: a larger block always takes it.
    pub fn credit(mut self, most: usize) -> Self {
        self.credit = Some(most);
        self
    }

    /// Builds the root.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the backend is unknown, missing, or does not start.
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
        };
        let root = NodeConfig {
            name: Arc::from(self.name.as_deref().unwrap_or("ROOT")),
            group: None,
            limit: self.limit.unwrap_or(usize::MAX),
            reservation: 0,
            listener: self.listener,
            policy: self.policy,
        };
        let allocator = BufferAllocator::from_handle(Handle::new_root(config, root));
        start_trail(&allocator, Location::caller());
        Ok(RootAllocator { allocator })
    }
}

/// Starts the history of a new allocator, in debug mode.
fn start_trail(allocator: &BufferAllocator, caller: &'static Location<'static>) {
    if allocator.is_debug() {
        let origin = Origin::now(Operation::Created, caller);
        let trail = Trail::new(allocator.id().as_u64(), origin);
        allocator.node().set_trail(trail);
    }
}

/// Builds a child allocator; made by [`BufferAllocator::child`].
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
    listener: Option<Arc<dyn AllocationListener>>,
    policy: Option<Arc<dyn RoundingPolicy>>,
}

impl ChildAllocatorBuilder {
    pub(super) fn new(parent: BufferAllocator, name: &str) -> Self {
        Self {
            listener: parent.node().listener.clone(),
            policy: parent.node().policy.clone(),
            parent,
            name: Arc::from(name),
            group: None,
            reservation: 0,
            limit: usize::MAX,
        }
    }

    /// Names the group of allocators that this child belongs to, such as `query` for all queries.
    ///
    /// A group stands in for the child's name where numbers are added up by name, that is in the labels
    /// of metrics (`MetricsExporter`) and in [`SnapshotEntry::group`](crate::SnapshotEntry::group).
    /// Errors, reports and events go on to use the name. Give a group to children whose names are
    /// unique, so that they do not add a new label value each; the number of allocators in a group is not
    /// limited. Without this call the child has no group. Children do not inherit a group.
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
        self.group = Some(Arc::from(group));
        self
    }

    /// Bytes that the child owns for life; charged to the parent at once. 0 by default.
    pub fn reservation(mut self, bytes: usize) -> Self {
        self.reservation = bytes;
        self
    }

    /// The child's own limit in bytes; none by default, or above `isize::MAX`.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Replaces the listener that the child inherits.
    pub fn listener(mut self, listener: Arc<dyn AllocationListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Replaces the rounding policy that the child inherits.
    pub fn rounding_policy(mut self, policy: impl RoundingPolicy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Builds the child.
    ///
    /// # Errors
    ///
    /// As [`BufferAllocator::new_child_allocator`].
    #[track_caller]
    pub fn build(self) -> Result<BufferAllocator, AllocError> {
        let Self {
            parent,
            name,
            group,
            reservation,
            limit,
            listener,
            policy,
        } = self;
        let config = NodeConfig {
            name,
            group,
            limit,
            reservation,
            listener,
            policy,
        };
        let handle = parent
            .handle
            .new_child(config)
            .map_err(|(refusal, child)| {
                let purpose = Purpose::Child {
                    child: child.clone(),
                };
                let error = refusal.to_error(reservation, purpose);
                events::child_refused(&child, reservation, &error);
                error
            })?;
        let child = BufferAllocator::from_handle(handle);
        start_trail(&child, Location::caller());
        events::child_created(child.info(), parent.info(), reservation, limit);
        if let Some(listener) = &parent.node().listener {
            listener.on_child_added(parent.info(), child.info());
        }
        Ok(child)
    }
}

//! [`RecordingListener`]: a listener that records its calls.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::error::Veto;
use crate::listener::AllocationListener;
use crate::outcome::{AllocationOutcome, AllocatorInfo};
use crate::sync::plain::lock_uncounted as lock;

/// A listener that records its calls as plain data.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_core::testing::{RecordingListener, StdManager};
///
/// let listener = Arc::new(RecordingListener::new());
/// let root = RootAllocator::builder()
///     .allocation_manager(Arc::new(StdManager))
///     .listener(listener.clone())
///     .build()?;
/// drop(root.buffer(100)?);
/// assert_eq!(listener.events().len(), 3);
/// let heard = ["pre-allocation of 128 at ROOT", "allocation of 128 at ROOT", "release of 128 at ROOT"];
/// assert_eq!(listener.lines(), heard);
/// listener.veto(true);
/// assert!(root.buffer(100).is_err());
/// assert_eq!(listener.take().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct RecordingListener {
    events: Mutex<Vec<ListenerEvent>>,
    retry: AtomicBool,
    veto: AtomicBool,
}

/// One call of a listener. It prints as a line such as `allocation of 64 at join`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenerEvent {
    /// A call of [`AllocationListener::on_pre_allocation`].
    PreAllocation {
        /// The allocator.
        at: AllocatorInfo,
        /// The size in bytes.
        size: usize,
    },
    /// A call of [`AllocationListener::on_allocation`].
    Allocation {
        /// The allocator.
        at: AllocatorInfo,
        /// The size in bytes.
        size: usize,
    },
    /// A call of [`AllocationListener::on_release`].
    Release {
        /// The allocator.
        at: AllocatorInfo,
        /// The size in bytes.
        size: usize,
    },
    /// A call of [`AllocationListener::on_failed_allocation`].
    FailedAllocation {
        /// The allocator.
        at: AllocatorInfo,
        /// The size in bytes.
        size: usize,
        /// The refuser, and the state of each level up to it.
        outcome: AllocationOutcome,
    },
    /// A call of [`AllocationListener::on_transfer`].
    Transfer {
        /// The allocator that was charged before.
        from: AllocatorInfo,
        /// The allocator that is charged now.
        to: AllocatorInfo,
        /// The size in bytes.
        size: usize,
    },
    /// A call of [`AllocationListener::on_child_added`].
    ChildAdded {
        /// The allocator whose listener was told.
        parent: AllocatorInfo,
        /// Its new child.
        child: AllocatorInfo,
    },
    /// A call of [`AllocationListener::on_child_removed`].
    ChildRemoved {
        /// The allocator whose listener was told.
        parent: AllocatorInfo,
        /// The child that left.
        child: AllocatorInfo,
    },
}

impl RecordingListener {
    /// Creates a listener that has no recorded calls, vetoes nothing and requests no retry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether each failed allocation from now on is tried once more.
    pub fn retry_failures(&self, retry: bool) {
        // Relaxed: the flag guards no other memory.
        self.retry.store(retry, Ordering::Relaxed);
    }

    /// Sets whether each allocation from now on is vetoed.
    pub fn veto(&self, veto: bool) {
        // Relaxed: the flag guards no other memory.
        self.veto.store(veto, Ordering::Relaxed);
    }

    /// Returns the recorded calls, in order.
    pub fn events(&self) -> Vec<ListenerEvent> {
        self.lock().clone()
    }

    /// Returns the recorded calls, in order, and removes them.
    pub fn take(&self) -> Vec<ListenerEvent> {
        std::mem::take(&mut *self.lock())
    }

    /// Returns the recorded calls as text, one line per call, and removes them.
    pub fn lines(&self) -> Vec<String> {
        self.take().iter().map(ToString::to_string).collect()
    }

    fn record(&self, event: ListenerEvent) {
        self.lock().push(event);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ListenerEvent>> {
        lock(&self.events)
    }
}

impl AllocationListener for RecordingListener {
    fn on_pre_allocation(&self, at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
        let at = at.clone();
        self.record(ListenerEvent::PreAllocation { at, size });
        // Relaxed: the flag guards no other memory.
        if self.veto.load(Ordering::Relaxed) {
            return Err(Veto::new("the recording listener was told to veto"));
        }
        Ok(())
    }

    fn on_allocation(&self, at: &AllocatorInfo, size: usize) {
        let at = at.clone();
        self.record(ListenerEvent::Allocation { at, size });
    }

    fn on_release(&self, at: &AllocatorInfo, size: usize) {
        let at = at.clone();
        self.record(ListenerEvent::Release { at, size });
    }

    fn on_failed_allocation(
        &self,
        at: &AllocatorInfo,
        size: usize,
        outcome: &AllocationOutcome,
    ) -> bool {
        let (at, outcome) = (at.clone(), outcome.clone());
        self.record(ListenerEvent::FailedAllocation { at, size, outcome });
        // Relaxed: the flag guards no other memory.
        self.retry.load(Ordering::Relaxed)
    }

    fn on_transfer(&self, from: &AllocatorInfo, to: &AllocatorInfo, size: usize) {
        let (from, to) = (from.clone(), to.clone());
        self.record(ListenerEvent::Transfer { from, to, size });
    }

    fn on_child_added(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let (parent, child) = (parent.clone(), child.clone());
        self.record(ListenerEvent::ChildAdded { parent, child });
    }

    fn on_child_removed(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let (parent, child) = (parent.clone(), child.clone());
        self.record(ListenerEvent::ChildRemoved { parent, child });
    }
}

impl fmt::Display for ListenerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PreAllocation { at, size } => write!(f, "pre-allocation of {size} at {at}"),
            Self::Allocation { at, size } => write!(f, "allocation of {size} at {at}"),
            Self::Release { at, size } => write!(f, "release of {size} at {at}"),
            Self::FailedAllocation { at, size, outcome } => {
                let refuser = outcome.failed_allocator();
                write!(f, "failure of {size} at {at}, refused by {refuser}")
            }
            Self::Transfer { from, to, size } => {
                write!(f, "transfer of {size} from {from} to {to}")
            }
            Self::ChildAdded { parent, child } => write!(f, "child {child} added to {parent}"),
            Self::ChildRemoved { parent, child } => {
                write!(f, "child {child} removed from {parent}")
            }
        }
    }
}

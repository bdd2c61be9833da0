//! Managers that fail on demand: [`FailingManager`] and [`PanickingManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::manager::constructors;
use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError};

/// Fails at chosen calls of another manager.
///
/// Calls are counted from 0: those of `allocate`, `allocate_zeroed` and `reallocate`, together.
/// To reach every error path of some code, run it with a failure at call 0, 1, 2, …, until no
/// call failed:
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_manager::testing::{Block, FailingManager};
///
/// for call in 0.. {
///     let manager = FailingManager::new();
///     manager.fail_at(call);
///     let grown = Block::zeroed(&manager, Layout::new::<u64>())
///         .and_then(|mut block| block.reallocate(100, 0));
///     if manager.failures() == 0 {
///         assert!(grown.is_ok());
///         break;
///     }
///     assert!(grown.is_err());
/// }
/// ```
#[derive(Debug)]
pub struct FailingManager {
    inner: Arc<dyn AllocationManager>,
    plan: Plan,
}

constructors!(FailingManager { plan } "Fails at no call until it is told to.");

impl FailingManager {
    /// Fails at the call with this number, counted from the manager's first call as 0.
    pub fn fail_at(&self, call: u64) {
        self.plan.set(call, call);
    }

    /// Fails at every call from now on.
    pub fn fail_always(&self) {
        self.plan.set(0, u64::MAX);
    }

    /// Fails at the calls with the numbers `n` − 1, 2 `n` − 1, …: at every `n`-th one.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use arrow_memory_core::RootAllocator;
    /// use arrow_memory_manager::testing::{FailingManager, TrackingManager};
    ///
    /// let manager = Arc::new(FailingManager::over(Arc::new(TrackingManager::new())));
    /// manager.fail_every(2);
    /// let root = RootAllocator::builder().allocation_manager(manager.clone()).build()?;
    /// assert!(root.buffer(1).is_ok() && root.buffer(1).is_err());
    /// assert_eq!((manager.calls(), manager.failures()), (2, 1));
    /// manager.fail_always();
    /// assert!(root.buffer(1).is_err());
    /// manager.recover();
    /// assert!(root.buffer(1).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail_every(&self, n: u64) {
        assert_ne!(n, 0, "there is no zeroth call");
        self.plan.set_every(n);
    }

    /// Fails at no further call.
    pub fn recover(&self) {
        self.plan.set(u64::MAX, 0);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.plan.calls()
    }

    /// How many of them failed.
    pub fn failures(&self) -> u64 {
        self.plan.hits()
    }

    fn step(&self) -> Result<(), ManagerError> {
        match self.plan.step() {
            Some(call) => Err(ManagerError::new(format!("call {call} was to fail"))),
            None => Ok(()),
        }
    }
}

// SAFETY: every method fails without doing anything or forwards to a manager that keeps the
// promises.
unsafe impl AllocationManager for FailingManager {
    forward_to_inner!(name, deallocate, release_unused, stats);
    forward_to_inner!(before |this| this.step()?; allocate, allocate_zeroed, reallocate);
}

/// Panics at chosen calls of another manager, which the contract allows everywhere but in
/// `deallocate`. Calls are counted as by [`FailingManager`].
///
/// ```
/// use std::alloc::Layout;
/// use std::panic;
///
/// use arrow_memory_manager::testing::{Block, PanickingManager};
///
/// let manager = PanickingManager::new();
/// manager.panic_at(0);
/// let caught = panic::catch_unwind(|| Block::zeroed(&manager, Layout::new::<u64>()).is_ok());
/// assert!(caught.is_err());
/// ```
#[derive(Debug)]
pub struct PanickingManager {
    inner: Arc<dyn AllocationManager>,
    plan: Plan,
}

constructors!(PanickingManager { plan } "Panics at no call until it is told to.");

impl PanickingManager {
    /// Panics at the call with this number, counted from the manager's first call as 0.
    pub fn panic_at(&self, call: u64) {
        self.plan.set(call, call);
    }

    /// Panics at every call from now on.
    ///
    /// ```
    /// use arrow_memory_manager::testing::{Block, PanickingManager, StdManager};
    /// use std::alloc::Layout;
    ///
    /// let manager = PanickingManager::over(std::sync::Arc::new(StdManager));
    /// manager.panic_always();
    /// let layout = Layout::new::<u64>();
    /// assert!(std::panic::catch_unwind(|| Block::zeroed(&manager, layout).is_ok()).is_err());
    /// manager.recover();
    /// assert!(Block::zeroed(&manager, layout).is_ok());
    /// assert_eq!((manager.calls(), manager.panics()), (2, 1));
    /// ```
    pub fn panic_always(&self) {
        self.plan.set(0, u64::MAX);
    }

    /// Panics at no further call.
    pub fn recover(&self) {
        self.plan.set(u64::MAX, 0);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.plan.calls()
    }

    /// How many of them panicked.
    pub fn panics(&self) -> u64 {
        self.plan.hits()
    }

    fn step(&self) {
        if let Some(call) = self.plan.step() {
            panic!("call {call} was to panic");
        }
    }
}

// Its interior is atomics, and the manager below is left alone by a panic.
impl std::panic::RefUnwindSafe for PanickingManager {}

// SAFETY: every method but `deallocate` panics without doing anything, or forwards to a manager
// that keeps the promises.
unsafe impl AllocationManager for PanickingManager {
    forward_to_inner!(name, deallocate, release_unused, stats);
    forward_to_inner!(before |this| this.step(); allocate, allocate_zeroed, reallocate);
}

/// At which calls something happens: those from `first` to `last`, and every `every`-th one.
#[derive(Debug)]
struct Plan {
    calls: AtomicU64,
    hits: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    /// 0: never.
    every: AtomicU64,
}

impl Default for Plan {
    /// Nothing happens at any call.
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            every: AtomicU64::new(0),
        }
    }
}

impl Plan {
    // Relaxed, all of them: the numbers guard no other memory, and tests that change a plan while
    // others call the manager ask for no order.

    fn set(&self, first: u64, last: u64) {
        self.every.store(0, Ordering::Relaxed);
        self.first.store(first, Ordering::Relaxed);
        self.last.store(last, Ordering::Relaxed);
    }

    fn set_every(&self, n: u64) {
        self.set(u64::MAX, 0);
        self.every.store(n, Ordering::Relaxed);
    }

    /// Counts a call; its number, if the plan says that it is hit.
    fn step(&self) -> Option<u64> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let first = self.first.load(Ordering::Relaxed);
        let last = self.last.load(Ordering::Relaxed);
        let every = self.every.load(Ordering::Relaxed);
        let hit = (first..=last).contains(&call) || (every > 0 && (call + 1).is_multiple_of(every));
        hit.then(|| {
            self.hits.fetch_add(1, Ordering::Relaxed);
            call
        })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn answers(manager: &FailingManager, calls: usize) -> Vec<bool> {
        (0..calls).map(|_| manager.step().is_ok()).collect()
    }

    #[test]
    fn failures_come_where_they_were_planned_and_nowhere_else() {
        let manager = FailingManager::new();
        assert_eq!(answers(&manager, 2), [true, true]);

        manager.fail_at(3);
        assert_eq!(answers(&manager, 3), [true, false, true]);

        manager.fail_every(3);
        assert_eq!(answers(&manager, 4), [false, true, true, false]);

        manager.fail_always();
        assert_eq!(answers(&manager, 2), [false, false]);

        manager.recover();
        assert_eq!(answers(&manager, 2), [true, true]);
        assert_eq!((manager.calls(), manager.failures()), (13, 5));
    }
}

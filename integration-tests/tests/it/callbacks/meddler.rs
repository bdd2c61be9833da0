//! A listener that runs code inside every callback, and a program that causes each of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, BufferAllocator, ForeignAllocation,
    RootAllocator, Veto, WeakBufferAllocator,
};

use super::Backend;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Callback {
    PreAllocation,
    Allocation,
    Release,
    FailedAllocation,
    Transfer,
    ChildAdded,
    ChildRemoved,
}

pub(super) const CALLBACKS: [Callback; 7] = [
    Callback::PreAllocation,
    Callback::Allocation,
    Callback::Release,
    Callback::FailedAllocation,
    Callback::Transfer,
    Callback::ChildAdded,
    Callback::ChildRemoved,
];

type Act = dyn Fn(&BufferAllocator, Callback) + Send + Sync;

/// Runs `act` with the allocator named `child` inside every callback, but not inside the callbacks that `act`
/// itself causes.
pub(super) struct Meddler {
    act: Box<Act>,
    child: OnceLock<WeakBufferAllocator>,
    busy: AtomicBool,
    calls: Mutex<Vec<Callback>>,
}

impl Meddler {
    pub(super) fn new(
        act: impl Fn(&BufferAllocator, Callback) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            act: Box::new(act),
            child: OnceLock::new(),
            busy: AtomicBool::new(false),
            calls: Mutex::default(),
        })
    }

    fn called(&self, callback: Callback) {
        let child = self.child.get().and_then(WeakBufferAllocator::upgrade);
        // Relaxed, both: the tests of callbacks run on one thread.
        let Some(child) = child.filter(|_| !self.busy.swap(true, Ordering::Relaxed)) else {
            return;
        };
        let free = Free(&self.busy);
        self.calls.lock().unwrap().push(callback);
        (self.act)(&child, callback);
        drop(free);
    }

    pub(super) fn met(&self) -> Vec<Callback> {
        let mut met = self.calls.lock().unwrap().clone();
        met.sort();
        met.dedup();
        met
    }
}

/// Clears the flag when the listener returns or panics.
struct Free<'a>(&'a AtomicBool);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl AllocationListener for Meddler {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, _size: usize) -> Result<(), Veto> {
        self.called(Callback::PreAllocation);
        Ok(())
    }

    fn on_allocation(&self, _at: &AllocatorInfo, _size: usize) {
        self.called(Callback::Allocation);
    }

    fn on_release(&self, _at: &AllocatorInfo, _size: usize) {
        self.called(Callback::Release);
    }

    fn on_failed_allocation(
        &self,
        _at: &AllocatorInfo,
        _size: usize,
        _outcome: &AllocationOutcome,
    ) -> bool {
        self.called(Callback::FailedAllocation);
        true
    }

    fn on_transfer(&self, _from: &AllocatorInfo, _to: &AllocatorInfo, _size: usize) {
        self.called(Callback::Transfer);
    }

    fn on_child_added(&self, _parent: &AllocatorInfo, _child: &AllocatorInfo) {
        self.called(Callback::ChildAdded);
    }

    fn on_child_removed(&self, _parent: &AllocatorInfo, _child: &AllocatorInfo) {
        self.called(Callback::ChildRemoved);
    }
}

pub(super) const LIMIT: usize = 64 * 1024;

/// A root and a child that share a listener.
pub(super) struct Tree {
    manager: Arc<TrackingManager>,
    pub(super) root: BufferAllocator,
    pub(super) child: BufferAllocator,
}

impl Tree {
    pub(super) fn new(backend: &Backend, listener: &Arc<Meddler>) -> Self {
        let manager = Arc::new(TrackingManager::over(Arc::clone(backend)));
        let root: BufferAllocator = RootAllocator::builder()
            .name("root")
            .limit(LIMIT)
            .allocation_manager(manager.clone())
            .listener(Arc::clone(listener) as Arc<dyn AllocationListener>)
            .build()
            .unwrap()
            .into();
        let child = root.child("child").build().unwrap();
        assert!(listener.child.set(child.downgrade()).is_ok());
        Self {
            manager,
            root,
            child,
        }
    }

    /// Asserts that all memory is released and that the tree can be closed.
    pub(super) fn assert_empty(self) {
        let Self {
            manager,
            root,
            child,
        } = self;
        assert_eq!(root.verify(), Ok(()));
        assert_eq!((child.allocated_memory(), manager.live_bytes()), (0, 0));
        assert_eq!(root.allocated_memory(), 0);
        drop(child);
        root.close().unwrap();
    }
}

/// Runs steps that call a listener. Each step may panic or be refused; then the next ones run without its
/// result.
pub(super) fn program(tree: &Tree) -> usize {
    let (root, child) = (&tree.root, &tree.child);
    let mut panics = 0;
    let buffer = caught(&mut panics, || child.buffer_zeroed(500));
    let mut buffer = buffer.and_then(Result::ok);
    if let Some(buffer) = &mut buffer {
        let _ = caught(&mut panics, || buffer.resize(5000, 1));
        let _ = caught(&mut panics, || buffer.truncate(100));
        let _ = caught(&mut panics, || buffer.shrink_to_fit());
    }
    let _ = caught(&mut panics, || child.buffer(LIMIT + 1).map(drop));
    if let Some(buffer) = buffer.map(|buffer| buffer.freeze()) {
        let shared = caught(&mut panics, || buffer.retain_in(root));
        let moved = caught(&mut panics, || buffer.transfer_ownership(root));
        let back = caught(&mut panics, || {
            let moved = moved.as_ref().and_then(|it| it.as_ref().ok());
            moved.map(|moved| moved.buffer.try_transfer_ownership(child))
        });
        // Ownership moves when the owner drops its buffer.
        caught(&mut panics, || drop(back));
        caught(&mut panics, || drop(buffer));
        caught(&mut panics, || drop(shared));
        caught(&mut panics, || drop(moved));
    }
    let _ = caught(&mut panics, || {
        let mut reservation = child.new_reservation();
        reservation.add(100)?;
        reservation.allocate_buffer().map(drop).map_err(|it| it.0)
    });
    let _ = caught(&mut panics, || {
        let foreign = ForeignAllocation::from_owner(vec![1_u8; 300]);
        child.wrap_foreign_allocation(foreign).map(drop)
    });
    let grandchild = caught(&mut panics, || {
        child.child("grandchild").reservation(10).build()
    });
    if let Some(Ok(grandchild)) = grandchild {
        let _ = caught(&mut panics, || grandchild.buffer(1).map(drop));
        let _ = caught(&mut panics, || grandchild.close().is_ok());
        caught(&mut panics, || drop(grandchild));
    }
    panics
}

pub(super) fn caught<T>(panics: &mut usize, step: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(step));
    *panics += usize::from(result.is_err());
    result.ok()
}

//! No panic unwinds out of a `Drop`, whether it is of a listener, a `tracing` subscriber or a manager's
//! destructor. During another unwinding it would end the process.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]
#![expect(unsafe_code, reason = "implements a manager")]

use std::alloc::Layout;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::ptr::NonNull;
use std::sync::{Arc, Barrier, Once};
use std::thread;

use arrow_memory_core::testing::{Block, StdManager, TrackingManager};
use arrow_memory_core::{
    AllocationListener, AllocationManager, AllocatorInfo, ArrowBuf, CachingManager, LeakCheck,
    LoggingManager, ManagerError, ManagerStats, RootAllocator,
};
use tracing::{Event, Metadata, Subscriber, span};

thread_local! {
    /// Whether this thread's subscriber panics at each event, as if its disk were full.
    static PANICKING: Cell<bool> = const { Cell::new(false) };
    /// The number of panics so far.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// The payload of a panic. It panics when the code that caught the panic drops it.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("the payload's end");
    }
}

struct FullDisk;

impl Subscriber for FullDisk {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG && metadata.target().starts_with("arrow_memory")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        if PANICKING.get() {
            PANICS.set(PANICS.get() + 1);
            panic_any(PanicsOnDrop);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Panics in each callback that a `Drop` may run, and in its own destructor.
struct Listener;

impl AllocationListener for Listener {
    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        if PANICKING.get() {
            panic!("the listener's release");
        }
    }

    fn on_transfer(&self, _: &AllocatorInfo, _: &AllocatorInfo, _: usize) {
        if PANICKING.get() {
            panic!("the listener's transfer");
        }
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        if PANICKING.get() {
            panic!("the listener's child");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if PANICKING.get() {
            panic!("the listener's end");
        }
    }
}

/// A manager that panics when it is dropped.
#[derive(Debug)]
struct Manager(StdManager);

impl Drop for Manager {
    fn drop(&mut self) {
        if PANICKING.get() {
            PANICS.set(PANICS.get() + 1);
            panic!("the manager's end");
        }
    }
}

// SAFETY: it forwards all calls to a manager that keeps the promises.
unsafe impl AllocationManager for Manager {
    fn name(&self) -> &str {
        "panicking"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.0.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { self.0.deallocate(ptr, layout) };
    }

    fn stats(&self) -> ManagerStats {
        self.0.stats()
    }
}

fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(FullDisk).unwrap();
        let hook = std::panic::take_hook();
        // Expected panics are not printed.
        std::panic::set_hook(Box::new(move |info| {
            if !PANICKING.get() {
                hook(info);
            }
        }));
    });
}

/// Drops values while every callback panics, first normally, then during another unwinding.
fn drops_quietly<T>(make: impl Fn() -> T, panics: usize) {
    subscribe();
    for unwinding in [false, true] {
        let values = make();
        PANICS.set(0);
        PANICKING.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _values = values;
            assert!(!unwinding, "the caller's own panic");
        }));
        PANICKING.set(false);
        assert_eq!(result.is_err(), unwinding, "a panic left a drop");
        assert!(PANICS.get() >= panics, "{} panics were met", PANICS.get());
    }
}

fn root(manager: &Arc<TrackingManager>) -> RootAllocator {
    let root = RootAllocator::builder().allocation_manager(manager.clone());
    root.debug(false).build().unwrap()
}

fn is_at_rest(manager: &TrackingManager) {
    assert_eq!(manager.stats().live_bytes, Some(0));
}

#[test]
fn the_last_handle_goes_quietly_though_memory_outlives_it() {
    let manager = Arc::new(TrackingManager::new());
    let root = root(&manager);
    let left = Cell::new(None);
    let make = || {
        let child = root.child("child").build().unwrap();
        left.set(Some(child.buffer(64).unwrap()));
        child
    };
    drops_quietly(make, 1);
    left.set(None);
    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (0, 0)
    );
}

#[test]
fn the_last_handle_goes_quietly_with_external_bytes() {
    let manager = Arc::new(TrackingManager::new());
    let root = root(&manager);
    let make = || {
        let child = root.child("child").build().unwrap();
        child.allocate_bytes(100).unwrap();
        child
    };
    drops_quietly(make, 1);
    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (0, 0)
    );
}

#[test]
fn buffers_and_reservations_go_quietly_after_a_close() {
    let manager = Arc::new(TrackingManager::new());
    let root = root(&manager);
    let make = || {
        let child = root.child("child").build().unwrap();
        let buffers: Vec<_> = (0..3).map(|_| child.buffer(64).unwrap()).collect();
        let mut reservation = child.new_reservation();
        reservation.add(100).unwrap();
        assert!(child.close().is_err());
        (buffers, reservation)
    };
    drops_quietly(make, 2);
    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (0, 0)
    );
    is_at_rest(&manager);
}

/// A tree whose listener panics, and buffers in it.
fn watched(manager: &Arc<TrackingManager>) -> (RootAllocator, Vec<ArrowBuf>) {
    let root = RootAllocator::builder().allocation_manager(manager.clone());
    let root = root.listener(Arc::new(Listener)).build().unwrap();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let mut buffers: Vec<ArrowBuf> = (0..10).map(|_| a.buffer(64).unwrap().freeze()).collect();
    // The charge moves when the owning buffer, the first one, is dropped.
    let shared = buffers[0].retain_in(&b).unwrap();
    buffers.push(shared);
    (root, buffers)
}

#[test]
fn buffers_go_quietly_though_listener_and_subscriber_panic() {
    let manager = Arc::new(TrackingManager::new());
    drops_quietly(|| watched(&manager).1, 1);
    is_at_rest(&manager);
    drops_quietly(|| watched(&manager), 1);
    is_at_rest(&manager);
}

#[test]
fn a_tree_goes_quietly_though_its_manager_panics() {
    let make = || {
        let manager = Arc::new(Manager(StdManager));
        let root = RootAllocator::builder()
            .allocation_manager(manager)
            .build()
            .unwrap();
        // The tree is freed with its last buffer.
        let buffers: Vec<_> = (0..3).map(|_| root.buffer(64).unwrap()).collect();
        drop(root);
        buffers
    };
    drops_quietly(make, 2);
}

#[test]
fn a_leak_check_goes_quietly_where_its_thread_panics_already() {
    subscribe();
    let manager = Arc::new(TrackingManager::new());
    let root = root(&manager);
    let mut leaked = None;
    let check = LeakCheck::new(&root);
    leaked = leaked.or_else(|| root.buffer(64).ok());
    PANICKING.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _check = check;
        panic!("the caller's own panic");
    }));
    PANICKING.set(false);
    assert!(result.is_err());
    drop(leaked);
}

/// The manager emits an event after its block is freed, so each round meets a panic.
#[test]
fn a_block_of_a_manager_that_logs_goes_quietly() {
    let manager = LoggingManager::new(Arc::new(StdManager));
    let layout = Layout::from_size_align(100, 64).unwrap();
    drops_quietly(|| Block::zeroed(&manager, layout).unwrap(), 1);
}

/// The last reference to a manager below a cache is dropped in the destructor of a thread-local, out of which
/// a panic would end the process.
#[test]
fn a_manager_that_panics_at_the_end_of_a_thread_does_so_quietly() {
    /// A manager whose `deallocate` waits until another thread dropped its reference to the cache.
    #[derive(Debug)]
    struct Waits(Manager, Arc<Barrier>, Arc<Barrier>);
    // SAFETY: it forwards all calls to a manager that keeps the promises.
    unsafe impl AllocationManager for Waits {
        fn name(&self) -> &str {
            "waits"
        }

        fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
            self.0.allocate(layout)
        }

        unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
            self.1.wait();
            self.2.wait();
            // SAFETY: the caller's promises are the same.
            unsafe { self.0.deallocate(ptr, layout) };
        }
    }
    let (released, dropped) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let manager = Waits(
        Manager(StdManager),
        Arc::clone(&released),
        Arc::clone(&dropped),
    );
    let cache = Arc::new(CachingManager::new(Arc::new(manager)));

    let thread = thread::spawn({
        let cache = Arc::clone(&cache);
        move || {
            PANICKING.set(true);
            let layout = Layout::from_size_align(1 << 20, 64).unwrap();
            let block = Block::filled(&*cache, layout, 1).unwrap();
            drop(block); // it is kept for the thread
            drop(cache);
        }
    });
    released.wait();
    drop(cache);
    dropped.wait();

    assert!(thread.join().is_ok());
}

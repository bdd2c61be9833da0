//! The global allocator runs no code of others, and code of others may allocate in a scope.
//!
//! Here the program's allocator notes for each thread whether it is inside the wrapper. Subscribers, listeners,
//! wakers and destructors look whether they are called there, and allocate.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, BufferAllocator, RootAllocator, Veto,
};
use arrow_memory_global::{Attributed, Scope, ScopeExt};
use arrow_memory_system as _;

/// The wrapper, with a note of the thread while it runs.
struct Noted(Attributed<System>);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Calls, and those of them inside the allocator. Counted, since the library ignores panics of what it calls.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static CALLS_INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Whoever is called: not inside the allocator. Allocates, with the scope that is current.
fn called() {
    if INSIDE.get() {
        CALLS_INSIDE.fetch_add(1, Ordering::Relaxed);
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    drop(Vec::<u8>::with_capacity(5000));
}

fn assert_quiet() {
    assert_eq!(
        CALLS_INSIDE.load(Ordering::Relaxed),
        0,
        "called by the global allocator"
    );
}

fn noted<R>(call: impl FnOnce() -> R) -> R {
    let before = INSIDE.replace(true);
    let result = call();
    INSIDE.set(before);
    result
}

// SAFETY: it forwards all calls to the wrapper, which keeps the contract.
unsafe impl GlobalAlloc for Noted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        noted(|| unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        noted(|| unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        noted(|| unsafe { self.0.dealloc(block, layout) });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        noted(|| unsafe { self.0.realloc(block, layout, new_size) })
    }
}

#[global_allocator]
static GLOBAL: Noted = Noted(Attributed::new(System));

struct Listener;

impl AllocationListener for Listener {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        called();
        Ok(())
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        called();
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        called();
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        called();
        false
    }

    fn on_child_added(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        called();
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        called();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        called();
    }
}

/// Keeps the text of each event, until the next.
struct Subscriber(std::sync::Mutex<String>);

impl tracing::Subscriber for Subscriber {
    /// Not at `trace`, by which a tree is in debug mode.
    fn enabled(&self, event: &tracing::Metadata<'_>) -> bool {
        *event.level() <= tracing::Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        called();
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        called();
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                use fmt::Write;
                let _ = write!(self.0, "{value:?} ");
            }
        }
        let mut text = Text(String::with_capacity(1000));
        event.record(&mut text);
        *self.0.lock().unwrap() = text.0;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Counts its calls.
struct Waking(AtomicUsize);

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        called();
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        called();
    }
}

fn bytes(count: usize) -> Vec<u8> {
    Vec::with_capacity(count)
}

/// Everything that emits events and calls listeners, in a scope of an allocator that is over its limit.
fn work(root: &BufferAllocator) {
    let query = root.child("query").limit(100_000).build().unwrap();
    let scope = Scope::new(&query).unwrap();
    scope.run(|| {
        let held = bytes(200_000);
        for turn in 0..50 {
            drop(query.buffer(1000).unwrap_err().to_string());
            let child = root.child(&"child".repeat(200)).build().unwrap();
            let buffer = child.buffer(1000 + turn).unwrap();
            assert!(child.close().is_err());
            drop((buffer, child));
            drop(bytes(100_000 + turn));
        }
        drop(held);
    });
    let mut future = Box::pin(async { bytes(300_000) }.in_scope(&scope));
    drop(
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop())),
    );
}

#[test]
fn what_is_called_may_allocate_in_a_scope_and_is_never_called_by_the_allocator() {
    let subscriber = Subscriber(std::sync::Mutex::new(String::new()));
    let _default = tracing::subscriber::set_default(subscriber);
    let builder = || RootAllocator::builder().listener(Arc::new(Listener));
    for root in [builder(), builder().credit(0)] {
        let root = root.build().unwrap();
        work(&root);
        // Also in a scope of another tree.
        let books = RootAllocator::unlimited();
        Scope::new(&books).unwrap().run(|| work(&root));
        assert_eq!(root.allocated_memory(), 0);
        root.close().unwrap();
    }
    assert!(CALLS.load(Ordering::Relaxed) > 1000);
    assert_quiet();
}

/// The last block of a scope is freed after its allocator's last handle is gone: then the node departs.
#[test]
fn a_departure_at_the_last_free_is_not_told_by_the_allocator() {
    let root = RootAllocator::builder()
        .listener(Arc::new(Listener))
        .build()
        .unwrap();
    for size in [600, 70_000, 3 << 20] {
        let child = root.child("leaves").build().unwrap();
        let scope = Scope::new(&child).unwrap();
        let held = scope.run(|| bytes(size));
        drop((scope, child));
        assert_eq!(root.allocated_memory(), size);
        drop(held);
        assert_eq!(root.allocated_memory(), 0);
    }
    root.close().unwrap();
    assert_quiet();
}

/// The free makes room, so the allocator grants the request; the waker is called by another thread.
#[test]
fn a_free_that_makes_room_wakes_who_waits_and_calls_no_waker() {
    let root = RootAllocator::new(1 << 20);
    let query = root.child("query").build().unwrap();
    let scope = Scope::new(&query).unwrap();
    let held = scope.run(|| bytes(1 << 20));
    let waking = Arc::new(Waking(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&waking));
    let mut waits = Box::pin(root.wait().buffer_async(500_000).into_future());
    assert!(
        waits
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );

    drop(held);

    while waking.0.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    let granted = waits.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(granted.is_ready());
    drop((granted, waits, waker, waking));
    assert_quiet();
}

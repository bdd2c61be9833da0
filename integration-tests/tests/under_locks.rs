//! Nothing is allocated or freed while a thread holds one of the library's locks: the global allocator of
//! this program aborts it in that case.
//!
//! So a global allocator may itself be accounted for in a tree, and no lock is held during an allocation or a user's
//! destructor, which may take long. Here it is: what the tests allocate is charged to scopes, of the tree that they
//! work on and of another one.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_arena::Arena;
use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_array::Int64Array;
use arrow_memory_core::testing::locks_held;
use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, ArrowBuf, BufferAllocator,
    ForeignAllocation, RootAllocator, RootAllocatorBuilder, Veto, backend, leak_check, sampling,
};
use arrow_memory_global::{Attributed, Scope};
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;

/// The system's allocator, which aborts the program if it is called under a lock of the library.
struct Watchful;

thread_local! {
    /// Whether the thread reports a violation; the report itself allocates.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

fn check(what: &str) {
    if locks_held() == 0 || SAYING.replace(true) {
        return;
    }
    let held = locks_held();
    let stack = Backtrace::force_capture();
    let _ = writeln!(
        std::io::stderr(),
        "{what} while {held} locks of the library are held:\n{stack}"
    );
    std::process::abort();
}

// SAFETY: it forwards all calls to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Watchful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check("alloc");
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        check("dealloc");
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check("realloc");
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static GLOBAL: Attributed<Watchful> = Attributed::new(Watchful);

/// Allocates in every callback, where no lock may be held.
#[derive(Default)]
struct Listener(AtomicU64);

impl Listener {
    fn called(&self) {
        let calls = self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(locks_held(), 0);
        drop(vec![calls; 10]);
    }
}

impl AllocationListener for Listener {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        self.called();
        Ok(())
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        self.called();
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        self.called();
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        self.called();
        false
    }

    fn on_transfer(&self, _: &AllocatorInfo, _: &AllocatorInfo, _: usize) {
        self.called();
    }

    fn on_child_added(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        self.called();
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        self.called();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.called();
    }
}

/// A long name, whose memory is allocated and freed with its allocator.
fn name(what: &str) -> String {
    what.repeat(200)
}

fn buffers(root: &BufferAllocator) {
    let (a, b) = (
        root.child(&name("a")).build().unwrap(),
        root.child(&name("b")).build().unwrap(),
    );
    let held: Vec<ArrowBuf> = (0..1500)
        .map(|i| a.buffer_from_slice(&[7; 64][..i % 64]).unwrap())
        .collect();
    let clones: Vec<ArrowBuf> = held
        .iter()
        .map(|held| held.slice(..held.len() / 2))
        .collect();
    let shared: Vec<ArrowBuf> = held
        .iter()
        .map(|held| held.retain_in(&b).unwrap())
        .collect();
    let moved: Vec<ArrowBuf> = (held.iter().step_by(2))
        .map(|held| held.transfer_ownership(&b).unwrap().buffer)
        .collect();
    let tried: Vec<_> = (held.iter().skip(1).step_by(2))
        .map(|held| held.try_transfer_ownership(root).unwrap())
        .collect();
    drop(held);
    let mut grown = a.buffer(64).unwrap();
    for size in [1000, 100_000, 5 << 20, 10 << 20] {
        grown.try_reserve(size).unwrap();
    }
    let foreign = ForeignAllocation::from_owner(vec![1; 100]);
    let foreign = a.wrap_foreign_allocation(foreign).unwrap();
    let foreign = foreign.retain_in(&b).unwrap();
    // The allocators outlive their handles, since they have buffers.
    drop((a, b));
    drop((clones, tried, shared, foreign, moved, grown));
}

fn reservations(root: &BufferAllocator) {
    let child = root.child(&name("reserving")).build().unwrap();
    let mut held: Vec<_> = (0..200).map(|_| child.new_reservation()).collect();
    for reservation in &mut held {
        reservation.add(64).unwrap();
    }
    assert_eq!(
        root.snapshot().entries.len(),
        child.report().entries.len() + root.child_allocators().len()
    );
    let error = child.close().unwrap_err();
    assert_eq!(error.reservations.len(), 200);
    drop(held.split_off(100));
    for reservation in held {
        let _ = reservation.allocate_buffer();
    }
}

fn closing(root: &BufferAllocator) {
    let child = root.child(&name("closing")).build().unwrap();
    let grandchild = child
        .child(&name("below"))
        .reservation(4096)
        .build()
        .unwrap();
    let held: Vec<_> = (0..100)
        .map(|_| grandchild.buffer(64).unwrap().freeze())
        .collect();
    child.allocate_bytes(100).unwrap();
    let error = child.close().unwrap_err();
    drop(format!("{error} {error:?}"));
    drop(child.to_verbose_string());
    drop(root.report());
    child.release_bytes(100);
    drop(grandchild);
    drop(held);
    assert!(child.close().is_ok());
    leak_check(root, |root| drop(root.buffer(100)));
}

fn refusals(root: &BufferAllocator) {
    let child = root.child(&name("small")).limit(10_000).build().unwrap();
    let held = child.buffer(8000).unwrap();
    for _ in 0..10 {
        drop(child.buffer(4000).unwrap_err().to_string());
        drop(child.allocate_bytes(4000).unwrap_err());
        drop(
            child
                .child("refused")
                .reservation(4000)
                .build()
                .unwrap_err(),
        );
    }
    child.set_limit(100);
    child.force_allocate(1000);
    assert!(child.is_over_limit() && child.headroom() < 0);
    child.release_bytes(1000);
    child.set_limit(1 << 20);
    drop((
        held,
        child.stats(),
        child.peak_memory_allocation(),
        child.reset_peak(),
    ));
    root.verify().unwrap();
}

fn reports(root: &BufferAllocator) {
    drop((
        root.snapshot(),
        root.memory_totals(),
        root.allocated_memory(),
    ));
    sampling::start("*", 4096);
    drop((
        sampling::report(),
        sampling::who_holds(),
        sampling::patterns(),
    ));
    sampling::reset();
    sampling::stop("*");
    drop((backend::supported(), backend::manager("none").unwrap_err()));
}

/// Runs so many threads at one node that it gets stripes.
fn contention(root: &BufferAllocator) {
    let child = root.child("contended").build().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    child.allocate_bytes(64).unwrap();
                    child.release_bytes(64);
                }
            });
        }
    });
}

fn run(root: &RootAllocator) {
    let books = RootAllocator::builder().debug(false).limit(100_000);
    let books = books.build().unwrap();
    thread::scope(|scope| {
        for turn in 0..4_usize {
            let payer = [root, &books][turn % 2];
            scope.spawn(move || {
                let steps = [buffers, reservations, closing, refusals, reports];
                for step in 0..10 {
                    let payer = payer.child("heap").build().unwrap();
                    let root = root.child(&name("turn")).build().unwrap();
                    Scope::new(&payer)
                        .unwrap()
                        .run(|| steps[(turn + step) % steps.len()](&root));
                }
            });
        }
    });
    Scope::new(&books).unwrap().run(|| contention(root));
    // What the library keeps for itself is charged to no scope. Destructors of thread-locals may run still.
    let begun = Instant::now();
    while books.allocated_memory() > 0 && begun.elapsed() < Duration::from_secs(10) {
        thread::yield_now();
    }
    assert_eq!(books.allocated_memory(), 0, "{}", books.to_verbose_string());
}

/// A root with a listener.
fn builder() -> RootAllocatorBuilder {
    RootAllocator::builder().listener(Arc::new(Listener::default()))
}

#[test]
fn nothing_is_allocated_or_freed_under_a_lock() {
    run(&builder().debug(false).build().unwrap());
    run(&RootAllocator::builder()
        .debug(false)
        .statistics(true)
        .credit(0)
        .build()
        .unwrap());
}

#[test]
fn nothing_is_allocated_or_freed_under_a_lock_in_debug_mode() {
    run(&builder().debug(true).limit(1 << 30).build().unwrap());
}

#[test]
fn nothing_is_allocated_or_freed_under_a_lock_while_all_is_sampled() {
    sampling::start("*turn*", 512);
    run(&builder().debug(false).build().unwrap());
    for _ in 0..200 {
        drop(RootAllocator::unlimited());
    }
}

#[test]
fn nothing_is_allocated_or_freed_under_a_lock_over_any_backend() {
    for backend in backend::supported() {
        run(&builder().debug(false).backend(backend).build().unwrap());
    }
}

/// The chunks are small, so that their lists grow; the parent is a manager and then a tree.
#[test]
fn nothing_is_allocated_or_freed_under_a_lock_of_an_arena() {
    let below = builder().debug(false).build().unwrap();
    for parent in [None, Some(&below)] {
        let mut arena = Arena::builder().chunk_size(4096).max_chunk_size(8192);
        if let Some(parent) = parent {
            arena = arena.allocator(parent);
        }
        let arena = Arc::new(arena.build().unwrap());
        let root = builder().debug(false).allocation_manager(arena);
        run(&root.build().unwrap());
    }
}

/// Several threads adopt, look up and drop arrays at the same time.
#[test]
fn nothing_is_allocated_or_freed_under_a_lock_where_arrays_are_looked_up() {
    for debug in [false, true] {
        let root = builder().debug(debug).build().unwrap();
        let shared: Vec<Int64Array> = (0..20).map(|i| vec![i; 100].into()).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let child = root.child(&name("adopting")).build().unwrap();
                        arrays(&child, &shared);
                    }
                });
            }
        });
    }
}

fn arrays(allocator: &BufferAllocator, shared: &[Int64Array]) {
    let own = (0..100).map(|i| Int64Array::from(vec![i; 10]));
    let adopted: Vec<Int64Array> = (own.chain(shared.iter().cloned()))
        .map(|array| array.adopt(allocator).unwrap())
        .collect();
    let slices = adopted.iter().map(|array| array.slice(1, 5));
    let again: Vec<Int64Array> = slices
        .map(|slice| slice.adopt(allocator).unwrap())
        .collect();
    let other = allocator.child("other").build().unwrap();
    let moved = adopted[0].try_transfer_ownership(&other).unwrap();
    drop((adopted, again, moved));
}

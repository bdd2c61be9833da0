//! The numbers behind this backend's decisions: which entry point of mimalloc costs what. They stand in
//! the crate's documentation.
//!
//! ```sh
//! cargo run --release -p arrow-memory-mimalloc --example mimalloc_costs
//! ```
#![expect(unsafe_code, reason = "calls the functions that are compared")]
#![expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    reason = "a benchmark: sizes are constants, and blocks are given back as they were made"
)]

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_manager::AllocationManager;
use arrow_memory_mimalloc::MimallocManager;
use libmimalloc_sys as mimalloc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

struct Plain;
struct Aligned;
struct Heap(*mut mimalloc::mi_heap_t);
struct HeapAligned(*mut mimalloc::mi_heap_t);

// Heaps of version 3 serve all threads.
unsafe impl Sync for Heap {}
unsafe impl Sync for HeapAligned {}

impl Source for Plain {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { mimalloc::mi_malloc(size) }.cast()
    }
    fn free(&self, ptr: *mut u8, _size: usize) {
        unsafe { mimalloc::mi_free(ptr.cast()) };
    }
}

impl Source for Aligned {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { mimalloc::mi_malloc_aligned(size, 64) }.cast()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        Plain.free(ptr, size);
    }
}

impl Source for Heap {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { mimalloc::mi_heap_malloc(self.0, size) }.cast()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        Plain.free(ptr, size);
    }
}

impl Source for HeapAligned {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { mimalloc::mi_heap_malloc_aligned(self.0, size, 64) }.cast()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        Plain.free(ptr, size);
    }
}

fn main() {
    assert_eq!(
        MimallocManager::version().0,
        3,
        "heaps of version 2 serve one thread"
    );
    thread::spawn(thread::park);
    let manager = MimallocManager::new();
    let heap = unsafe { mimalloc::mi_heap_new() };
    let columns = [
        column("malloc", Plain),
        column("malloc_aligned", Aligned),
        column("heap_malloc", Heap(heap)),
        column("heap_mall._aligned", HeapAligned(heap)),
        column("manager", Manager(black_box(&manager))),
    ];
    let small = [64, 192, 576, KIB, 4 * KIB, 16 * KIB, 64 * KIB];
    let large = [256 * KIB, 512 * KIB, MIB, 4 * MIB, 16 * MIB];
    let sizes = [&small[..], &large[..]].concat();

    table("allocate, free: ns", &columns, &sizes, Case::Pair);
    table(
        "allocate, write to each page, free: ns",
        &columns,
        &sizes[5..],
        Case::Touched,
    );
    for threads in [1, 2] {
        let title = format!("{threads} threads, millions of blocks a second");
        table(
            &title,
            &columns,
            &[64, 4 * KIB, 64 * KIB, MIB],
            Case::Threads(threads),
        );
    }
}

/// How blocks are made and given back.
trait Source: Sync {
    fn allocate(&self, size: usize) -> *mut u8;
    fn free(&self, ptr: *mut u8, size: usize);
}

struct Manager<'a>(&'a dyn AllocationManager);

impl Source for Manager<'_> {
    fn allocate(&self, size: usize) -> *mut u8 {
        let layout = Layout::from_size_align(size, 64).unwrap();
        self.0.allocate(layout).unwrap().as_ptr()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        let layout = Layout::from_size_align(size, 64).unwrap();
        unsafe { self.0.deallocate(NonNull::new_unchecked(ptr), layout) };
    }
}

/// A block's life: ns, the best mean of 7 rounds. A thread that sleeps keeps locks honest.
fn cycle(source: &impl Source, size: usize, touched: bool) -> f64 {
    let mut count = 100;
    let mut best = f64::INFINITY;
    for round in 0..8 {
        let start = Instant::now();
        for _ in 0..count {
            let block = black_box(source.allocate(black_box(size)));
            if touched {
                touch(block, size);
            }
            source.free(block, size);
        }
        let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / f64::from(count);
        if round > 0 {
            best = best.min(nanoseconds);
        }
        count = (1e7 / nanoseconds).clamp(3.0, 1e6) as u32;
    }
    best
}

fn touch(ptr: *mut u8, size: usize) {
    for offset in (0..size).step_by(4 * KIB) {
        unsafe { ptr.add(offset).write_volatile(1) };
    }
}

/// Millions of blocks a second that `threads` threads make and give back together.
fn together(source: &impl Source, size: usize, threads: usize) -> f64 {
    let rounds = (0..5).map(|_| {
        let all_ready = Barrier::new(threads + 1);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let work = || {
                all_ready.wait();
                let mut done = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        let block = black_box(source.allocate(black_box(size)));
                        source.free(block, size);
                    }
                    done += 64;
                }
                done
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            all_ready.wait();
            let start = Instant::now();
            while start.elapsed().as_millis() < 100 {
                thread::yield_now();
                thread::park_timeout(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            let seconds = start.elapsed().as_secs_f64();
            let done: u64 = workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum();
            done as f64 / seconds / 1e6
        })
    });
    rounds.fold(0.0, f64::max)
}

/// What is measured.
#[derive(Clone, Copy)]
enum Case {
    /// ns for a block that is made and given back.
    Pair,
    /// The same, and each page is written to.
    Touched,
    /// Millions of blocks a second for so many threads.
    Threads(usize),
}

/// A column of a table. The loops are compiled for the source, so that a function in C is called
/// as it is, and a manager by one virtual call.
type Column<'a> = (&'static str, Box<dyn Fn(Case, usize) -> f64 + 'a>);

fn column<'a>(name: &'static str, source: impl Source + 'a) -> Column<'a> {
    let cell = move |case, size| match case {
        Case::Pair => cycle(&source, size, false),
        Case::Touched => cycle(&source, size, true),
        Case::Threads(threads) => together(&source, size, threads),
    };
    (name, Box::new(cell))
}

/// A table: a line for each size, a column for each source.
fn table(title: &str, columns: &[Column<'_>], sizes: &[usize], case: Case) {
    println!("\n{title}");
    print!("{:>10}", "bytes");
    columns.iter().for_each(|(name, _)| print!("{name:>18}"));
    for &size in sizes {
        print!("\n{size:>10}");
        columns
            .iter()
            .for_each(|(_, cell)| print!("{:>18.1}", cell(case, size)));
    }
    println!();
}

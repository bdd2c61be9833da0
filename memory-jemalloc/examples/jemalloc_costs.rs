//! The numbers behind this backend's decisions: which entry point of jemalloc costs what, and what an
//! arena of one's own does for large blocks. They stand in the crate's documentation.
//!
//! ```sh
//! cargo run --release -p arrow-memory-jemalloc --example jemalloc_costs
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

use std::ffi::{c_int, c_void};
use std::ptr;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::AllocationManager;
use tikv_jemalloc_sys as jemalloc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Calls with flags; without any, the plain function.
struct Flags {
    ask: c_int,
    give: c_int,
}

impl Source for Flags {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { jemalloc::mallocx(size, self.ask) }.cast()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        unsafe { jemalloc::sdallocx(ptr.cast(), size, self.give) };
    }
}

struct Plain;

impl Source for Plain {
    fn allocate(&self, size: usize) -> *mut u8 {
        unsafe { jemalloc::malloc(size) }.cast()
    }
    fn free(&self, ptr: *mut u8, size: usize) {
        unsafe { jemalloc::sdallocx(ptr.cast(), size, 0) };
    }
}

fn main() {
    thread::spawn(thread::park);
    let plain = Plain;
    let aligned = jemalloc::MALLOCX_ALIGN(64);
    let aligned = Flags {
        ask: aligned,
        give: aligned,
    };
    let arena = jemalloc::MALLOCX_ARENA(new_arena() as usize) | jemalloc::MALLOCX_TCACHE_NONE;
    let uncached = Flags {
        ask: arena,
        give: jemalloc::MALLOCX_TCACHE_NONE,
    };
    let default = JemallocManager::new();
    let dedicated = JemallocManager::builder()
        .dedicated_arena(true)
        .build()
        .unwrap();
    let columns = [
        column("malloc", plain),
        column("mallocx align", aligned),
        column("arena, no cache", uncached),
        column("manager", Manager(black_box(&default))),
        column("dedicated arena", Manager(black_box(&dedicated))),
    ];
    let small = [64, 192, 576, KIB, 4 * KIB, 16 * KIB, 32 * KIB];
    let large = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB];
    let sizes = [&small[..], &large[..]].concat();

    table("allocate, free: ns", &columns, &sizes, Case::Pair);
    let sizes = &sizes[5..];
    table(
        "allocate, write to each page, free: ns",
        &columns,
        sizes,
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

/// An arena as jemalloc makes it.
fn new_arena() -> u32 {
    let (mut arena, mut width) = (0_u32, size_of::<u32>());
    let code = unsafe {
        jemalloc::mallctl(
            c"arenas.create".as_ptr(),
            (&raw mut arena).cast::<c_void>(),
            &raw mut width,
            ptr::null_mut(),
            0,
        )
    };
    assert_eq!(code, 0);
    arena
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

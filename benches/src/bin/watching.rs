//! Measures the cost of watching on the hot path: allocating 4 KiB and dropping it.
//!
//! ```sh
//! cargo run --profile bench -p arrow-memory-benches --bin watching     # times of all modes
//! benches/watching.py                                                  # instructions
//! ```
//!
//! Modes: `off`; `sampling` at the default interval, or at one that is given; `debug` mode; and `capture`,
//! which is `off` plus the bare walk of a stack of 16 frames. With a mode, a count and a backend it runs that
//! mode alone, for a profiler; the difference between two counts does not contain the cost of the start. The
//! allocations come from 64 different stacks.

use std::env;
use std::hint::black_box;
use std::time::Instant;

use arrow_memory_benches::trees::{below, root_with};
use arrow_memory_core::{BufferAllocator, sampling};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of calls above the allocation, so that every stack has at least 16 frames.
const DEPTH: usize = 20;

/// The number of allocations after which the stack changes.
const RUN: usize = 16;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [mode, count, backend, rest @ ..] = &arguments[..] {
        let interval = rest.first().and_then(|interval| interval.parse().ok());
        let count = count.parse().expect("a count");
        measure(mode, count, backend, interval);
        return;
    }
    for mode in ["off", "sampling", "capture", "debug", "off"] {
        measure(mode, 10_000, "mimalloc", None);
        let best = (0..15)
            .map(|_| measure(mode, 50_000, "mimalloc", None))
            .fold(f64::INFINITY, f64::min);
        println!("{mode:>10}: {best:8.1} ns");
    }
}

/// Nanoseconds for one allocation and its drop in a mode.
fn measure(mode: &str, count: usize, backend: &str, interval: Option<usize>) -> f64 {
    let root = root_with(backend, |builder| builder.debug(mode == "debug"));
    let query = below(&root, 2);
    sampling::stop_all();
    if mode == "sampling" {
        sampling::start("*", interval.unwrap_or(sampling::DEFAULT_INTERVAL));
    }
    let start = Instant::now();
    for run in 0..count / RUN {
        descend(DEPTH, run % 64, &query, mode == "capture");
    }
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// Calls itself `depth` times. The bits of `path` choose the calling line at each level.
#[inline(never)]
fn descend(depth: usize, path: usize, allocator: &BufferAllocator, capture: bool) -> usize {
    match (depth, path % 2) {
        (0, _) => op_run(allocator, capture),
        // The additions keep the calls from becoming tail calls.
        (_, 0) => 1 + descend(black_box(depth - 1), path / 2, allocator, capture),
        _ => 2 + descend(black_box(depth - 1), path / 2, allocator, capture),
    }
}

/// The operation that is measured.
#[inline(never)]
fn op_run(allocator: &BufferAllocator, capture: bool) -> usize {
    for _ in 0..RUN {
        if capture {
            black_box(walk());
        }
        drop(black_box(
            allocator.buffer(black_box(4096)).expect("no limit"),
        ));
    }
    0
}

/// The bare walk of 16 addresses, as few of them as possible inside of the walk itself.
#[inline(never)]
fn walk() -> [usize; 16] {
    let mut addresses = [0; 16];
    let mut count = 0;
    backtrace::trace(|frame| {
        addresses[count] = frame.ip().addr();
        count += 1;
        count < addresses.len()
    });
    addresses
}

//! What watching costs on the path that matters: allocate 4 KiB and drop.
//!
//! ```sh
//! cargo bench -p arrow-memory-core --bench watching            # times
//! valgrind --tool=callgrind <the binary> sampling 300000       # instructions
//! ```
//!
//! Modes: `off`; `sampling` at the default interval; `debug` mode; and `capture`, which is `off` plus
//! the bare walk of a stack of 16 frames. With a mode and a count it runs that mode only, for a
//! profiler; the difference between two counts is free of the start-up.

use std::env;
use std::hint::black_box;
use std::time::Instant;

use arrow_memory_core::{BufferAllocator, RootAllocator, sampling};
use arrow_memory_system as _;

/// Frames below the loop, so that every stack has 16.
const DEPTH: usize = 20;

fn main() {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let mode = arguments.next();
    let count = arguments.next().and_then(|count| count.parse().ok());
    if let (Some(mode), Some(count)) = (mode, count) {
        run(&mode, count);
        return;
    }
    for mode in ["off", "sampling", "capture", "debug", "off"] {
        run(mode, 10_000);
        let best = (0..15)
            .map(|_| run(mode, 50_000))
            .fold(f64::INFINITY, f64::min);
        println!("{mode:>10}: {best:8.1} ns");
    }
}

/// The nanoseconds of one round in a mode.
fn run(mode: &str, count: usize) -> f64 {
    let root = RootAllocator::builder()
        .debug(mode == "debug")
        .build()
        .expect("a backend is linked");
    let child = root.child("query").build().expect("no limit");
    sampling::stop_all();
    if mode == "sampling" {
        sampling::start("query", sampling::DEFAULT_INTERVAL);
    }
    let start = Instant::now();
    descend(DEPTH, &child, count, mode == "capture");
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

#[inline(never)]
fn descend(depth: usize, allocator: &BufferAllocator, count: usize, capture: bool) -> usize {
    if depth > 0 {
        // Not a tail call.
        return 1 + descend(black_box(depth - 1), allocator, count, capture);
    }
    for _ in 0..count {
        if capture {
            black_box(walk());
        }
        drop(black_box(
            allocator.buffer(black_box(4096)).expect("no limit"),
        ));
    }
    0
}

/// The bare walk: 16 addresses, as few of them as possible the walk's own.
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

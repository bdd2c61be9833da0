//! What watching costs on the path that matters: allocate 4 KiB and drop.
//!
//! ```sh
//! cargo bench -p arrow-memory-core --bench watching            # times
//! valgrind --tool=callgrind <the binary> off 100000            # instructions
//! ```
//!
//! With a mode and a count it runs that mode only, for a profiler; the difference between two
//! counts is free of the start-up.

use std::env;
use std::hint::black_box;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

fn main() {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [mode, count] = &arguments[..] {
        run(mode, count.parse().expect("a count"));
    }
}

fn run(mode: &str, count: usize) {
    let root = RootAllocator::builder()
        .debug(mode == "debug")
        .build()
        .expect("a backend is linked");
    let child = root.child("query").build().expect("no limit");
    for _ in 0..count {
        drop(black_box(child.buffer(black_box(4096)).expect("no limit")));
    }
}

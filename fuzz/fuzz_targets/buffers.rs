//! Buffers in a tree of allocators over one of the backends: allocated, aligned, zeroed, written, grown, shrunk,
//! split, frozen, sliced, cloned, compacted, shared, moved, wrapped around foreign memory, made of reservations,
//! and dropped in any order, while allocators are made, limited, closed and retired.
//!
//! After each step the bytes of each buffer are those of a `Vec` that took the same steps; the tree is charged
//! for each allocation once, for reservations and for external bytes; and `verify` finds all sums right. A
//! refusal changes nothing. At the end everything is dropped and each close succeeds.
#![no_main]

mod buffers {
    pub mod model;
    pub mod steps;
}

use arrow_memory_arena as _;
use arrow_memory_fuzz::{Input, print_panics};
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

use buffers::model::Case;

/// The maximum number of steps.
const STEPS: usize = 300;

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let mut input = Input(bytes);
    let mut case = Case::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        case.step(&mut input);
        case.check();
    }
    case.finish(&mut input);
});

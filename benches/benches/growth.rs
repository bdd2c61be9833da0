//! Measures appending to 1 GiB on the system backend, against `Vec<u8>` over the same allocator.
//!
//! This is a binary of its own, since its global allocator is the platform's.

use std::hint::black_box;
use std::time::Instant;

use arrow_memory_benches::harness::{self, Estimate, Settings};
use arrow_memory_benches::{raw, trees};

/// The bytes of one append, the initial capacity, and the final length.
const PIECE: usize = 64 * 1024;
const FIRST: usize = 64;
const LAST: usize = 1 << 30;

fn main() {
    harness::start();
    raw::assert_global_is_system();
    let (settings, _) = Settings::from_arguments();
    let allocator = trees::at_depth("system", 3);
    let piece = vec![7_u8; PIECE];

    let ours = || {
        let mut buffer = allocator.buffer(FIRST).expect("it fits");
        while buffer.len() < LAST {
            buffer.extend_from_slice(&piece).expect("it fits");
        }
        black_box(buffer.freeze());
    };
    let theirs = || {
        let mut buffer = Vec::with_capacity(FIRST);
        while buffer.len() < LAST {
            buffer.extend_from_slice(&piece);
        }
        black_box(buffer);
    };

    let rounds = if settings.quick { 7 } else { 21 };
    let (mut times, mut baselines, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // The two cases take turns at being first.
        let (time, baseline) = if round % 2 == 0 {
            let time = seconds(ours);
            (time, seconds(theirs))
        } else {
            let baseline = seconds(theirs);
            (seconds(ours), baseline)
        };
        times.push(time * 1e3);
        baselines.push(baseline * 1e3);
        ratios.push(time / baseline);
    }
    let found = Estimate::of(ratios);
    let verdict = match (found.low <= 1.0, found.median <= 0.9) {
        (_, true) => "goal",
        (true, false) => "bar",
        (false, false) => "**missed**",
    };
    println!("| case | measured (95 % interval) | bar | goal | |\n|---|---|---|---|---|");
    println!(
        "| append to 1 GiB by 64 KiB, system / `Vec<u8>` | {found} | ≤ 1 × | 0.9 × | {verdict} |"
    );
    println!("\n| in ms | median (95 % interval) |\n|---|---|");
    println!("| ours | {} |", Estimate::of(times));
    println!("| `Vec<u8>` | {} |", Estimate::of(baselines));
}

fn seconds(operation: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    operation();
    begun.elapsed().as_secs_f64()
}

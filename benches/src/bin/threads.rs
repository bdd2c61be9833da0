//! Measures throughput by the number of threads, as CSV: `threads [--all] [rounds]`.
//!
//! The number of threads ends at that of the cores, or with `--all` at 16. The binary depends on no other
//! file, so that it can be copied to a machine with more cores. It takes less than a minute.

use std::time::Duration;

use arrow_memory_benches::harness::{self, Estimate};
use arrow_memory_benches::raw;
use arrow_memory_benches::threads::{Case, Stage};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let all = std::env::args().any(|argument| argument == "--all");
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let counts: Vec<usize> = [1, 2, 4, 8, 16]
        .into_iter()
        .filter(|&threads| all || threads <= cores)
        .collect();
    let most = counts.iter().copied().max().unwrap_or(1);
    let stages = Case::ALL.map(|case| (case, Stage::new(case, most)));

    let mut samples = vec![Vec::new(); counts.len() * stages.len()];
    for _ in 0..rounds.unwrap_or(9) {
        let mut cell = samples.iter_mut();
        for &threads in &counts {
            for (_, stage) in &stages {
                let sample = stage.throughput(threads, Duration::from_millis(250));
                if let Some(samples) = cell.next() {
                    samples.push(sample / 1e6);
                }
            }
        }
    }

    println!("case,threads,millions_per_second,low,high,scaling,scaling_against_raw");
    let medians: Vec<Estimate> = samples.into_iter().map(Estimate::of).collect();
    // The first case of each number of threads is that of raw blocks.
    let scaling =
        |row: usize, case: usize| medians[row * stages.len() + case].median / medians[case].median;
    for (at, rate) in medians.iter().enumerate() {
        let (row, case) = (at / stages.len(), at % stages.len());
        println!(
            "{},{},{:.2},{:.2},{:.2},{:.3},{:.3}",
            stages[case].0.name(),
            counts[row],
            rate.median,
            rate.low,
            rate.high,
            scaling(row, case),
            scaling(row, case) / scaling(row, 0)
        );
    }
}

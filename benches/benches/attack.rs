//! How costs grow with the number of children, levels, ledgers, threads and others.
//!
//!     cargo bench -p arrow-memory-benches --bench attack -- [--quick] [filter]
//!
//! A row has the time for each of n things, for n from 10 to the largest that makes sense, and how often as large the
//! last one is as that for 100. For a scenario of n log n in sum this is at most 3 for each factor of 1,000, apart from
//! what caches of the processor cost.

use arrow_memory_benches::curves::CURVES;
use arrow_memory_benches::harness::{self, Settings};
use arrow_memory_benches::raw;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let (settings, filter) = Settings::from_arguments();
    let sizes: Vec<usize> = (1..=6).map(|power| 10_usize.pow(power)).collect();
    let titles: String = sizes.iter().map(|n| format!(" {n} |")).collect();
    println!("| ns for each of n | largest / 100 |{titles}");
    println!("|---|---|{}", "---|".repeat(sizes.len()));
    for curve in CURVES.iter().filter(|curve| curve.name.contains(&filter)) {
        let largest = if settings.quick {
            curve.largest.min(10_000)
        } else {
            curve.largest
        };
        let measured = sizes.iter().filter(|&&n| n <= largest);
        let costs: Vec<f64> = measured.map(|&n| curve.cost(n)).collect();
        let cells: String = costs.iter().map(|cost| format!(" {cost:.1} |")).collect();
        let rest = " |".repeat(sizes.len() - costs.len());
        let growth = costs[costs.len() - 1] / costs[1];
        println!("| {} | {growth:.2} |{cells}{rest}", curve.name);
    }
}

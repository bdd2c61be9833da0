//! What asking others for memory costs, and what it is worth.
//!
//!     cargo bench -p arrow-memory-benches --bench reclaim -- [--quick] [filter]

mod granted;
mod refused;
mod shortage;

use arrow_memory_benches::harness;
use arrow_memory_benches::raw;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    println!("| case | |\n|---|---|");
    let groups: [(&str, harness::RunGroup); 3] = [
        ("granted", granted::run),
        ("refused", refused::run),
        ("shortage", shortage::run),
    ];
    harness::run_groups(&groups);
}

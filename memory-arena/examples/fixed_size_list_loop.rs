//! The workload for which this crate was designed: builds the buffers of a fixed-size-list array of three
//! 64-bit integers, a million times, over each backend.
//!
//! A builder of such an array has a buffer of values and two of validity bits. The last few arrays stay
//! alive, like batches in a pipeline. For each backend it prints the bytes that are still allocated at the
//! end (0 is expected), the bytes allocated in total, the resident memory of the process, and the time for
//! one array.
//!
//! ```sh
//! cargo run --release -p arrow-memory-arena --example fixed_size_list_loop [arrays]
//! ```

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::fs;
use std::time::Instant;

use arrow_memory_arena as _;
use arrow_memory_core::{AllocError, ArrowBuf, BufferAllocator, RootAllocator, backend};
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;

/// The number of arrays that are alive at a time.
const PIPELINE: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arrays: u64 = match env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 1_000_000,
    };
    println!("{arrays} arrays\n");
    println!(
        "{:>10} {:>12} {:>16} {:>16} {:>10}",
        "backend", "allocated", "total", "resident", "ns/array"
    );
    for name in backend::supported() {
        let root = RootAllocator::builder().backend(name).build()?;
        let manager = root.allocation_manager();
        let before = manager.stats().total_bytes.unwrap_or(0);
        let mut alive: VecDeque<[ArrowBuf; 3]> = VecDeque::with_capacity(PIPELINE);

        let start = Instant::now();
        for row in 0..arrays {
            if alive.len() == PIPELINE {
                alive.pop_front();
            }
            alive.push_back(fixed_size_list(&root, [row, row + 1, row + 2])?);
        }
        let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / arrays as f64;
        let last = &alive[alive.len() - 1];
        assert_eq!(last[0].get::<u64>(16)?, arrays + 1);
        alive.clear();

        let total = manager.stats().total_bytes.unwrap_or(0) - before;
        println!(
            "{name:>10} {:>12} {total:>16} {:>16} {nanoseconds:>10.1}",
            root.allocated_memory(),
            resident().map_or_else(|| "?".to_owned(), |bytes| bytes.to_string()),
        );
        assert_eq!(root.allocated_memory(), 0);
        root.close()?;
        manager.release_unused();
    }
    Ok(())
}

/// The buffers of one array with one list: the values, their validity, and the list's validity.
fn fixed_size_list(
    allocator: &BufferAllocator,
    values: [u64; 3],
) -> Result<[ArrowBuf; 3], AllocError> {
    let mut bytes = allocator.buffer(24)?;
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes())?;
    }
    let mut valid = allocator.buffer(1)?;
    valid.extend_from_slice(&[0b111])?;
    let mut list_valid = allocator.buffer(1)?;
    list_valid.extend_from_slice(&[1])?;
    Ok([bytes.freeze(), valid.freeze(), list_valid.freeze()])
}

/// Resident memory of this process in bytes, if the system tells.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

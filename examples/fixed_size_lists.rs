//! Builds lists of three 64-bit integers, with nulls, a million times over each linked backend. This is the
//! second program of the article on Arrow's memory in Go.
//!
//! `cargo run --release --example fixed_size_lists --features arrow,all-backends [TIMES]`
//!
//! Prints the bytes allocated in total, those still held, and the resident memory of the process, for each
//! backend.

use std::time::Instant;

use arrow_memory::arrow::builder::{FixedSizeListBuilder, Int64Builder};
use arrow_memory::arrow::deps::arrow_array::{Array, FixedSizeListArray};
use arrow_memory::{BufferAllocator, RootAllocator, backend};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let times = match std::env::args().nth(1) {
        Some(times) => times.parse()?,
        None if cfg!(debug_assertions) => 20_000,
        None => 1_000_000,
    };
    println!("{times} arrays of 10 lists on each backend");
    println!(
        "{:<10} {:>12} {:>14} {:>10} {:>10} {:>12} {:>9}",
        "backend", "allocations", "bytes", "held peak", "held now", "resident", "ns/array"
    );
    for name in backend::supported() {
        let root = RootAllocator::builder()
            .name(name)
            .backend(name)
            .limit(1 << 20)
            .statistics(true)
            .build()?;
        let started = Instant::now();
        let mut sum = 0;
        for _ in 0..times {
            sum += lists(&root)?.values().len();
        }
        let each = started.elapsed().as_nanos() / times.max(1) as u128;
        assert_eq!(sum, times * 30);

        let stats = root.stats();
        println!(
            "{name:<10} {:>12} {:>14} {:>10} {:>10} {:>12} {each:>9}",
            stats.allocations.unwrap_or_default(),
            stats.total_bytes.unwrap_or_default(),
            root.peak_memory_allocation(),
            root.allocated_memory(),
            resident().map_or("unknown".to_owned(), |bytes| format!("{} KiB", bytes >> 10)),
        );
        // The buffers of values and of both validities were the only ones, and all are freed.
        assert_eq!(root.allocated_memory(), 0);
        assert!(root.peak_memory_allocation() <= 1024);
        root.close()?;
    }
    Ok(())
}

/// Ten lists, every second one null.
fn lists(allocator: &BufferAllocator) -> Result<FixedSizeListArray, Box<dyn std::error::Error>> {
    let mut builder = FixedSizeListBuilder::new(allocator, Int64Builder::new(allocator), 3)?;
    for list in 0..10_i64 {
        if list % 2 == 1 {
            builder.append_null()?;
            continue;
        }
        builder.values().append_slice(&[list, list + 1, list + 2])?;
        builder.append()?;
    }
    let array = builder.finish()?;
    assert_eq!((array.len(), array.null_count()), (10, 5));
    Ok(array)
}

/// Resident bytes of this process, if the system tells.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

//! Leaks on purpose: a reservation that outlives its operator.
//!
//! Run it with `cargo run -p arrow-memory-core --example leak_reservation`; it prints the error
//! of the failed `close` in debug mode.

use arrow_memory_core::{AllocError, AllocationReservation, BufferAllocator, RootAllocator};
use arrow_memory_system as _;

struct Sort {
    spill: AllocationReservation,
}

impl Sort {
    fn new(allocator: &BufferAllocator) -> Result<Self, AllocError> {
        let mut spill = allocator.new_reservation();
        spill.add(4096)?;
        Ok(Self { spill })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = RootAllocator::builder().limit(8192).debug(true).build()?;
    // A cache that keeps the operator keeps its reservation, too.
    let cache = vec![Sort::new(&root)?];
    if let Err(error) = root.close() {
        println!("{error}");
    }
    drop(cache.into_iter().map(|sort| sort.spill).collect::<Vec<_>>());
    Ok(())
}

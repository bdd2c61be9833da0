//! Leaks on purpose: a child that was never closed.
//!
//! Run it with `cargo run -p arrow-memory-core --example leak_child`; it prints the error
//! of the failed `close` in debug mode.

use arrow_memory_core::{AllocError, BufferAllocator, RootAllocator};
use arrow_memory_system as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = RootAllocator::builder().limit(8192).debug(true).build()?;
    let query = start_query(&root)?;
    // An error path that returns without `query.close()`.
    if let Err(error) = root.close() {
        println!("{error}");
    }
    query.close()?;
    Ok(())
}

fn start_query(root: &RootAllocator) -> Result<BufferAllocator, AllocError> {
    root.new_child_allocator("query-7", 1024, 4096)
}

//! A query of two operators with limits: which allocator is charged, which one refuses, and how a leak is
//! reported.
//!
//! `cargo run --example query`

use arrow_memory::{AllocError, RootAllocator};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = RootAllocator::builder()
        .name("server")
        .limit(64 << 20)
        .build()?;
    let query = root.new_child_allocator("query-7", 0, 16 << 20)?;
    let scan = query.new_child_allocator("scan", 1 << 20, 16 << 20)?;
    let join = query.new_child_allocator("join", 0, 8 << 20)?;

    // The scan fills batches within its reservation of 1 MiB, for which the query is charged, used or not.
    let mut batches = Vec::new();
    for batch in 0..8_u8 {
        let mut column = scan.buffer(64 << 10)?;
        column.resize(64 << 10, batch)?;
        batches.push(column.freeze());
    }
    assert_eq!(scan.allocated_memory(), 512 << 10);
    assert_eq!(query.allocated_memory(), 1 << 20);

    // The join takes ownership of half of the batches. No bytes are copied, and at no moment is a byte
    // charged to both operators or to neither. The scan's reservation stays, so the query's sum grows.
    let built: Vec<_> = batches
        .drain(..4)
        .map(|batch| batch.transfer_ownership(&join).map(|moved| moved.buffer))
        .collect::<Result<_, _>>()?;
    assert_eq!(
        (scan.allocated_memory(), join.allocated_memory()),
        (256 << 10, 256 << 10)
    );
    assert_eq!(query.allocated_memory(), (1 << 20) + (256 << 10));

    println!("{}", root.to_verbose_string());

    // This is more than the join's limit: the error names the allocator that refused, and has the numbers of
    // each level.
    let refused = join
        .buffer(8 << 20)
        .expect_err("8 MiB do not fit beside what it holds");
    assert!(matches!(&refused, AllocError::OutOfMemory { .. }));
    println!("{refused}\n");

    // A failed close reports the buffers that are still alive.
    let open = join.close().expect_err("four buffers are open");
    assert_eq!(open.buffers(), 4);
    println!("{open}\n");

    drop((built, batches));
    for allocator in [&join, &scan, &query, &*root] {
        allocator.close()?;
    }
    println!(
        "all closed; at most {} bytes were allocated",
        root.peak_memory_allocation()
    );
    Ok(())
}

//! Two operators on tokio, of which one keeps a hash map that nobody declared: the report names it, and by how much.
//!
//! `cargo run --release -p arrow-memory-global --example guilty`
//!
//! Both declare what they will use, by the reservation of their allocator. The scan's batches are buffers of the tree, and
//! fit. The join's table is a `HashMap` of the standard library, which no tree knows. The program exits with an error if
//! the report names anybody else.

use std::collections::HashMap;
use std::error::Error;

use arrow_memory_core::{AllocError, ArrowBuf, BufferAllocator, RootAllocator};
use arrow_memory_global::{Attributed, Scope, ScopeExt};
use arrow_memory_mimalloc::MiMalloc;

#[global_allocator]
static GLOBAL: Attributed<MiMalloc> = Attributed::new(MiMalloc);

const MIB: usize = 1 << 20;
const BATCHES: usize = 64;
const ROWS: u64 = 400_000;

/// Reads batches into buffers of its allocator.
async fn scan(allocator: BufferAllocator) -> Result<Vec<ArrowBuf>, AllocError> {
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        batches.push(allocator.buffer_zeroed(64 << 10)?.freeze());
        tokio::task::yield_now().await; // on another thread, perhaps
    }
    Ok(batches)
}

/// Builds a table of all rows.
async fn join() -> HashMap<u64, [u64; 4]> {
    let mut table = HashMap::new();
    for row in 0..ROWS {
        table.insert(row, [row; 4]);
        if row % 10_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    table
}

/// An operator that uses more than it declared, and by how many bytes.
struct Guilty {
    name: String,
    undeclared: usize,
}

/// Prints what the operators of a query use and declared, and returns those that use more.
fn report(query: &BufferAllocator) -> Vec<Guilty> {
    let mib = |bytes: usize| bytes as f64 / MIB as f64;
    println!("operator   used MiB   of it in the heap   declared   undeclared");
    let mut guilty = Vec::new();
    let books = query.snapshot(); // all numbers of one instant
    let of = |parent| (books.entries.iter()).filter(move |entry| entry.parent == Some(parent));
    for operator in of(query.id()) {
        let (used, declared) = (operator.allocated, operator.reservation);
        let undeclared = operator.undeclared().unwrap_or(0);
        let heap = of(operator.allocator.id).filter(|child| &*child.allocator.name == "(heap)");
        println!(
            "{:<8} {:>10.1} {:>19.1} {:>10.1} {:>12.1}",
            operator.allocator.to_string(),
            mib(used),
            mib(heap.map(|heap| heap.allocated).sum()),
            mib(declared),
            mib(undeclared),
        );
        if undeclared > 0 {
            let name = operator.allocator.to_string();
            guilty.push(Guilty { name, undeclared });
        }
    }
    guilty
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if !arrow_memory_global::supported() {
        println!("This platform cannot attribute the heap.");
        return Ok(());
    }
    let root = RootAllocator::new(256 * MIB);
    let query = root.child("q7").build()?;
    let scanning = query.child("scan").reservation(8 * MIB).build()?;
    let joining = query
        .child("join")
        .reservation(8 * MIB)
        .limit(16 * MIB)
        .build()?;
    let (in_scan, in_join) = (Scope::new(&scanning)?, Scope::new(&joining)?);

    let batches = tokio::spawn(scan(scanning.clone()).in_scope(&in_scan));
    let table = tokio::spawn(join().in_scope(&in_join));
    let (batches, table) = (batches.await??, table.await?);

    let guilty = report(&query);
    println!();
    for Guilty { name, undeclared } in &guilty {
        println!("`{name}` holds {undeclared} bytes that nobody declared.");
    }
    let overdraft = in_join.check().err().ok_or("the join is over its limit")?;
    println!("Its scope says: {overdraft}.");

    assert_eq!((batches.len(), table.len()), (BATCHES, ROWS as usize));
    let [Guilty { name, undeclared }] = &guilty[..] else {
        return Err("not one operator is named".into());
    };
    // 40 bytes for a row at least, and 8 MiB were declared.
    assert!(name == "join" && *undeclared > 40 * ROWS as usize - 8 * MIB);
    drop((batches, table));
    assert_eq!(scanning.allocated_memory() + joining.allocated_memory(), 0);
    Ok(())
}

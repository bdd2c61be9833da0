//! This is a binary of its own, because it measures the process's memory.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::thread;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

#[test]
fn one_million_allocations_leave_nothing_in_the_registries() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let child = root.child("query").build().unwrap();
    let before = resident();

    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                for round in 0..500_000_usize {
                    let buffer = child.buffer_zeroed(64 + round % 64).unwrap().freeze();
                    if round % 8 == 0 {
                        drop(buffer.slice(..8));
                    }
                }
            });
        }
    });

    let report = root.report();
    assert!(report.entries.iter().all(|entry| entry.ledgers.is_empty()));
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more are resident");
    child.close().unwrap();
    root.close().unwrap();
}

/// Resident memory of this process in bytes; 0 if the system does not tell.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<usize> = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

//! A request that fits, beside registrations that are not asked.

use arrow_memory_benches::harness::{Group, Settings};
use arrow_memory_benches::trees;
use arrow_memory_core::{BufferAllocator, Cost, ReclaimGuard};

use crate::refused::Keeps;
use crate::{KIB, MIB};

/// A query at three levels below the root, with registrations of its own and of others.
fn tree(registrations: usize) -> (BufferAllocator, Vec<ReclaimGuard>) {
    let root = trees::root_with("mimalloc", |builder| builder.limit(1024 * MIB));
    let query = trees::below(&root, 3);
    let guards = (0..registrations).map(|number| {
        let elsewhere = trees::below(&root, 1);
        let at = if number % 2 == 0 { &query } else { &elsewhere };
        at.on_shortage(Cost::Drop, Keeps)
    });
    let guards = guards.collect();
    (query, guards)
}

pub(crate) fn run(settings: &Settings) {
    let (alone, _none) = tree(0);
    for registrations in [1, 10_000] {
        let (beside, _guards) = tree(registrations);
        let mut group = Group::new();
        group.add("alone", || assert!(alone.buffer(4 * KIB).is_ok()));
        group.add("beside", || assert!(beside.buffer(4 * KIB).is_ok()));
        let ratio = group.measure(settings).ratio("beside", "alone");
        println!("| a 4 KiB buffer beside registrations / alone, {registrations} | {ratio} × |");
    }
}

//! The end of a run: everything is released, and the books are compared with what the run knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::AllocatorId;
use arrow_memory_integration_tests::load::Count;

use crate::server::Server;

/// The bytes that the backend has handed out and not got back, if it counts them.
pub(crate) fn live_bytes(server: &Server) -> Option<usize> {
    server.root.allocation_manager().stats().live_bytes
}

/// Checks that the tree has the known leaks and nothing else, and nothing at all once they are mended. What is wrong
/// becomes a failure of the run.
pub(crate) fn settle(server: &Arc<Server>, live_before: Option<usize>) {
    let fail = |what: String| server.totals().fail(what);
    if !until_caches_are_gone(server) {
        fail("a cache was not dropped".to_owned());
    }
    let shelf = server.shelf_allocator.clone();
    if let Err(report) = shelf.close() {
        fail(format!("the shelf is not empty: {report}"));
    }
    if let Err(error) = server.root.verify() {
        fail(error.to_string());
    }
    let waiters = server.root.snapshot().waiters;
    if !waiters.is_empty() {
        fail(format!("requests wait after the end: {waiters:?}"));
    }
    let (leaked, leaky) = (server.attic.bytes(), server.attic.clients());
    let children = server.root.child_allocators();
    let there: BTreeSet<AllocatorId> = children.iter().map(|child| child.id()).collect();
    drop(children);
    if (server.root.allocated_memory(), &there) != (leaked, &leaky) {
        fail(format!(
            "{leaked} bytes of {leaky:?} were leaked, and this is left:\n{}",
            server.root.report()
        ));
    }
    println!("{leaked} bytes of {} clients are leaked", leaky.len());
    match server.root.close() {
        Ok(()) if leaky.is_empty() => {}
        Ok(()) => fail("the root was closed although clients leak".to_owned()),
        Err(report) => {
            let found: BTreeSet<AllocatorId> =
                report.children.iter().map(|(child, _)| child.id).collect();
            if (report.allocated, found) != (leaked, leaky) {
                fail(format!("the report has other leaks: {report}"));
            }
        }
    }
    mend(server, live_before);
}

fn mend(server: &Server, live_before: Option<usize>) {
    let totals = server.totals();
    match server.attic.mend_all() {
        Ok(count) => (0..count).for_each(|_| totals.add(Count::Mended)),
        Err(report) => totals.fail(format!("not mended: {report}")),
    }
    if let Err(report) = server.root.close() {
        totals.fail(format!("the root is not empty: {report}"));
    }
    let live = live_bytes(server);
    if live != live_before {
        totals.fail(format!(
            "the backend has {live:?} live bytes, and had {live_before:?}"
        ));
    }
    if totals.of(Count::Leaked) != totals.of(Count::Mended) {
        totals.fail("not all leaks were mended".to_owned());
    }
}

/// Waits until no other thread has a cache: each has a share of the ground.
fn until_caches_are_gone(server: &Server) -> bool {
    let began = Instant::now();
    while Arc::strong_count(&server.ground) > 1 {
        if began.elapsed() > Duration::from_secs(5) {
            return false;
        }
        thread::yield_now();
    }
    true
}

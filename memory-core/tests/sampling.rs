//! Sampling: its estimates and its switches. This is a binary of its own, since sampling applies to the whole
//! process.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use arrow_memory_core::sampling::{self, SampleReport};
use arrow_memory_core::{
    AllocationListener, ArrowBufMut, BufferAllocator, ForeignAllocation, RootAllocator,
};
use arrow_memory_system as _;

/// Lets one test sample at a time, and starts it with an empty report.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    sampling::stop_all();
    sampling::reset();
    guard
}

fn tree(name: &str) -> (RootAllocator, BufferAllocator) {
    let root = RootAllocator::builder().debug(false).build().unwrap();
    let child = root.child(name).build().unwrap();
    (root, child)
}

#[inline(never)]
fn hash_table(allocator: &BufferAllocator, bytes: usize) -> ArrowBufMut {
    allocator.buffer(bytes).unwrap()
}

#[inline(never)]
fn column(allocator: &BufferAllocator, bytes: usize) -> ArrowBufMut {
    allocator.buffer(bytes).unwrap()
}

fn live_of(report: &SampleReport, function: &str) -> f64 {
    let sites = report.sites.iter().filter(|site| {
        let stack = site.stack.map(|stack| stack.resolve());
        stack.is_some_and(|frames| frames[0].function.ends_with(function))
    });
    sites.map(|site| site.live_total().bytes).sum()
}

#[test]
fn estimates_come_near_the_truth_by_site_and_allocator() {
    let _alone = alone();
    let (_root, query) = tree("query-7");
    sampling::start("query-*", 4096);

    let tables: Vec<_> = (0..2000).map(|_| hash_table(&query, 8192)).collect();
    let columns: Vec<_> = (0..20_000).map(|_| column(&query, 1024)).collect();
    for _ in 0..20_000 {
        drop(column(&query, 1024));
    }

    let report = sampling::report();
    let near = |estimate: f64, truth: usize| (estimate / truth as f64 - 1.0).abs() < 0.1;
    assert!(
        near(live_of(&report, "hash_table"), 2000 * 8192),
        "{report}"
    );
    assert!(near(live_of(&report, "column"), 20_000 * 1024), "{report}");
    let allocated: f64 = report.sites.iter().map(|site| site.allocated.bytes).sum();
    assert!(near(allocated, 2000 * 8192 + 40_000 * 1024), "{report}");
    let count: f64 = report.sites.iter().map(|site| site.allocated.count).sum();
    assert!(near(count, 42_000), "{count}");
    drop((tables, columns));
    assert_eq!(live_of(&sampling::report(), ""), 0.0);
}

#[test]
fn only_allocators_that_match_are_sampled_and_only_while_it_is_on() {
    let _alone = alone();
    let (root, query) = tree("query-7");
    let other = root.child("cache").build().unwrap();

    sampling::start("query-*", 512);
    let late = root.child("query-8").build().unwrap();
    let held: Vec<_> = [&query, &other, &late]
        .map(|allocator| column(allocator, 64 << 10))
        .into();
    assert!(sampling::stop("query-*"));
    let after = column(&query, 64 << 10);

    let report = sampling::report();
    // The compiler may have inlined the call, so there may be several sites.
    let live = report.sites.iter().flat_map(|site| &site.live);
    let mut names: Vec<&str> = live.map(|(allocator, _)| &*allocator.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["query-7", "query-8"]);
    assert!(!sampling::stop("query-*"));
    assert_eq!(sampling::patterns(), []);
    drop((held, after));
}

#[test]
fn samples_follow_growth_transfers_and_foreign_memory() {
    let _alone = alone();
    let (root, scan) = tree("scan");
    let sort = root.child("sort").build().unwrap();
    sampling::start("*", 512);
    let mut buffer = column(&scan, 32 << 10);
    buffer.resize(64 << 10, 1).unwrap();
    buffer.truncate(16 << 10);
    buffer.shrink_to_fit().unwrap();
    let foreign = ForeignAllocation::from_owner(vec![0_u8; 10_000]);
    let foreign = scan.wrap_foreign_allocation(foreign).unwrap();

    let moved = buffer.freeze().transfer_ownership(&sort).unwrap().buffer;

    let live = |allocator: &BufferAllocator| -> f64 {
        let report = sampling::report();
        let live = report.sites.iter().flat_map(|site| &site.live);
        live.filter(|(info, _)| info.id == allocator.id())
            .map(|(_, estimate)| estimate.bytes)
            .sum()
    };
    // An allocation far above the interval is estimated at its own size.
    assert!((live(&sort) - 16384.0).abs() < 1.0, "{}", live(&sort));
    assert!((live(&scan) - 10_000.0).abs() < 1.0, "{}", live(&scan));
    drop((moved, foreign));
    assert_eq!(live(&sort) + live(&scan), 0.0);
}

#[test]
fn one_call_says_who_holds_memory_now() {
    let _alone = alone();
    let (root, query) = tree("query-7");
    let debugged = RootAllocator::builder()
        .name("debugged")
        .debug(true)
        .build()
        .unwrap();
    sampling::start("query-*", 1024);
    let held: Vec<_> = (0..50).map(|_| hash_table(&query, 64 << 10)).collect();
    let exact = column(&debugged, 1000);
    root.allocate_bytes(5000).unwrap();
    let mut reservation = root.new_reservation();
    reservation.add(300).unwrap();

    let holders = sampling::who_holds();

    let find = |name: &str, id| {
        let mut found = holders.allocators.iter();
        found
            .find(|held| held.allocator.id == id)
            .unwrap_or_else(|| panic!("{name}"))
            .clone()
    };
    let query = find("query-7", query.id());
    assert_eq!(
        (query.path.as_str(), query.charged_bytes, query.exact),
        ("ROOT/query-7", 50 << 16, false)
    );
    assert!(
        query.sites[0].bytes.abs_diff(50 << 16) < 64 << 10,
        "{holders}"
    );
    let debugged_held = find("debugged", debugged.id());
    assert_eq!(
        (debugged_held.exact, debugged_held.sites[0].bytes),
        (true, 1024)
    );
    let external = find("ROOT", root.id());
    assert_eq!((external.external_bytes, external.sites.len()), (5000, 0));
    assert_eq!(external.reserved_bytes, 300);
    let text = holders.to_string();
    assert!(text.contains("ROOT/query-7"), "{text}");
    assert!(text.contains("in sampling::hash_table"), "{text}");
    assert!(
        text.contains("ROOT (5000 of them external, 300 reserved)"),
        "{text}"
    );
    root.release_bytes(5000);
    drop((held, exact));
}

#[test]
fn threads_that_allocate_while_it_is_switched_lose_nothing() {
    let _alone = alone();
    let (root, query) = tree("query-7");

    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                for round in 0..3000 {
                    let buffer = column(&query, 4096);
                    if round % 10 == 0 {
                        drop(root.child("query-9").build().unwrap());
                    }
                    drop(buffer);
                }
            });
        }
        for _ in 0..200 {
            sampling::start("query-*", 4096);
            let _ = sampling::report();
            sampling::stop("query-*");
        }
    });

    assert!(
        sampling::report()
            .sites
            .iter()
            .all(|site| site.live.is_empty())
    );
    assert_eq!(query.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn memory_is_bounded_however_many_samples_are_alive() {
    let _alone = alone();
    let (_root, query) = tree("query-7");
    sampling::start("query-*", 512);

    // One in nine million is not sampled, so this makes a few more.
    let held: Vec<_> = (0..sampling::MAX_LIVE + 1010)
        .map(|_| column(&query, 8192))
        .collect();

    let report = sampling::report();
    assert!(report.dropped >= 1000, "{}", report.dropped);
    let live: f64 = report
        .sites
        .iter()
        .map(|site| site.live_total().count)
        .sum();
    assert!((live - sampling::MAX_LIVE as f64).abs() < 1.0);
    drop(held);
}

#[test]
fn what_a_listener_heard_of_is_sampled_until_it_is_released() {
    struct Silent;
    impl AllocationListener for Silent {}
    let _alone = alone();
    let root = RootAllocator::builder()
        .name("heard")
        .debug(false)
        .listener(Arc::new(Silent));
    let root = root.build().unwrap();
    sampling::start("heard", 1024);

    let held = root.buffer(1 << 20).unwrap();
    assert!(live_of(&sampling::report(), "") > 0.0);
    for _ in 0..100 {
        drop(root.buffer(64 << 10).unwrap());
    }
    drop(held);

    assert_eq!(live_of(&sampling::report(), ""), 0.0);
}

//! Exported numbers: snapshots as JSON, metrics as a Prometheus page, peaks by epoch.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{ForeignAllocation, RootAllocator};

fn root() -> RootAllocator {
    RootAllocator::builder()
        .limit(1 << 20)
        .credit(0)
        .statistics(true)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

#[test]
fn a_snapshot_has_a_stable_form_in_json() {
    let root = root();
    let scan = root.new_child_allocator("scan", 4096, 65536).unwrap();
    let _buffer = scan.buffer(1000).unwrap();
    let _foreign = scan
        .wrap_foreign_allocation(ForeignAllocation::from_owner(vec![1; 10]))
        .unwrap();
    let mut reservation = scan.new_reservation();
    reservation.add(100).unwrap();
    root.allocate_bytes(7).unwrap();
    assert!(scan.buffer(1 << 20).is_err());

    let json = serde_json::to_value(root.snapshot()).unwrap();

    let expected = serde_json::json!({
        "entries": [
            {
                "allocator": { "id": root.id().as_u64(), "name": "ROOT" },
                "parent": null,
                "depth": 0,
                "group": null,
                "allocated": 4103,
                "peak": 4103,
                "limit": 1_048_576,
                "reservation": 0,
                "withheld": 0,
                "closed": false,
                "stats": {
                    "own_bytes": 0,
                    "foreign_bytes": 0,
                    "external_bytes": 7,
                    "reserved_bytes": 0,
                    "peak_bytes": 4103,
                    "refusals": 0,
                    "forced_bytes": 0,
                    "total_bytes": 0,
                    "allocations": 0,
                    "live_allocations": 0
                },
                "reservations": []
            },
            {
                "allocator": { "id": scan.id().as_u64(), "name": "scan" },
                "parent": root.id().as_u64(),
                "depth": 1,
                "group": null,
                "allocated": 1134,
                "peak": 1134,
                "limit": 65536,
                "reservation": 4096,
                "withheld": 0,
                "closed": false,
                "stats": {
                    "own_bytes": 1024,
                    "foreign_bytes": 10,
                    "external_bytes": 0,
                    "reserved_bytes": 100,
                    "peak_bytes": 1134,
                    "refusals": 1,
                    "forced_bytes": 0,
                    "total_bytes": 1034,
                    "allocations": 2,
                    "live_allocations": 2
                },
                "reservations": [100]
            }
        ],
        "waiters": []
    });
    assert_eq!(json, expected);
    root.release_bytes(7);
}

/// A regression: an unlimited allocator had the limit 18446744073709551615, which JavaScript and jq round.
#[test]
fn no_limit_is_null_in_json() {
    let root = root();
    let free = root.child("free").group("job").build().unwrap();
    let largest = root
        .child("largest")
        .limit(isize::MAX as usize)
        .build()
        .unwrap();

    let json = serde_json::to_value(root.snapshot()).unwrap();

    let of = |index: usize, field: &str| json["entries"][index][field].clone();
    assert_eq!(of(0, "limit"), 1 << 20);
    assert_eq!(
        (of(1, "limit"), of(1, "group")),
        (serde_json::Value::Null, "job".into())
    );
    assert_eq!(of(2, "limit"), isize::MAX as usize);
    assert_eq!(free.limit(), usize::MAX);
    free.set_limit(isize::MAX as usize + 1);
    largest.set_limit(0);
    let json = serde_json::to_value(root.snapshot()).unwrap();
    assert!(json["entries"][1]["limit"].is_null());
    assert_eq!(json["entries"][2]["limit"], 0);
}

#[test]
fn a_peak_can_be_reset_and_read_for_each_epoch() {
    for credit in [0, 1 << 20] {
        let root = RootAllocator::builder()
            .credit(credit)
            .allocation_manager(Arc::new(TrackingManager::default()))
            .build()
            .unwrap();
        let held = root.buffer(1024).unwrap();
        drop(root.buffer(4096).unwrap());

        assert_eq!(root.reset_peak(), 5120);
        assert_eq!(root.peak_memory_allocation(), 1024);
        drop(root.buffer(64).unwrap());
        assert_eq!(root.reset_peak(), 1088);
        drop(held);
        assert_eq!(root.reset_peak(), 1024);
        assert_eq!(root.reset_peak(), 0);
        root.verify().unwrap();
    }
}

#[test]
fn the_example_serves_a_page_that_a_client_can_read() {
    let mut path = env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("serve_metrics{}", env::consts::EXE_SUFFIX));
    let mut server = Command::new(path)
        .args(["127.0.0.1:0", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();

    let first = minreq::get(url.trim()).send().unwrap();
    let second = minreq::get(url.trim()).send().unwrap();

    assert!(server.wait().unwrap().success());
    assert_eq!(first.status_code, 200);
    let page = first.as_str().unwrap();
    for line in [
        "arrow_memory_allocated_bytes{allocator=\"server/query\"} 2101248",
        "arrow_memory_limit_bytes{allocator=\"server/query\"} 16777216",
        "arrow_memory_limit_bytes{allocator=\"server\"} 1073741824",
        "arrow_memory_reservation_bytes{allocator=\"server/query\"} 1048576",
        "arrow_memory_live_allocations{allocator=\"server/query\"} 2",
        "arrow_memory_refusals_total{allocator=\"server/query\"} 1",
        "arrow_memory_forced_bytes_total{allocator=\"server/query\"} 0",
        "arrow_memory_accounted_bytes{root=\"server\"} 2101248",
        "arrow_memory_manager_live_bytes{manager=\"system\"} 2101248",
        "# TYPE arrow_memory_allocated_bytes gauge",
        "# TYPE arrow_memory_refusals_total counter",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not in:\n{page}"
        );
    }
    for name in [
        "arrow_memory_held_bytes{",
        "arrow_memory_resident_bytes ",
        "arrow_memory_peak_bytes{",
    ] {
        assert!(page.contains(name), "{name} is not in:\n{page}");
    }
    // The refusal was counted once.
    assert!(
        second
            .as_str()
            .unwrap()
            .contains("refusals_total{allocator=\"server/query\"} 1\n")
    );
}

/// The number is that of the process, in which other tests have buffers, too, and may keep memory from being freed for a
/// moment.
#[test]
fn the_records_of_buffers_are_among_the_totals_and_are_freed() {
    let root = RootAllocator::unlimited();
    let bytes = || root.memory_totals().bookkeeping_bytes;
    let round = |_| {
        let buffers: Vec<_> = (0..100_000).map(|_| root.buffer(1).unwrap()).collect();
        let most = bytes();
        assert!(most >= 100_000 * 88, "{most}");
        drop(buffers);
        bytes() + 4_000_000 < most
    };
    assert!((0..20).any(round));
}

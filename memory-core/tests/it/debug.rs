//! Debug mode: each live object is reported with the line that created it.

use std::sync::Arc;
use std::thread;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};

fn debug_root() -> RootAllocator {
    root(true)
}

fn root(debug: bool) -> RootAllocator {
    RootAllocator::builder()
        .limit(1 << 20)
        .debug(debug)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

/// Masks the numbers after `address: ` and `life: `.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        for (start, end) in [("address: ", ","), ("life: ", "..")] {
            if let Some((before, after)) = line.split_once(start)
                && let Some((_, rest)) = after.split_once(end)
            {
                line = format!("{before}{start}_{end}{rest}");
            }
        }
        masked.push_str(&line);
        masked.push('\n');
    }
    masked
}

#[inline(never)]
fn make(allocator: &BufferAllocator, size: usize) -> ArrowBuf {
    allocator.buffer_from_slice(&vec![1; size]).unwrap()
}

const MAKE: u32 = line!() - 3;

#[test]
fn a_failed_close_names_the_line_of_every_outstanding_thing() {
    let root = debug_root();
    let child = root.child("scan").reservation(1024).build().unwrap();
    let buffer = make(&child, 100);
    let mut reservation = child.new_reservation();
    reservation.add(10).unwrap();
    let line = line!();

    let text = root.close().unwrap_err().to_string();

    let lines = masked(&text);
    let without_callers: Vec<&str> = lines
        .lines()
        .filter(|line| !line.contains("called from"))
        .collect();
    let test = "it::debug::a_failed_close_names_the_line_of_every_outstanding_thing";
    let expected = format!(
        "\
allocator `ROOT` closed with 1 outstanding child (1024 bytes)
Allocator(ROOT) 0/1024/1024/1048576 (res/actual/peak/limit)
  child allocators: 1
    Allocator(scan) 1024/138/138/none (res/actual/peak/limit)
      created at memory-core/tests/it/debug.rs:{} in {test}
      child allocators: 0
      ledgers: 1
        ledger[1] allocator: scan, owning: true, size: 128, references: 1, life: _.., holds 1 buffer
          ArrowBuf[2], address: _, length: 100
            created at memory-core/tests/it/debug.rs:{MAKE} in it::debug::make
      reservations: 1
        reservation[3], size: 10, life: _..
          created at memory-core/tests/it/debug.rs:{} in {test}
  ledgers: 0
  reservations: 0",
        line - 4,
        line - 2,
    );
    assert_eq!(without_callers.join("\n"), expected);
    assert!(lines.contains(&format!(
        "called from memory-core/tests/it/debug.rs:{}",
        line - 3
    )));
    drop((buffer, reservation));
    child.close().unwrap();
    root.close().unwrap();
}

#[test]
fn without_debug_mode_a_failed_close_gives_names_counts_and_bytes() {
    let root = root(false);
    let child = root.child("scan").build().unwrap();
    let buffer = make(&child, 100);
    let clones = [buffer.clone(), buffer.slice(10..)];
    let own = make(&root, 64);

    let text = root.close().unwrap_err().to_string();

    assert_eq!(
        text,
        "\
allocator `ROOT` closed with 1 outstanding child, 1 outstanding buffer (192 bytes)
Allocator(ROOT) 0/192/192/1048576 (res/actual/peak/limit)
  child allocators: 1
    Allocator(scan) 0/128/128/none (res/actual/peak/limit)
      child allocators: 0
      ledgers: 1
        ledger allocator: scan, owning: true, size: 128, references: 3, holds 3 buffers
      reservations: 0
  ledgers: 1
    ledger allocator: ROOT, owning: true, size: 64, references: 1, holds 1 buffer
  reservations: 0"
            .replace("192/192/1048576", &text_peak(&text))
    );
    drop((buffer, clones, own));
}

/// The numbers of the first node in the text: the peak of a node with children may include credit.
fn text_peak(text: &str) -> String {
    let line = text.lines().nth(1).unwrap();
    let numbers = line.split_whitespace().nth(1).unwrap();
    numbers.strip_prefix("0/").unwrap().to_owned()
}

#[test]
fn of_two_clones_the_one_that_is_alive_is_named() {
    for keep_the_first in [true, false] {
        let root = debug_root();
        let first = make(&root, 100);
        let second = first.clone();
        let line = line!() - 1;
        let kept = if keep_the_first {
            drop(second);
            first
        } else {
            drop(first);
            second
        };

        let text = root.to_verbose_string();

        let (id, made) = if keep_the_first { (2, MAKE) } else { (3, line) };
        assert!(text.contains(&format!("ArrowBuf[{id}], ")), "{text}");
        assert!(
            text.contains(&format!(
                "created at memory-core/tests/it/debug.rs:{made} in "
            )),
            "{text}"
        );
        assert!(text.contains("references: 1"), "{text}");
        drop(kept);
        root.close().unwrap();
    }
}

#[test]
fn views_on_other_allocators_have_ledgers_of_their_own() {
    let root = debug_root();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let buffer = make(&a, 100);
    let shared = buffer.retain_in(&b).unwrap();
    let again = buffer.retain_in(&b).unwrap();

    let text = root.to_verbose_string();

    assert!(text.contains("ledger[1] allocator: a, owning: true, size: 128, references: 1"));
    assert!(text.contains("ledger[3] allocator: b, owning: false, size: 128, references: 2"));
    assert!(text.contains("(retained)"), "{text}");
    let moved = buffer.transfer_ownership(&b).unwrap().buffer;
    drop((buffer, again, shared));
    let text = moved.to_verbose_string();
    assert!(text.contains("(transferred)"), "{text}");
    drop(moved);
    for allocator in [&a, &b, &root] {
        allocator.close().unwrap();
    }
}

#[test]
fn a_history_has_the_creation_and_the_latest_six_events() {
    let root = debug_root();
    let mut buffer = root.buffer(64).unwrap();
    for _ in 0..10 {
        let grown = buffer.capacity() * 2;
        buffer.resize(grown, 1).unwrap();
    }
    let line = line!() - 2;
    let buffer = buffer.freeze();

    let report = root.report();

    let known = &report.entries[0].ledgers[0].buffers[0];
    assert_eq!((known.length, known.writable), (64 << 10, false));
    assert_eq!(known.history.created.operation, "created");
    let events = &known.history.events;
    let operations: Vec<&str> = events.iter().map(|event| event.operation).collect();
    assert_eq!(
        operations,
        [
            "resized", "resized", "resized", "resized", "resized", "frozen"
        ]
    );
    assert_eq!(events[4].detail, 64 << 10);
    assert_eq!(events[4].caller.unwrap().line(), line);
    assert!(known.history.stack.addresses().len() > 3);
    let text = buffer.to_verbose_string();
    assert!(
        text.contains(&format!(
            "resized (65536) at memory-core/tests/it/debug.rs:{line}"
        )),
        "{text}"
    );
}

#[test]
fn split_writable_buffers_and_foreign_memory_are_registered() {
    let root = debug_root();
    let mut left = root.buffer_zeroed(256).unwrap();
    let right = left.split_off(64);
    let foreign = arrow_memory_core::ForeignAllocation::from_owner(vec![1; 10]);
    let wrapped = root.wrap_foreign_allocation(foreign).unwrap();

    let text = masked(&root.report().to_string());

    assert!(
        text.contains("ArrowBufMut[2], address: _, capacity: 64\n"),
        "{text}"
    );
    assert!(
        text.contains("ArrowBufMut[3], address: _, capacity: 192\n"),
        "{text}"
    );
    assert!(text.contains("(split)"), "{text}");
    assert!(
        text.contains("size: 10, references: 1, foreign, life: _.., holds 1 buffer"),
        "{text}"
    );
    assert!(text.contains("(wrapped)"), "{text}");
    drop((left, right, wrapped));
    root.close().unwrap();
}

#[test]
fn buffers_may_be_dropped_on_other_threads_and_after_the_last_handle() {
    let root = debug_root();
    let child = root.child("scan").build().unwrap();
    let buffer = make(&child, 100);
    let clone = buffer.clone();
    drop(child);

    thread::spawn(move || drop(buffer)).join().unwrap();

    assert!(root.to_verbose_string().contains("ArrowBuf[3]"));
    drop(clone);
    assert!(root.child_allocators().is_empty());
    root.close().unwrap();
}

#[test]
fn threads_that_clone_retain_and_drop_keep_the_registry_right() {
    let root = debug_root();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let buffer = make(&a, 1000);

    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..500 {
                    let clone = buffer.clone();
                    let shared = clone.retain_in(&b).unwrap();
                    let moved = shared.transfer_ownership(&a).unwrap().buffer;
                    drop((clone, shared.slice(10..20), shared, moved));
                }
            });
        }
    });

    let report = root.report();
    let buffers: usize = report
        .entries
        .iter()
        .flat_map(|entry| &entry.ledgers)
        .map(|ledger| ledger.buffers.len())
        .sum();
    assert_eq!(buffers, 1);
    drop(buffer);
    for allocator in [&a, &b, &root] {
        allocator.close().unwrap();
    }
}

#[test]
fn ten_thousand_outstanding_things_are_all_listed() {
    const COUNT: usize = 10_000;
    let root = RootAllocator::builder()
        .debug(true)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap();
    let buffers: Vec<_> = (0..COUNT).map(|_| make(&root, 64)).collect();
    let reservations: Vec<_> = (0..COUNT).map(|_| root.new_reservation()).collect();
    let mut deep = vec![root.child("0").build().unwrap()];
    for _ in 1..COUNT {
        deep.push(deep[deep.len() - 1].child("0").build().unwrap());
    }

    let text = root.close().unwrap_err().to_string();

    let count = |what: &str| text.matches(what).count();
    assert_eq!(count(" ArrowBuf["), COUNT);
    assert_eq!(count(" reservation["), COUNT);
    assert_eq!(count("Allocator(0)"), COUNT);
    // The length is proportional to the number of objects, independent of the depth.
    assert!(text.len() < 6000 * 3 * COUNT, "{} bytes", text.len());
    drop((buffers, reservations));
    while let Some(last) = deep.pop() {
        last.close().unwrap();
    }
    root.close().unwrap();
}

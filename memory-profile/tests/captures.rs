//! Captures: the parsed events, and the blocks that were never freed.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use arrow_memory_profile::{Dangling, DanglingReport, Event, Events, Malformed};

fn read(name: &str) -> (Vec<Event>, Malformed) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    let mut events = Events::new(BufReader::new(File::open(path).unwrap()));
    let all = (&mut events).collect::<Result<_, _>>().unwrap();
    (all, events.malformed().clone())
}

fn dangling(events: &[Event]) -> DanglingReport {
    let mut dangling = Dangling::default();
    events.iter().for_each(|event| dangling.add(event));
    dangling.report()
}

#[test]
fn our_probes_are_read_with_stacks_and_commands_that_have_blanks() {
    let (events, malformed) = read("usdt.txt");

    assert_eq!((events.len(), malformed.count), (6, 0), "{malformed:?}");
    let first = serde_json::to_string(&events[0]).unwrap();
    assert_eq!(
        first,
        r#"{"command":"query worker","tid":4711,"cpu":2,"time":"100.000001","event":"sdt_arrow_memory:allocate","params":{"arg1":"140000000000064","arg2":"4096","arg3":"94000000001000","arg4":"2"},"stack":[{"address":"55d0c0de1000","symbol":"arrow_memory_core::buffer::allocate::allocate_charged+0x40","module":"/srv/engine"},{"address":"55d0c0de2000","symbol":"engine::scan::read_batch+0x1f","module":"/srv/engine"},{"address":"55d0c0de3000","symbol":"engine::main+0x90","module":"/srv/engine"}]}"#
    );
    assert_eq!((events[5].pid, events[5].tid), (Some(4711), 4713));
}

#[test]
fn what_was_never_freed_is_grouped_by_stack_largest_first() {
    let (mut events, _) = read("usdt.txt");
    // The first batch is allocated twice more, and never freed.
    for address in ["1", "2"] {
        let mut another = events[0].clone();
        another.params.insert("arg1".to_owned(), address.to_owned());
        events.push(another);
    }

    let report = dangling(&events);

    let stacks: Vec<_> = report
        .stacks
        .iter()
        .map(|stack| (stack.bytes, stack.count, stack.stack[1].symbol.as_str()))
        .collect();
    assert_eq!(
        stacks,
        [
            (16384, 1, "engine::join::build+0x2a"),
            (8192, 2, "engine::scan::read_batch+0x1f")
        ]
    );
    assert_eq!((report.unmatched, report.unreadable), (0, 0));
    assert!(
        report
            .to_string()
            .starts_with("16384 bytes in 1 block never freed\n    55d0c0de1800 ")
    );
}

#[test]
fn the_uprobes_of_arrow_cpp_on_jemalloc_are_understood() {
    let (events, malformed) = read("jemalloc.txt");

    let report = dangling(&events);

    assert_eq!(malformed.count, 0, "{malformed:?}");
    assert_eq!(report.stacks.len(), 1);
    assert_eq!((report.stacks[0].bytes, report.stacks[0].count), (0x100, 1));
    let symbol = &report.stacks[0].stack[0].symbol;
    assert_eq!(
        symbol,
        "arrow::(anonymous namespace)::JemallocAllocator::ReallocateAligned+0x13b"
    );
    // This block was freed, and was allocated before the capture began.
    assert_eq!(report.unmatched, 1);
}

#[test]
fn the_uprobes_of_arrow_cpp_on_mimalloc_are_matched_by_thread() {
    let (events, malformed) = read("mimalloc.txt");

    let report = dangling(&events);

    assert_eq!(malformed.count, 0, "{malformed:?}");
    // The failed resize left the first block as it was; the second block was freed.
    assert_eq!(report.stacks.len(), 1, "{report}");
    assert_eq!(
        (
            report.stacks[0].bytes,
            report.stacks[0].stack[0].symbol.as_str()
        ),
        (0x40, "first+0x1")
    );
    assert_eq!(report.unmatched, 0);
}

/// A recorded capture; a separate script counted the expected numbers.
#[test]
fn a_recorded_capture_of_uprobes_is_understood() {
    let (events, malformed) = read("recorded-mimalloc.txt");

    let report = dangling(&events);

    assert_eq!((events.len(), malformed.count), (76, 0), "{malformed:?}");
    let bytes: u64 = report.stacks.iter().map(|stack| stack.bytes).sum();
    let count: u64 = report.stacks.iter().map(|stack| stack.count).sum();
    assert_eq!((bytes, count, report.unmatched), (83_744, 8, 18));
    let largest = &report.stacks[0];
    assert_eq!(
        (largest.bytes, largest.stack[0].symbol.as_str()),
        (65_536, "arrow_memory_core::raw::pool::Pool::grow+0x11")
    );
}

/// A recorded capture, with every probe.
#[test]
fn a_recorded_capture_of_our_probes_is_understood() {
    let (events, malformed) = read("recorded-usdt.txt");

    let names: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(malformed.count, 0, "{malformed:?}");
    assert_eq!(
        names,
        [
            "allocate",
            "reallocate",
            "refuse",
            "transfer",
            "transfer",
            "release"
        ]
        .map(|name| format!("sdt_arrow_memory:{name}"))
    );
    let callers = events[0].stack.iter().map(|frame| frame.symbol.as_str());
    assert!(
        callers
            .clone()
            .any(|symbol| symbol.starts_with("it::probes::all_five_probes")),
        "{:?}",
        callers.collect::<Vec<_>>()
    );
    assert!(dangling(&events).stacks.is_empty());
    let report = dangling(&events[..events.len() - 1]);
    assert_eq!((report.stacks.len(), report.stacks[0].bytes), (1, 1024));
}

#[test]
fn malformed_lines_are_counted_and_told_and_stop_nothing() {
    let (events, malformed) = read("damaged.txt");

    let lines: Vec<u64> = malformed.first.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [4, 5, 6, 7, 8, 13, 14], "{malformed:?}");
    assert_eq!(malformed.count, 7);
    assert_eq!(events.len(), 3);
    let report = dangling(&events);
    assert_eq!((report.stacks.len(), report.unreadable), (0, 1));
}

#[test]
fn an_empty_capture_does_not_say_that_everything_was_freed() {
    let mut events = Events::new(&b""[..]);

    assert!(events.next().is_none());
    assert_eq!(
        dangling(&[]).to_string(),
        "no allocations in this capture\n"
    );
}

//! Reads any bytes as a capture: what `perf script` prints about the probes. Each line is an event, a frame or
//! malformed; no address, size or order of the events makes the report of blocks that were never freed fail.
//!
//! What was read is written as JSON, and the report as text, in which no control characters of the capture are left.
#![no_main]

use std::collections::BTreeMap;

use arrow_memory_fuzz::print_panics;
use arrow_memory_profile::{Call, Dangling, Event, Events};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let lines = bytes.split(|&byte| byte == b'\n').count() as u64;
    let mut events = Events::new(bytes);
    let (mut dangling, mut read) = (Dangling::default(), Vec::new());
    for event in &mut events {
        let event = event.expect("bytes in memory can be read");
        check_event(&event);
        dangling.add(&event);
        read.push(event);
    }
    let malformed = events.malformed();
    let frames: usize = read.iter().map(|event| event.stack.len()).sum();
    assert!((read.len() + frames) as u64 + malformed.count <= lines);
    assert_eq!(malformed.first.len() as u64, malformed.count.min(10));

    let report = dangling.report();
    let live: u64 = report.stacks.iter().map(|stack| stack.count).sum();
    assert!(live <= report.allocations && report.allocations <= read.len() as u64);
    let decreases = report
        .stacks
        .windows(2)
        .all(|it| it[0].bytes >= it[1].bytes);
    assert!(decreases);
    let naive = live_blocks(&read);
    let mut expected: Vec<u64> = naive.values().copied().collect();
    expected.sort_unstable();
    assert_eq!(live, expected.len() as u64);
    let bytes = expected
        .iter()
        .fold(0_u64, |sum, &it| sum.saturating_add(it));
    assert_eq!(report.bytes(), bytes);
    let text = report.to_string();
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
    serde_json::to_string(&report).expect("a report can be written");
});

fn check_event(event: &Event) {
    let text = serde_json::to_string(event).expect("an event can be written");
    assert!(!text.contains('\n'));
    assert!(!event.event.is_empty() && !event.time.is_empty());
    let is_number = |address: &str| u64::from_str_radix(address, 16).is_ok();
    assert!(event.stack.iter().all(|frame| is_number(&frame.address)));
}

/// The sizes of the blocks that were not freed, by address.
fn live_blocks(events: &[Event]) -> BTreeMap<u64, u64> {
    let mut live = BTreeMap::new();
    // By thread, the block that a request resizes, and its new size.
    let mut asked: BTreeMap<u32, (Option<u64>, u64)> = BTreeMap::new();
    for event in events {
        let (from, to, size) = match event.call() {
            Some(Call::Allocated { address, size }) => {
                live.insert(address, size);
                continue;
            }
            Some(Call::Freed { address }) => {
                // Null is no block, even if it was said to be allocated.
                if address != 0 {
                    live.remove(&address);
                }
                continue;
            }
            Some(Call::Asked { size }) => {
                asked.insert(event.tid, (None, size));
                continue;
            }
            Some(Call::Resized {
                from,
                to: None,
                size,
            }) => {
                asked.insert(event.tid, (Some(from), size));
                continue;
            }
            Some(Call::Resized {
                from,
                to: Some(to),
                size,
            }) => (Some(from), to, size),
            Some(Call::Returned { address }) => match asked.remove(&event.tid) {
                Some((from, size)) => (from, address, size),
                None => continue,
            },
            _ => continue,
        };
        if to != 0 {
            if let Some(from) = from.filter(|&from| from != 0) {
                live.remove(&from);
            }
            live.insert(to, size);
        }
    }
    live
}

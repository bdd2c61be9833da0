//! The formats in which reports of sampling are written. This is a binary of its own, since sampling applies
//! to the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, RootAllocator, sampling};
use arrow_memory_profile::{to_pprof, write_folded};
use arrow_memory_system as _;
use pprof::protos::{Message, Profile};

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

#[test]
fn an_independent_reader_understands_the_pprof_profile() {
    let _alone = alone();
    let (_root, query) = tree("query-7");
    sampling::start("query-*", 512);
    let held: Vec<_> = (0..100).map(|_| hash_table(&query, 64 << 10)).collect();

    let zipped = to_pprof(&sampling::report());

    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&zipped[..])
        .read_to_end(&mut bytes)
        .unwrap();
    let profile = Profile::decode(&bytes[..]).unwrap();
    let text = |index: i64| profile.string_table[index as usize].as_str();
    let types: Vec<_> = profile
        .sample_type
        .iter()
        .map(|kind| (text(kind.ty), text(kind.unit)))
        .collect();
    assert_eq!(
        types,
        [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes")
        ]
    );
    assert_eq!(profile.string_table[0], "");
    assert_eq!(text(profile.default_sample_type), "inuse_space");
    let allocated: i64 = profile.sample.iter().map(|sample| sample.value[1]).sum();
    let live = profile
        .sample
        .iter()
        .find(|sample| sample.value[3] > 0)
        .unwrap();
    assert_eq!(
        (allocated, live.value[2], live.value[3]),
        (100 << 16, 100, 100 << 16)
    );
    assert_eq!(
        (text(live.label[0].key), text(live.label[0].str)),
        ("allocator", "query-7")
    );
    let names: Vec<&str> = live
        .location_id
        .iter()
        .map(|id| {
            let location = profile
                .location
                .iter()
                .find(|location| location.id == *id)
                .unwrap();
            let function = location.line[0].function_id;
            let function = profile
                .function
                .iter()
                .find(|known| known.id == function)
                .unwrap();
            assert!(text(function.filename).ends_with("tests/formats.rs"));
            assert!(location.line[0].line > 0);
            text(function.name)
        })
        .take(2)
        .collect();
    assert_eq!(names[0], "formats::hash_table");
    drop(held);
}

#[test]
fn folded_stacks_start_with_the_allocator_and_end_with_bytes() {
    let _alone = alone();
    let (_root, query) = tree("query-7");
    sampling::start("query-*", 512);
    let held = hash_table(&query, 1 << 20);

    let folded = write_folded(&sampling::report());

    let line = folded.lines().next().unwrap();
    assert!(line.starts_with("query-7;"), "{line}");
    assert!(line.ends_with(";formats::hash_table 1048576"), "{line}");
    drop(held);
}

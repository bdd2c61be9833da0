//! USDT probes: with the feature they are in the program, where tracers find them.
#![cfg(all(feature = "probes", target_os = "linux", target_arch = "x86_64"))]

use std::env;
use std::fs;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_core::testing::TrackingManager;

#[test]
fn all_five_probes_are_in_the_notes_of_the_program() {
    // Uses them, so that they are linked.
    let root = RootAllocator::builder()
        .limit(1 << 20)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap();
    let child = root.child("scan").build().unwrap();
    let mut buffer = child.buffer(64).unwrap();
    buffer.try_reserve(1000).unwrap();
    assert!(child.buffer(2 << 20).is_err());
    drop(buffer.freeze().transfer_ownership(&root).unwrap());

    let program = fs::read(env::current_exe().unwrap()).unwrap();

    for name in ["allocate", "reallocate", "release", "refuse", "transfer"] {
        let note = format!("arrow_memory\0{name}\0");
        let found = program
            .windows(note.len())
            .any(|bytes| bytes == note.as_bytes());
        assert!(found, "no note of {name}");
    }
}

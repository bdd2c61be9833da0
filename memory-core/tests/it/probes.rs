//! USDT probes: with the feature, the program contains the notes by which tracers find them.
#![cfg(all(feature = "probes", target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeSet;
use std::env;
use std::process::Command;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_core::testing::TrackingManager;

#[test]
fn all_five_probes_are_in_the_notes_of_the_program_with_their_arguments() {
    // The program uses the probes, so that they are linked.
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

    let notes = Command::new("readelf")
        .args(["--notes"])
        .arg(env::current_exe().unwrap())
        .output()
        .expect("binutils, which the linker belongs to");
    let notes = String::from_utf8(notes.stdout).unwrap();
    let mut found = BTreeSet::new();
    let mut probe = None;
    for line in notes.lines() {
        match line.trim().split_once(": ") {
            Some(("Provider", provider)) => assert_eq!(provider, "arrow_memory"),
            Some(("Name", name)) => probe = Some(name.to_owned()),
            Some(("Arguments", arguments)) => {
                // Each argument is a size, an @, and a location.
                let arguments = arguments.split_whitespace();
                let arguments = arguments.filter(|argument| argument.contains('@'));
                found.insert((probe.take().unwrap(), arguments.count()));
            }
            _ => {}
        }
    }
    let expected = [
        ("allocate", 4),
        ("reallocate", 6),
        ("refuse", 4),
        ("release", 4),
        ("transfer", 4),
    ];
    assert_eq!(
        found,
        expected
            .map(|(name, count)| (name.to_owned(), count))
            .into()
    );
}

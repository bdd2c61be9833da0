//! The refusal of memory for a collection: it is kept, and reported before the collection aborts.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg_attr(unix, expect(unsafe_code, reason = "forks"))]

#[path = "../../../memory-manager/tests/managers/children.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod children;
#[path = "../../../memory-manager/tests/managers/subscriber.rs"]
mod subscriber;

use std::hash::RandomState;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::thread;

use arrow_memory_core::testing::{FailingManager, StdManager};
use arrow_memory_core::{AccountedVec, AllocError, Purpose, RootAllocator, TreeAllocator};
use hashbrown::HashMap;

use crate::subscriber::Recorder;

type Map = HashMap<u64, u64, RandomState, TreeAllocator>;

fn root(limit: usize) -> RootAllocator {
    RootAllocator::builder()
        .limit(limit)
        .allocation_manager(Arc::new(StdManager))
        .build()
        .expect("a manager was given")
}

fn map(memory: &TreeAllocator) -> Map {
    HashMap::with_hasher_in(RandomState::new(), memory.clone())
}

#[test]
fn the_last_refusal_is_kept_and_shared_by_clones() {
    let root = root(1000);
    let memory = TreeAllocator::new(&root);
    let mut groups = map(&memory);
    assert!(memory.refusal().is_none());

    assert!(groups.try_reserve(1000).is_err());

    let refusal = memory.refusal().expect("clones share it");
    let AllocError::OutOfMemory {
        requested, purpose, ..
    } = &refusal
    else {
        panic!("{refusal}");
    };
    assert!(*requested > 1000 * 16, "{refusal}");
    let capacity = requested.next_multiple_of(64);
    assert_eq!(**purpose, Purpose::Capacity { capacity });
    // The refusal stays after a later request succeeds.
    groups.try_reserve(1).expect("that fits");
    assert_eq!(
        groups.allocator().refusal().expect("kept").to_string(),
        refusal.to_string()
    );
    assert!(
        TreeAllocator::new(&root).refusal().is_none(),
        "another family"
    );
}

#[test]
fn growth_overflow_and_backends_are_told_apart() {
    let manager = Arc::new(FailingManager::new());
    let root = RootAllocator::builder()
        .limit(1000)
        .allocation_manager(manager.clone())
        .build()
        .expect("a manager was given");
    let mut values = allocator_api2::vec::Vec::<u8, _>::new_in(TreeAllocator::new(&root));
    values.try_reserve_exact(100).expect("that fits");
    values.push(1);
    let said = |values: &allocator_api2::vec::Vec<u8, TreeAllocator>| {
        values.allocator().refusal().expect("refused").to_string()
    };

    assert!(values.try_reserve_exact(1999).is_err());
    assert_eq!(
        said(&values),
        "allocator `ROOT` is out of room: 2000 bytes requested (a buffer of 128 bytes was to have \
         2048), 872 left of its limit of 1000"
    );
    manager.fail_always();
    assert!(values.try_reserve_exact(199).is_err());
    assert_eq!(
        said(&values),
        "backend `std` could not serve 200 bytes (a buffer of 128 bytes was to have 256) for \
         allocator `ROOT`"
    );
    assert_eq!(root.allocated_memory(), 128);
}

#[test]
fn a_refusal_is_told_by_tracing_but_not_for_collections_that_say_it_themselves() {
    let root = root(1000);

    let heard = Recorder::record(|| {
        let memory = TreeAllocator::new(&root);
        let mut groups = map(&memory);
        // The second refusal comes within a second, so it is not reported.
        assert!(groups.try_reserve(1000).is_err());
        assert!(groups.try_reserve(1000).is_err());
        assert!(AccountedVec::<u64>::with_capacity(&root, 1000).is_err());
    });

    let told: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("WARN a collection was refused memory allocator=ROOT"))
        .collect();
    assert_eq!(told.len(), 1, "{heard:?}");
    assert!(
        told[0].contains("error=allocator `ROOT` is out of room: "),
        "{told:?}"
    );
}

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_forgets_to_reserve() {
    let root = root(64 << 10);
    let join = root.child("join").build().expect("it is free");
    let mut groups = map(&TreeAllocator::new(&join));
    for key in 0.. {
        groups.insert(key, key);
    }
}

#[test]
fn a_map_that_aborts_the_program_has_said_why() {
    let output = children::run("child_that_forgets_to_reserve", &[]);

    let stderr = children::stderr(&output);
    assert!(!output.status.success());
    let line = stderr.lines().next().unwrap_or_default();
    assert!(
        line.starts_with("a collection was refused memory: allocator `ROOT` is out of room: ")
            && line.contains(" bytes requested")
            && line.ends_with(" left of its limit of 65536"),
        "{stderr}"
    );
    assert!(stderr.contains("memory allocation of "), "{stderr}");
}

/// A child that is forked while another thread reads the same refusal can read it, too: no lock stays taken
/// in the child.
#[cfg(unix)]
#[test]
fn a_refusal_can_be_read_in_a_forked_child() {
    let root = root(1000);
    let memory = TreeAllocator::new(&root);
    let mut map = Map::with_hasher_in(RandomState::new(), memory.clone());
    assert!(map.try_reserve(1000).is_err());
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        // Relaxed, here and below: the flag guards no other memory.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(memory.refusal().is_some());
            }
        });
        let hung = (0..300).filter(|_| !child_reads(&memory)).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(hung, 0);
    });
}

/// Whether a forked child could read the refusal within ten seconds.
#[cfg(unix)]
fn child_reads(memory: &TreeAllocator) -> bool {
    // SAFETY: the child only calls this library, which supports that after a fork, and exits without running
    // destructors of the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the call takes a number; the signal ends the process.
        unsafe { libc::alarm(10) };
        let read = memory.refusal().is_some();
        // SAFETY: the call ends the process at once.
        unsafe { libc::_exit(i32::from(!read)) };
    }
    let mut status = 0;
    // SAFETY: the call waits for the child that was forked above; the pointer is to a local.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    waited == child && status == 0
}

//! `LeakCheck`, the guard for users' tests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{LeakCheck, RootAllocator, leak_check};

fn root(debug: bool) -> RootAllocator {
    RootAllocator::builder()
        .debug(debug)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

fn panic_of(body: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(body)).err()?;
    Some(*panic.downcast::<String>().expect("a formatted message"))
}

#[test]
fn a_scope_that_leaks_nothing_passes() {
    for debug in [true, false] {
        let root = root(debug);
        let before = root.buffer(100).unwrap();

        let answer = leak_check(&root, |root| {
            let child = root.child("inner").build().unwrap();
            drop(child.buffer(1000).unwrap());
            42
        });

        assert_eq!(answer, 42);
        drop(before);
    }
}

#[test]
fn a_leak_panics_with_the_site_and_the_bytes() {
    let root = root(true);
    let before = root.buffer(100).unwrap();
    let mut leaked = None;

    let message = panic_of(|| {
        leak_check(&root, |root| {
            leaked = Some(root.buffer_from_slice(&[1; 200]).unwrap());
        });
    });

    let (message, line) = (message.unwrap(), line!() - 4);
    assert!(
        message
            .starts_with("leak check of allocator `ROOT` failed: expected 128 bytes, actual 384\n")
    );
    assert!(
        message.contains("0 children, 1 buffer, 0 reservations"),
        "{message}"
    );
    assert!(message.contains(&format!(
        "created at memory-core/tests/it/leak_check.rs:{line} in "
    )));
    assert!(
        !message.contains("ArrowBufMut[2]"),
        "the buffer from before: {message}"
    );
    drop((before, leaked));
}

#[test]
fn without_debug_mode_bytes_and_children_are_checked() {
    let root = root(false);
    let mut leaked = None;

    let message = panic_of(|| {
        leak_check(&root, |root| leaked = Some(root.buffer(100).unwrap()));
    });

    assert!(message.unwrap().contains("expected 0 bytes, actual 128"));
    let message = panic_of(|| {
        leak_check(&root, |root| {
            std::mem::forget(root.child("lost").build().unwrap())
        });
    });
    assert!(message.unwrap().contains("Allocator(lost)"));
}

#[test]
fn a_release_of_what_was_there_before_is_found_too() {
    let root = root(true);
    let before = root.buffer(100).unwrap();

    let message = panic_of(|| leak_check(&root, |_| drop(before)));

    assert!(message.unwrap().contains("expected 128 bytes, actual 0"));
}

#[test]
fn scopes_nest() {
    let root = root(true);
    let outer = LeakCheck::new(&root);
    let held = root.buffer(100).unwrap();
    {
        let _inner = LeakCheck::new(&root);
        drop(root.buffer(200).unwrap());
    }

    let message = panic_of(|| drop(outer));

    assert!(message.unwrap().contains("expected 0 bytes, actual 128"));
    drop(held);
}

#[test]
fn reservations_and_empty_children_count() {
    let root = root(true);

    let message = panic_of(|| {
        leak_check(&root, |root| std::mem::forget(root.new_reservation()));
    });

    assert!(
        message
            .unwrap()
            .contains("0 children, 0 buffers, 1 reservation\n")
    );
}

#[test]
fn a_thread_that_panics_already_is_left_alone() {
    let root = root(true);
    let mut leaked = None;

    let message = panic_of(|| {
        let _check = LeakCheck::new(&root);
        leaked = Some(root.buffer(100).unwrap());
        panic!("{}", "the test's own failure");
    });

    assert_eq!(message.unwrap(), "the test's own failure");
}

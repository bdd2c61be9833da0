#![expect(unsafe_code, reason = "calls what a fork calls")]

#[cfg(debug_assertions)]
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::sync::plain::locks_held;

#[test]
#[cfg(debug_assertions)]
fn locks_are_nested_in_their_order_only() {
    static OUTER: ProcessLock<()> = ProcessLock::new(Order::Outer, ());
    static TREES: [ProcessLock<()>; 2] = [const { ProcessLock::new(Order::Tree, ()) }; 2];
    OUTER.list();
    TREES.iter().for_each(ProcessLock::list);

    let (outer, tree) = (OUTER.lock(), TREES[0].lock());
    let take =
        |lock: &'static ProcessLock<()>| catch_unwind(AssertUnwindSafe(|| drop(lock.lock())));
    assert!(take(&TREES[1]).is_err() && take(&OUTER).is_err());
    drop(outer);
    assert!(take(&OUTER).is_err(), "the tree's is still held");
    drop(tree);
    assert!(take(&OUTER).is_ok() && take(&TREES[1]).is_ok());
    assert_eq!(locks_held(), 0);
}

#[test]
#[cfg(debug_assertions)]
fn a_lock_is_not_listed_under_another_one() {
    static OUTER: ProcessLock<()> = ProcessLock::new(Order::Outer, ());
    static LATE: ProcessLock<()> = ProcessLock::new(Order::Inner, ());

    let outer = OUTER.lock();
    assert!(catch_unwind(|| drop(LATE.lock())).is_err());
    drop(outer);
    drop(LATE.lock());
}

/// The handlers as `fork` calls them. It would wait for itself forever.
#[test]
fn a_thread_that_holds_a_lock_takes_nothing_when_it_forks() {
    static MINE: ProcessLock<u8> = ProcessLock::new(Order::Outer, 0);

    let guard = MINE.lock();
    before_fork();
    assert!(!TOOK.get());
    // Others still take and list locks; and what they do in a fork of their own is not undone.
    std::thread::spawn(|| {
        static OTHER: ProcessLock<u8> = ProcessLock::new(Order::Inner, 0);
        drop(OTHER.lock());
    })
    .join()
    .unwrap();
    after_fork();
    drop(guard);
    assert_eq!((DEPTH.get(), locks_held()), (0, 0));
}

#[test]
fn an_end_of_a_fork_without_its_start_does_nothing() {
    after_fork();
    after_fork_in_child();
    assert_eq!(DEPTH.get(), 0);
}

#[test]
fn a_child_changes_what_a_lock_guards_before_it_releases_it() {
    static WALKS: ProcessLock<u8> = ProcessLock::new(Order::Inner, 0).in_child(|walks| *walks = 0);

    *WALKS.lock() = 3;
    before_fork();
    after_fork();
    assert_eq!(*WALKS.lock(), 3);
    // As in the child, without its other locks: this process has other threads.
    let list = lock(&LIST);
    // SAFETY: `LIST` is locked.
    unsafe { WALKS.acquire() };
    // SAFETY: as above.
    unsafe { WALKS.change_in_child() };
    // SAFETY: as above.
    unsafe { WALKS.release() };
    drop(list);
    assert_eq!(*WALKS.lock(), 0);
}

#[test]
fn a_lock_is_counted_while_it_is_held_and_listed_once() {
    static A: ProcessLock<u8> = ProcessLock::new(Order::Inner, 1);

    let guard = A.lock();
    assert_eq!((*guard, locks_held()), (1, 1));
    drop(guard);
    drop(A.lock());

    let list = lock(&LIST);
    let address = std::ptr::from_ref(&A).addr();
    let count = Cell::new(0);
    for_each(*list, |lock| {
        if std::ptr::from_ref(lock).addr() == address {
            count.set(count.get() + 1);
        }
    });
    drop(list);
    assert_eq!((count.get(), locks_held()), (1, 0));
}

//! Limits are lowered, and nodes closed or left, while requests wait.

use loom::thread;

use super::{
    at_rest_alone, check, check_bounded, child, datum, obtain, obtain_as_task, queue, root,
    uncharge, uncharge_last,
};
use crate::accounting::handle::Handle;
use crate::accounting::queue::Verdict;

#[test]
fn a_lowered_limit_refuses_a_request_whether_it_was_queued_before_or_not() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let other = root.clone();
        let thread = thread::spawn(move || other.set_limit(16));

        assert_eq!(obtain(&b, 32), Verdict::Refused);

        thread.join().unwrap();
        at_rest_alone(&root, 64);
    });
}

#[test]
fn a_lowered_limit_races_with_the_release_that_a_waiter_waits_for() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let waiter = queue(&b, 32);
        let other = root.clone();
        let thread = thread::spawn(move || other.set_limit(16));

        uncharge(&a, 64);

        thread.join().unwrap();
        let verdict = waiter.told();
        assert!(matches!(verdict, Verdict::Granted | Verdict::Refused));
        let granted = verdict == Verdict::Granted;
        at_rest_alone(&root, if granted { 32 } else { 0 });
    });
}

/// A root that its first child uses up; that child, another one and a child of it; and which of these two is to be
/// closed.
fn used_up(of_ancestor: bool) -> (Handle, [Handle; 3], Handle) {
    let root = root(64);
    let (a, middle) = (child(&root, 64, 0), child(&root, 64, 0));
    let b = child(&middle, 64, 0);
    a.charge(64).unwrap();
    let closed = if of_ancestor { &middle } else { &b }.clone();
    (root, [a, middle, b], closed)
}

#[test]
fn a_close_refuses_a_request_whether_it_was_queued_before_or_not() {
    for of_ancestor in [false, true] {
        check(move || {
            let (root, [_a, _middle, b], closed) = used_up(of_ancestor);
            let thread = thread::spawn(move || closed.close().is_ok());

            assert_eq!(obtain(&b, 32), Verdict::Refused);

            assert!(thread.join().unwrap() != of_ancestor, "an open child stays");
            at_rest_alone(&root, 64);
        });
    }
}

#[test]
fn a_close_races_with_the_release_that_a_waiter_waits_for() {
    for of_ancestor in [false, true] {
        check(move || {
            let (root, [a, _middle, b], closed) = used_up(of_ancestor);
            let datum = datum();
            let waiter = queue(&b, 32);
            let thread = thread::spawn(move || closed.close().is_ok());

            datum.write();
            uncharge(&a, 64);

            let clean = thread.join().unwrap();
            let verdict = waiter.told();
            let granted = verdict == Verdict::Granted;
            if granted {
                datum.write();
                at_rest_alone(&root, 32);
                uncharge(&b, 32);
            } else {
                assert_eq!(verdict, Verdict::Refused);
            }
            // Closed before the grant, an inner node with a child that is open stays.
            assert!(clean || granted || of_ancestor);
            at_rest_alone(&root, 0);
        });
    }
}

#[test]
fn a_sibling_leaves_the_tree_while_a_request_waits() {
    check_bounded(3, || {
        let root = root(64);
        // What leaves has a reservation too, which is more than what it holds.
        let (a, b) = (child(&root, 64, 48), child(&root, 64, 0));
        a.charge(16).unwrap();
        let datum = datum();
        let (held, ptr) = (datum.clone(), a.ptr());
        let bytes = thread::spawn(move || {
            held.write();
            uncharge_last(ptr, 16);
        });
        let handle = thread::spawn(move || drop(a));

        assert_eq!(obtain_as_task(&b, 64), Verdict::Granted);
        datum.write();

        bytes.join().unwrap();
        handle.join().unwrap();
        at_rest_alone(&root, 64);
        assert_eq!(root.children().len(), 1);
    });
}

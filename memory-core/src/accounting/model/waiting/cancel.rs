//! A wait is given up while others make room, or while others wait for it to go.

use loom::thread;

use super::{
    at_rest_alone, check, check_bounded, child, datum, obtain, obtain_and_write, obtain_as_task,
    queue, root, uncharge,
};
use crate::accounting::handle::Handle;
use crate::accounting::queue::Verdict;

/// Lets requests pass a waiter of 40 bytes until room is withheld for it. 32 of 64 bytes are held.
pub(super) fn make_barrier(root: &Handle, by: &Handle) {
    by.charge(32).unwrap();
    uncharge(by, 32);
    root.charge(8).unwrap();
    uncharge(root, 8);
    assert!(root.tree.lock().queue().withholds());
}

#[test]
fn the_second_waiter_fits_once_the_head_gives_up() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(32).unwrap();
        let head = queue(&b, 40);
        make_barrier(&root, &c);
        let thread = thread::spawn(move || drop(head));

        assert_eq!(obtain(&c, 8), Verdict::Granted);

        thread.join().unwrap();
        at_rest_alone(&root, 40);
    });
}

#[test]
fn the_head_gives_up_while_what_it_waits_for_is_released() {
    check_bounded(3, || {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(32).unwrap();
        let head = queue(&b, 40);
        make_barrier(&root, &c);
        let datum = datum();
        let (held, other) = (datum.clone(), a.clone());
        let cancels = thread::spawn(move || drop(head));
        let releases = thread::spawn(move || {
            held.write();
            uncharge(&other, 8);
        });

        // It needs both.
        assert_eq!(obtain_as_task(&c, 40), Verdict::Granted);
        datum.write();

        cancels.join().unwrap();
        releases.join().unwrap();
        at_rest_alone(&root, 64);
    });
}

#[test]
fn a_wait_is_given_up_while_it_is_granted() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let waiter = queue(&b, 40);
        let thread = thread::spawn(move || {
            uncharge(&a, 64);
            a
        });

        drop(waiter);

        let _a = thread.join().unwrap();
        at_rest_alone(&root, 0);
    });
}

#[test]
fn what_is_granted_to_a_wait_that_is_given_up_goes_to_the_next_one() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(64).unwrap();
        let older = queue(&b, 64);
        let mut younger = queue(&c, 64);
        let datum = datum();
        let held = datum.clone();
        let thread = thread::spawn(move || {
            held.write();
            uncharge(&a, 64);
            a
        });

        drop(older);
        if younger.poll() == Some(Verdict::Granted) {
            datum.write();
            let _a = thread.join().unwrap();
        } else {
            let _a = thread.join().unwrap();
            assert_eq!(younger.told(), Verdict::Granted);
        }

        at_rest_alone(&root, 64);
    });
}

#[test]
fn a_wait_that_is_looked_at_once_is_granted_or_given_up() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let mut waiter = queue(&b, 40);
        let datum = datum();
        let held = datum.clone();
        let thread = thread::spawn(move || {
            held.write();
            uncharge(&a, 64);
            a
        });

        let verdict = waiter.poll();
        if verdict.is_some() {
            datum.write();
        }
        drop(waiter);

        let _a = thread.join().unwrap();
        assert!(matches!(verdict, None | Some(Verdict::Granted)));
        at_rest_alone(&root, if verdict.is_some() { 40 } else { 0 });
    });
}

#[test]
fn a_blocked_thread_gets_what_a_wait_that_is_given_up_was_granted() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(64).unwrap();
        let older = queue(&b, 64);
        // Now the older one has it.
        uncharge(&a, 64);
        let datum = datum();
        let held = datum.clone();
        let thread = thread::spawn(move || {
            held.write();
            drop(older);
        });

        obtain_and_write(&c, 64, &datum);

        thread.join().unwrap();
        at_rest_alone(&root, 64);
    });
}

//! Races of reservations.

use loom::thread;

use super::{at_rest, check, child, root, uncharge};
use crate::accounting::NewReservation::{Exactly, Higher};

#[test]
fn a_reservation_is_its_childs_alone() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 32);
        let b = child(&root, 64, 0);
        let other = b.clone();
        let thread = thread::spawn(move || {
            let granted = other.charge(40).is_ok();
            assert!(!granted, "only 32 bytes are not reserved");
        });

        a.charge(32).expect("its own");

        thread.join().unwrap();
        at_rest(&root, 32);
        b.charge(32).unwrap();
        at_rest(&root, 64);
    });
}

#[test]
fn a_reservation_rises_and_falls_while_its_child_takes_and_gives() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 8), child(&root, 64, 0));
        let other = a.clone();
        let thread = thread::spawn(move || {
            other.charge(16).expect("16 beside nothing");
            uncharge(&other, 16);
        });

        a.set_reservation(Exactly(32)).expect("32 beside nothing");
        assert!(b.charge(40).is_err(), "32 are reserved");
        a.set_reservation(Exactly(0)).unwrap();

        thread.join().unwrap();
        at_rest(&root, 0);
        b.charge(64).expect("nothing is reserved any more");
        at_rest(&root, 64);
    });
}

#[test]
fn two_threads_that_raise_and_lower_a_reservation_lose_no_byte() {
    check(|| {
        let root = root(64);
        let a = child(&root, 64, 0);
        let other = a.clone();
        let thread = thread::spawn(move || {
            other.set_reservation(Higher(16)).expect("16 beside 24");
            other.lower_reservation(8).expect("its own 16");
        });

        a.set_reservation(Higher(24)).expect("24 beside 16");

        thread.join().unwrap();
        assert_eq!(a.reservation(), 32);
        at_rest(&root, 32);
        a.lower_reservation(32).unwrap();
        at_rest(&root, 0);
    });
}

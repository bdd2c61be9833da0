//! Races of a client whose reservation covers what it uses, so that its words are open below a tight level.
//!
//! Each of these mutations makes some of them fail: a recall that leaves words open though the node has obtained more than
//! is reserved for it; words that are opened, or stay open, while a request waits below; a charge that does not shut all
//! of the node's stripes; a reservation that is lowered and does not shut them.

use loom::thread;

use super::waiting::{at_rest_alone, datum, obtain_and_write, queue};
use super::{at_rest, check, check_bounded, child, root, uncharge};
use crate::accounting::NewReservation::Exactly;
use crate::accounting::handle::Handle;
use crate::accounting::node::ModelStripes as Stripes;
use crate::accounting::queue::Verdict;
use crate::thread::CHOSEN;

/// A full root of 64 bytes, which is tight; a client with 32 bytes reserved that uses 16 of them, and whose word is open;
/// and one that has the other 32.
fn full() -> (Handle, Handle, Handle) {
    let root = root(64);
    let (reserved, greedy) = (child(&root, 64, 32), child(&root, 64, 0));
    greedy.charge(32).unwrap();
    assert!(greedy.charge(1).is_err(), "the rest is reserved");
    reserved.charge(16).unwrap();
    assert!(root.tree.lock().look(root.ptr()).tight);
    assert_eq!(reserved.tree.lock().open_words(reserved.ptr()), 1);
    (root, reserved, greedy)
}

#[test]
fn a_client_uses_its_reservation_beside_one_that_is_refused() {
    check(|| {
        let (root, reserved, greedy) = full();
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            other.charge(16).expect("its own");
            uncharge(&other, 24);
            other.charge(8).expect("its own");
        });

        assert!(greedy.charge(1).is_err(), "32 bytes are not reserved");
        uncharge(&greedy, 8);
        greedy.charge(8).expect("it has given them back");
        assert!(greedy.charge(1).is_err());

        thread.join().unwrap();
        at_rest(&root, 64);
        assert_eq!(reserved.allocated(), 16);
    });
}

#[test]
fn a_client_that_passes_its_reservation_and_one_that_asks_for_the_same_bytes_share_the_limit() {
    check(|| {
        let (root, reserved, greedy) = full();
        uncharge(&greedy, 8);
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            let granted = other.charge(24).is_ok();
            if granted {
                uncharge(&other, 4);
            }
            granted
        });

        let granted = greedy.charge(8).is_ok();

        assert!(thread.join().unwrap() ^ granted, "one of them fits");
        at_rest(&root, if granted { 64 } else { 60 });
        assert_eq!(reserved.allocated(), if granted { 16 } else { 36 });
    });
}

#[test]
fn a_reservation_is_lowered_while_its_client_takes_and_gives() {
    check(|| {
        let (root, reserved, greedy) = full();
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            uncharge(&other, 8);
            let granted = other.charge(12).is_ok();
            assert!(granted, "8 to 20 of 32 bytes");
        });

        reserved.set_reservation(Exactly(20)).unwrap();
        greedy.charge(12).expect("it is not reserved any more");
        assert!(greedy.charge(1).is_err());

        thread.join().unwrap();
        at_rest(&root, 64);
        reserved.set_reservation(Exactly(0)).unwrap();
        at_rest(&root, 64);
    });
}

#[test]
fn a_request_waits_for_what_another_user_of_the_same_client_gives_back() {
    check_bounded(3, || {
        let (root, reserved, greedy) = full();
        let datum = datum();
        let (held, other) = (datum.clone(), reserved.clone());
        let thread = thread::spawn(move || {
            held.write();
            uncharge(&other, 16);
        });

        // 16 bytes are free, and 12 are missing: the root has none.
        obtain_and_write(&reserved, 28, &datum);

        thread.join().unwrap();
        drop(greedy);
        at_rest_alone(&root, 64);
        assert_eq!(reserved.allocated(), 28);
    });
}

#[test]
fn a_child_waits_for_what_its_parent_gives_back_to_its_reservation() {
    check_bounded(3, || {
        let (root, reserved, _greedy) = full();
        let child = child(&reserved, 64, 0);
        let datum = datum();
        let (held, other) = (datum.clone(), reserved.clone());
        let thread = thread::spawn(move || {
            // Opens the word, unless the child waits already.
            other.charge(4).unwrap();
            uncharge(&other, 4);
            held.write();
            uncharge(&other, 16);
        });

        obtain_and_write(&child, 28, &datum);

        thread.join().unwrap();
        at_rest_alone(&root, 64);
        assert_eq!(reserved.allocated(), 28);
    });
}

#[test]
fn the_whole_reservation_can_be_had_whatever_stripe_has_it() {
    check(|| {
        let (root, reserved, greedy) = full();
        let stripes = &mut Some(Stripes::new(2));
        root.tree.lock().install_stripes(reserved.ptr(), stripes);
        // Opens both stripes.
        reserved.charge(2).unwrap();
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            CHOSEN.with(|number| number.set(1));
            uncharge(&other, 4);
            other.charge(6).expect("14 to 18 of 32 bytes");
        });

        reserved.charge(12).expect("20 beside 18, or less");

        thread.join().unwrap();
        assert!(greedy.charge(1).is_err());
        at_rest(&root, 64);
        assert_eq!(reserved.allocated(), 32);
    });
}

#[test]
fn a_client_is_closed_while_its_reservation_is_used() {
    check(|| {
        let (root, reserved, greedy) = full();
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            uncharge(&other, 8);
            let granted = other.charge(4).is_ok();
            uncharge(&other, if granted { 12 } else { 8 });
        });

        assert!(reserved.close().is_err() || reserved.parent().is_none());

        thread.join().unwrap();
        assert!(reserved.parent().is_none(), "it left with its last byte");
        at_rest(&root, 32);
        greedy.charge(32).expect("nothing is reserved any more");
    });
}

#[test]
fn a_client_uses_its_reservation_while_its_root_is_recalled() {
    check(|| {
        let root = root(64);
        let (reserved, greedy) = (child(&root, 64, 32), child(&root, 64, 0));
        reserved.charge(8).unwrap();
        greedy.charge(24).unwrap();
        let other = reserved.clone();
        let thread = thread::spawn(move || {
            other.charge(8).expect("its own");
            uncharge(&other, 12);
        });

        assert!(greedy.charge(9).is_err(), "8 of 64 bytes are left");
        greedy.charge(8).expect("8 of 64 bytes are left");

        thread.join().unwrap();
        at_rest(&root, 64);
        assert_eq!(reserved.allocated(), 4);
    });
}

#[test]
fn what_a_client_has_beyond_its_reservation_is_recalled() {
    check(|| {
        let root = root(64);
        let (reserved, greedy) = (child(&root, 64, 8), child(&root, 64, 0));
        reserved.charge(16).unwrap();
        uncharge(&reserved, 4);
        let other = reserved.clone();
        let thread = thread::spawn(move || uncharge(&other, 2));

        greedy.charge(52).expect("52 beside 12, or less");

        thread.join().unwrap();
        at_rest(&root, 62);
        assert_eq!(reserved.allocated(), 10);
    });
}

#[test]
fn no_word_is_open_above_one_who_waits() {
    check_bounded(2, || {
        let (root, reserved, _greedy) = full();
        let child = child(&reserved, 8, 0);
        child.charge(8).unwrap();
        reserved.charge(1).unwrap();
        assert_eq!(root.tree.lock().open_words(reserved.ptr()), 1);

        let waiter = queue(&child, 4);
        root.verify().expect("the words above it are shut");
        let thread = thread::spawn(move || uncharge(&child, 4));
        reserved.charge(1).unwrap();

        thread.join().unwrap();
        assert_eq!(waiter.told(), Verdict::Granted);
        at_rest_alone(&root, 64);
        assert_eq!(reserved.allocated(), 26);
    });
}

#[test]
fn bytes_that_move_to_a_reservation_below_a_level_over_its_limit_are_counted_to_the_byte() {
    check(|| {
        let root = root(64);
        let (middle, other) = (child(&root, 64, 0), child(&root, 64, 0));
        let (from, to) = (child(&middle, 64, 0), child(&middle, 64, 16));
        from.charge(20).unwrap();
        to.charge(8).unwrap();
        assert!(!other.force_external(40).unwrap());
        to.charge(1).unwrap();
        assert_eq!(root.tree.lock().open_words(to.ptr()), 1);
        let user = to.clone();
        let thread = thread::spawn(move || {
            uncharge(&user, 1);
            user.charge(1).expect("its own");
        });

        let moves = |bytes| {
            root.tree
                .lock()
                .try_transfer(from.ptr(), to.ptr(), bytes)
                .is_ok()
        };
        assert!(moves(7), "the reservation covers it");
        assert!(!moves(9), "the root is over its limit");

        thread.join().unwrap();
        assert_eq!((from.allocated(), to.allocated()), (13, 16));
        at_rest(&root, 69);
        other.release_external(40);
    });
}

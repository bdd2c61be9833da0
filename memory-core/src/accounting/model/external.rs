//! Races of external bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::thread;

use super::{at_rest, check, child, external, root};
use crate::accounting::handle::Handle;
use crate::accounting::node::ModelStripes as Stripes;
use crate::thread::CHOSEN;

#[test]
fn external_bytes_are_counted_while_a_recall_takes_the_word_away() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge_external(8).unwrap();
        let other = a.clone();
        let thread = thread::spawn(move || {
            other.release_external(6);
            other.charge_external(4).expect("4 of 64 bytes beside 58");
        });

        b.charge(56).expect("56 of 64 bytes fit beside 8");

        thread.join().unwrap();
        assert_eq!(external(&a), 6);
        at_rest(&root, 62);
        a.release_external(6);
        at_rest(&root, 56);
    });
}

#[test]
fn of_two_that_release_the_same_external_bytes_one_does() {
    check(|| {
        let root = root(64);
        root.charge_external(8).unwrap();
        root.charge(8).unwrap();
        let other = root.clone();
        let release =
            |handle: &Handle| catch_unwind(AssertUnwindSafe(|| handle.release_external(8)));
        let thread = thread::spawn(move || release(&other).is_ok());

        let released = release(&root).is_ok();

        assert!(thread.join().unwrap() ^ released);
        assert_eq!(external(&root), 0);
        at_rest(&root, 8);
    });
}

#[test]
fn external_bytes_are_released_on_another_stripe_than_they_were_charged_on() {
    check(|| {
        let root = root(1 << 10);
        root.tree
            .lock()
            .install_stripes(root.ptr(), &mut Some(Stripes::new(2)));
        root.charge_external(16).unwrap();
        let other = root.clone();
        let thread = thread::spawn(move || {
            CHOSEN.with(|number| number.set(1));
            other.release_external(12);
        });

        root.charge_external(4).unwrap();

        thread.join().unwrap();
        assert_eq!(external(&root), 8);
        at_rest(&root, 8);
    });
}

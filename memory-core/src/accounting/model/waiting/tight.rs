//! How long a level with waiters stays tight, and that it is tight whenever one of them may fit.
//!
//! `verify` says so if a waiter may fit at a level that is open (W1). These mutations make the models fail: a level
//! that is loosened although a waiter may fit; one that is loosened although no more is missing than was loose, or that
//! remembers for ever how much that was; a node that is opened without a word to the levels above.

use loom::thread;

use super::cancel::make_barrier;
use super::{at_rest_alone, check_bounded, child, datum, queue, root, uncharge};
use crate::accounting::handle::Handle;
use crate::accounting::queue::Verdict;

const HALF: usize = 1 << 19;
const MIB: usize = 2 * HALF;

/// Uses a node until its root is not tight, and says how many operations that took.
fn use_while_tight(root: &Handle, handle: &Handle) -> usize {
    let is_tight = || root.tree.lock().look(root.ptr()).tight;
    let mut operations = 0;
    while is_tight() {
        if operations % 2 == 0 {
            handle.charge(8).unwrap();
        } else {
            uncharge(handle, 8);
        }
        operations += 1;
        assert!(operations < 50, "it is loosened once in a while");
    }
    if operations % 2 == 1 {
        uncharge(handle, 8);
    }
    root.verify().unwrap();
    operations
}

#[test]
fn a_level_is_opened_although_what_a_waiter_lacks_may_be_loose_again_and_recalled_before_it_is() {
    check_bounded(3, || {
        let root = root(15 * MIB);
        let [a, b, c] = [(); 3].map(|()| child(&root, 32 * MIB, 0));
        a.charge(8 * MIB).unwrap();
        // 3 MiB are missing, of which 2 may come without the mutex.
        let waiter = queue(&b, 10 * MIB);
        use_while_tight(&root, &c);
        a.charge(8).unwrap();
        uncharge(&a, 8);
        assert_eq!(a.tree.lock().open_words(a.ptr()), 1);
        // Half a MiB is missing, less than is loose: so the level becomes tight.
        root.set_limit(17 * MIB + HALF);
        // After as many operations as the recall visited nodes, two more: for 2 MiB that were loose, and for half of it.
        assert_eq!(use_while_tight(&root, &c), 5);
        let datum = datum();
        let (held, other) = (datum.clone(), a.clone());
        let gives = thread::spawn(move || {
            held.write();
            uncharge(&other, HALF);
        });

        // Opens the node, unless the waiter has it all.
        if a.charge(8).is_ok() {
            root.verify().unwrap();
            uncharge(&a, 8);
        }

        gives.join().unwrap();
        assert_eq!(waiter.told(), Verdict::Granted);
        datum.write();
        at_rest_alone(&root, 17 * MIB + HALF);
    });
}

#[test]
fn a_level_stays_tight_for_a_waiter_that_would_fit_if_no_room_were_withheld_from_it() {
    check_bounded(3, || {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        let (reserved, other) = (child(&root, 64, 16), child(&root, 64, 8));
        a.charge(8).unwrap();
        reserved.charge(16).unwrap();
        let mut older = queue(&b, 40);
        make_barrier(&root, &c);
        let mut younger = queue(&reserved, 8);
        let datum = datum();
        let (held, holder) = (datum.clone(), reserved.clone());
        let gives = thread::spawn(move || {
            held.write();
            // The reservation keeps them for those that wait below it.
            uncharge(&holder, 8);
        });

        for _ in 0..4 {
            // What its own reservation covers reaches no other level.
            other.charge(8).unwrap();
            uncharge(&other, 8);
            root.verify().unwrap();
        }
        let early = younger.poll();
        if early.is_some() {
            datum.write();
        }

        gives.join().unwrap();
        let verdict = early.unwrap_or_else(|| younger.told());
        assert_eq!(verdict, Verdict::Granted);
        older.waits();
        uncharge(&a, 8);
        assert_eq!(older.told(), Verdict::Granted);
        at_rest_alone(&root, 64);
    });
}

//! What goes on at a level while requests wait there: bytes that pass them, and words that stay open.

use loom::thread;

use super::super::root_with_credit;
use super::{at_rest_alone, check_bounded, child, datum, queue, root, uncharge};
use crate::accounting::handle::Handle;
use crate::accounting::queue::Verdict;

/// Eight bytes three times, and how often they were granted.
fn try_three_times(handle: &Handle) -> usize {
    let granted = |_: &usize| {
        let granted = handle.charge(8).is_ok();
        if granted {
            uncharge(handle, 8);
        }
        granted
    };
    (0..3).filter(granted).count()
}

#[test]
fn requests_that_do_not_wait_pass_a_waiter_by_no_more_than_it_asks_for() {
    check_bounded(3, || {
        // No credit, which could be used again without the mutex, and passes nobody.
        let root = root_with_credit(640, 0);
        let [a, b, c, d] = [(); 4].map(|()| child(&root, 640, 0));
        a.charge(602).unwrap();
        let mut waiter = queue(&b, 40);
        let other = c.clone();
        let thread = thread::spawn(move || try_three_times(&other));

        let passed = try_three_times(&d) + thread.join().unwrap();

        // There was room for two of them at any time.
        assert_eq!(passed, 5, "40 bytes pass, and no more");
        waiter.waits();
        uncharge(&a, 602);
        assert_eq!(waiter.told(), Verdict::Granted);
        assert!(c.charge(600).is_ok(), "nothing is withheld any more");
        at_rest_alone(&root, 640);
    });
}

#[test]
fn a_waiter_is_granted_although_words_below_its_level_were_open() {
    const HALF: usize = 1 << 19;
    const MIB: usize = 2 * HALF;
    check_bounded(3, || {
        let root = root(16 * MIB);
        let [a, b, c] = [(); 3].map(|()| child(&root, 16 * MIB, 0));
        a.charge(8 * MIB).unwrap();
        // 2.5 MiB are missing, of which 2 may come without the mutex: the level need not stay tight.
        let mut waiter = queue(&b, 10 * MIB + HALF);
        while root.tree.lock().look(root.ptr()).tight {
            c.charge(8).unwrap();
            uncharge(&c, 8);
        }
        for handle in [&a, &c] {
            // The words open when the nodes are next used.
            handle.charge(8).unwrap();
            uncharge(handle, 8);
            assert_eq!(handle.tree.lock().open_words(handle.ptr()), 1);
        }
        let datum = datum();
        let (held, other) = (datum.clone(), a.clone());
        let gives = thread::spawn(move || {
            held.write();
            for bytes in [MIB, MIB, HALF] {
                uncharge(&other, bytes);
            }
        });

        let passes = c.charge(8).is_ok();
        if passes {
            uncharge(&c, 8);
        }
        let verdict = waiter.poll();
        assert!(
            passes || verdict.is_some(),
            "there is room for 8 bytes until then"
        );

        gives.join().unwrap();
        let verdict = verdict.unwrap_or_else(|| waiter.told());
        assert_eq!(verdict, Verdict::Granted);
        datum.write();
        at_rest_alone(&root, 16 * MIB);
    });
}

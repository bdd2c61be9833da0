//! Loom models of [`NumberSet`].
//!
//! Mutations that these models catch, each tried: Relaxed in place of the Acquire in `claim_in` or in
//! `iter`, or of the Release in `remove`.
#![expect(unsafe_code, reason = "data that loom watches")]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::{NUMBERS, NumberSet};
use crate::sync::Ordering;

/// What belongs to the holder of each number, and a node that one of the threads holds. As in
/// `thread` and `accounting::hazard`: one set of the numbers that are taken, one of those with an open record.
struct World {
    taken: NumberSet,
    open: NumberSet,
    places: [UnsafeCell<usize>; NUMBERS],
    node: UnsafeCell<usize>,
    /// One more than the number of the thread that has given up the node's bytes; 0 before.
    given: AtomicUsize,
}

// SAFETY: the models check that no thread touches a cell while another one writes there.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            taken: NumberSet::new(),
            open: NumberSet::new(),
            places: std::array::from_fn(|_| UnsafeCell::new(0)),
            node: UnsafeCell::new(0),
            given: AtomicUsize::new(0),
        })
    }

    /// Takes a number, works as its only holder, and gives it back.
    fn come_and_go(&self, work: impl FnOnce(usize)) {
        let Some(number) = self.taken.claim() else {
            return;
        };
        // SAFETY: loom says if another thread is there, too.
        self.places[number].with_mut(|place| unsafe { *place += 1 });
        work(number);
        self.taken.give_back(number);
    }

    /// Opens a record, works, and closes it, as the holder of the number.
    fn with_open_record(&self, number: usize, work: impl FnOnce(usize)) {
        self.open.insert(number);
        work(number);
        self.open.remove(number);
    }

    /// Gives up the node's bytes, and reads it afterwards.
    fn release(&self, number: usize) {
        // Release: as `Word::give`.
        self.given.store(number + 1, Ordering::Release);
        // SAFETY: loom says if another thread writes.
        self.node.with(|node| assert_eq!(unsafe { *node }, 0));
    }

    /// Frees the node if its bytes were given up and the scan does not find who holds it.
    fn free_if_unheld(&self) {
        // Acquire: as `Word::shut_down`.
        let given = self.given.load(Ordering::Acquire);
        if given != 0 && self.open.iter().all(|number| number + 1 != given) {
            // SAFETY: loom says if another thread reads or writes.
            self.node.with_mut(|node| unsafe { *node += 1 });
        }
    }
}

#[test]
fn a_number_has_one_holder_who_sees_what_the_last_one_wrote() {
    let mut builder = loom::model::Builder::new();
    // All interleavings of three threads would take too long.
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = World::new();
        let others = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.come_and_go(drop))
        });
        world.come_and_go(drop);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(world.taken.iter().count(), 0);
    });
}

#[test]
fn a_scan_misses_no_number_whose_holder_is_not_done() {
    let mut builder = loom::model::Builder::new();
    // All interleavings of three threads would take too long.
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = World::new();
        let holder = Arc::clone(&world);
        let holder = thread::spawn(move || {
            holder.come_and_go(|number| {
                holder.with_open_record(number, |number| holder.release(number));
            });
        });
        // May have the number before the holder, or after it.
        let other = Arc::clone(&world);
        let other = thread::spawn(move || {
            other.come_and_go(|number| other.with_open_record(number, drop));
        });

        world.free_if_unheld();

        holder.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_thread_that_found_all_taken_learns_that_one_was_given_back() {
    loom::model(|| {
        let world = World::new();
        let taken = &world.taken;
        assert!((0..NUMBERS).all(|number| taken.claim() == Some(number)));
        let holder = Arc::clone(&world);
        let holder = thread::spawn(move || holder.taken.give_back(0));

        let seen = taken.given_back();
        let claimed = taken.claim();

        holder.join().unwrap();
        if claimed.is_none() {
            assert_ne!(taken.given_back(), seen, "it would never look again");
            assert_eq!(taken.claim(), Some(0));
        }
    });
}

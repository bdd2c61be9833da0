//! Loom models of records and the numbers that lead to them.
//!
//! Mutations that these models catch, each tried: Relaxed in place of the Release in `hold` or in
//! `let_go`, or of the Acquire in `holds`; no fence in `end`; a record that is used
//! before it is open; and those of `NumberSet` that let a scan miss a record.
#![expect(unsafe_code, reason = "data that loom watches")]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;
use crate::accounting::model::{check, check_bounded};
use crate::thread::{NUMBERS, NumberSet};

/// Stands for a node: credit that is given back, and memory that is read and then freed. Leaked
/// at the end, so that a model may look at it.
struct Object {
    given: AtomicUsize,
    freed: UnsafeCell<usize>,
}

// SAFETY: that nobody reads while another one writes is what the model checks.
unsafe impl Sync for Object {}

impl Object {
    fn new() -> Self {
        Self {
            given: AtomicUsize::new(0),
            freed: UnsafeCell::new(0),
        }
    }

    fn read(&self) -> usize {
        // SAFETY: loom says if another thread writes.
        self.freed.with(|freed| unsafe { *freed })
    }

    fn free(&self) {
        // SAFETY: loom says if another thread reads or writes.
        self.freed.with_mut(|freed| unsafe { *freed += 1 });
    }
}

/// Two nodes, and the records of as many threads as there are numbers.
struct World {
    object: Object,
    later: Object,
    /// The numbers of living threads, as in `thread`.
    taken: NumberSet,
    /// Those of them whose records are open.
    open: NumberSet,
    records: [Record<Object>; NUMBERS],
}

impl World {
    fn new() -> Arc<Self> {
        let record = |_| Record {
            held: AtomicPtr::new(null_mut()),
            left: AtomicPtr::new(null_mut()),
        };
        Arc::new(Self {
            object: Object::new(),
            later: Object::new(),
            taken: NumberSet::new(),
            open: NumberSet::new(),
            records: std::array::from_fn(record),
        })
    }

    fn retire(&self, object: NonNull<Object>) {
        retire(
            object,
            || self.open.iter().map(|number| &self.records[number]),
            // SAFETY: the world, and the object with it, is alive.
            |object| unsafe { object.as_ref() }.free(),
        );
    }

    /// A thread that opens a record, tells a listener of a release of each object in turn, and ends.
    fn thread(&self, objects: &[&Object]) {
        let number = self.begin();
        self.with_record(number, objects);
        self.open.remove(number);
        self.taken.give_back(number);
    }

    /// A thread takes a number and opens its record.
    fn begin(&self) -> usize {
        let number = self.taken.claim().expect("a number for each");
        self.open.insert(number);
        number
    }

    /// The same for a thread whose record is open before and after.
    fn with_record(&self, number: usize, objects: &[&Object]) {
        let record = &self.records[number];
        for object in objects {
            self.release(record, object);
        }
        self.end(record);
    }

    fn end(&self, record: &Record<Object>) {
        if let Some(left) = record.end() {
            self.retire(left);
        }
    }

    /// Gives one of the object's bytes back and tells a listener.
    fn release(&self, record: &Record<Object>, object: &Object) {
        assert!(record.hold(NonNull::from(object)));
        // Release: as `Word::give`.
        object.given.fetch_add(1, Ordering::Release);
        assert_eq!(
            object.read(),
            0,
            "it was freed before the listener was told"
        );
        if let Some(left) = record.let_go() {
            self.retire(left);
        }
    }

    /// Frees the object if all its bytes were given back.
    fn free_if(&self, given: usize) -> bool {
        // Acquire: as `Word::shut_down`.
        if self.object.given.load(Ordering::Acquire) < given {
            return false;
        }
        self.retire(NonNull::from(&self.object));
        true
    }

    /// Runs `threads` beside one that frees the object if `given` bytes were given back.
    fn run(given: usize, threads: &[fn(&Self)]) {
        Self::new().run_on(given, threads, |_| ());
    }

    fn run_on(self: Arc<Self>, given: usize, threads: &[fn(&Self)], at_last: fn(&Self)) {
        let threads: Vec<_> = threads
            .iter()
            .map(|&work| {
                let world = Arc::clone(&self);
                thread::spawn(move || work(&world))
            })
            .collect();

        let freed = self.free_if(given);

        for thread in threads {
            thread.join().unwrap();
        }
        at_last(&self);
        assert_eq!(self.object.read(), usize::from(freed));
    }
}

#[test]
fn a_node_is_freed_once_and_not_before_its_listener_was_told() {
    check(|| World::run(1, &[|world| world.thread(&[&world.object])]));
}

#[test]
fn a_node_that_two_threads_use_one_after_the_other_or_at_once_is_freed_once() {
    // All interleavings of three threads would take hours.
    check_bounded(3, || {
        let thread: fn(&World) = |world| world.thread(&[&world.object]);
        World::run(2, &[thread, thread]);
    });
}

#[test]
fn a_node_that_two_threads_hold_is_freed_by_the_last() {
    check(|| {
        let world = World::new();
        [0, 1]
            .into_iter()
            .for_each(|number| world.open.insert(number));
        world.run_on(
            2,
            &[
                |world| world.with_record(0, &[&world.object]),
                |world| world.with_record(1, &[&world.object]),
            ],
            |_| (),
        );
    });
}

#[test]
fn a_record_that_holds_a_later_node_says_that_its_thread_is_done_with_the_first() {
    check(|| World::run(1, &[|world| world.thread(&[&world.object, &world.later])]));
}

#[test]
fn a_record_whose_thread_has_ended_serves_the_next_one() {
    // All interleavings of three threads would take hours.
    check_bounded(3, || {
        World::new().run_on(
            1,
            &[
                |world| world.thread(&[&world.object]),
                |world| {
                    // It may get the record that the other thread had.
                    let number = world.begin();
                    let record = &world.records[number];
                    assert!(record.hold(NonNull::from(&world.later)));
                    if let Some(left) = record.let_go() {
                        world.retire(left);
                    }
                },
            ],
            // The second thread has not ended yet.
            |world| world.records.iter().for_each(|record| world.end(record)),
        );
    });
}

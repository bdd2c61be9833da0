//! Adoption out of a reservation: what is taken, and what comes back when it ends early.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::testing::RecordingListener;
use arrow_memory_core::{AllocationListener, AllocatorInfo, BufferAllocator, RootAllocator};
use arrow_memory_system as _;

use super::Accounted;
use super::deps::arrow_array::*;
use super::hand_over_tests::{array, batch, child};
use crate::error::MemoryError;

/// The reservation is part of the limit, and does not refuse the adoption that it was made for.
#[test]
fn a_kernels_output_comes_out_of_the_reservation_exactly() {
    let root = RootAllocator::new(2000);
    let mut room = root.new_reservation();
    room.add(1800).unwrap();

    let output = batch().adopt_from(&mut room).unwrap();

    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    assert_eq!(root.peak_memory_allocation(), 1800);
    // It is known now: nothing more is taken for it.
    let again = output.clone().adopt_from(&mut room).unwrap();
    let slice = output.slice(3, 4).adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    drop((output, again, slice));
    assert_eq!((room.size(), root.allocated_memory()), (200, 200));
}

#[test]
fn what_exceeds_the_reservation_is_charged_besides_or_all_is_refused() {
    let root = RootAllocator::new(1700);
    let mut room = root.new_reservation();
    room.add(1000).unwrap();
    root.allocate_bytes(101).unwrap();

    let refused = batch().adopt_from(&mut room).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!((room.size(), root.allocated_memory()), (1000, 1101));

    root.release_bytes(1);
    let output = refused.value.adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (0, 1700));
    assert_eq!(root.peak_memory_allocation(), 1700);
    drop(output);
}

#[test]
fn a_veto_leaves_the_reservation_as_it_was_and_is_asked_for_once() {
    let listener = Arc::new(RecordingListener::new());
    let root = RootAllocator::builder().limit(2000);
    let root = root.listener(listener.clone()).build().unwrap();
    let mut room = root.new_reservation();
    room.add(1700).unwrap();
    listener.take();

    listener.veto(true);
    let refused = batch().adopt_from(&mut room).unwrap_err();
    assert_eq!((room.size(), root.allocated_memory()), (1700, 1700));
    assert_eq!(listener.take().len(), 1);
    listener.veto(false);
    let output = refused.value.adopt_from(&mut room).unwrap();

    assert_eq!(listener.take().len(), 3, "asked once, told of two columns");
    assert_eq!((room.size(), root.allocated_memory()), (100, 1700));
    drop(output);
}

#[test]
fn a_closed_allocator_takes_nothing_out_of_its_reservation() {
    let root = RootAllocator::new(2000);
    let mut room = root.new_reservation();
    room.add(1700).unwrap();
    root.close().unwrap_err();

    let refused = batch().adopt_from(&mut room).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (1700, 1700));
    assert_eq!(refused.value, batch());
}

/// Another thread asks for the bytes all the time, and never gets one between the reservation and the adoption.
#[test]
fn nobody_takes_reserved_bytes_while_they_are_adopted() {
    use std::sync::atomic::AtomicBool;

    let root = RootAllocator::new(200 * 1600);
    let done = AtomicBool::new(false);
    let mut room = root.new_reservation();
    room.add(200 * 1600).unwrap();
    let outputs: Vec<_> = std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            // Relaxed: it guards no other memory.
            while !done.load(Ordering::Relaxed) {
                assert!(
                    root.allocate_bytes(1).is_err(),
                    "all is reserved, or adopted"
                );
            }
        });
        let adopt = |_| batch().adopt_from(&mut room).unwrap();
        let outputs = (0..200).map(adopt).collect();
        // Relaxed: it guards no other memory.
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
        outputs
    });
    assert_eq!((room.size(), root.allocated_memory()), (0, 200 * 1600));
    drop(outputs);
    assert_eq!(root.allocated_memory(), 0);
}

/// Adopts an array, once, when it is told of an adoption: after the charge of that adoption, and before its entry
/// in the registry.
struct Overtaking {
    array: Int64Array,
    root: OnceLock<BufferAllocator>,
    winner: Mutex<Option<Int64Array>>,
}

impl AllocationListener for Overtaking {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        // This is told of its own adoption, too. The mutex is held then.
        let Some(root) = self.root.get() else { return };
        let mut winner = match self.winner.try_lock() {
            Ok(winner) if winner.is_none() => winner,
            _ => return,
        };
        *winner = Some(self.array.clone().adopt(root).unwrap());
    }
}

/// The bytes of the adoption that came second went to the allocator, and not back to the reservation.
#[test]
fn who_is_overtaken_has_its_reserved_bytes_again() {
    for debug in [false, true] {
        let overtaking = Arc::new(Overtaking {
            array: array(),
            root: OnceLock::new(),
            winner: Mutex::new(None),
        });
        let root = RootAllocator::builder()
            .limit(2000)
            .debug(debug)
            .listener(overtaking.clone())
            .build()
            .unwrap();
        let mut room = root.new_reservation();
        room.add(900).unwrap();
        overtaking.root.set(root.root_allocator()).unwrap();

        let late = overtaking.array.clone().adopt_from(&mut room).unwrap();

        assert!(overtaking.winner.lock().unwrap().is_some(), "overtaken");
        assert_eq!((room.size(), root.allocated_memory()), (900, 1700));
        assert_eq!(root.stats().foreign_bytes, 800);
        root.verify().unwrap();
        *overtaking.winner.lock().unwrap() = Some(array());
        drop(late);
        assert_eq!((room.size(), root.allocated_memory()), (900, 900));
    }
}

#[test]
fn adoptions_of_the_same_memory_out_of_two_reservations_take_it_from_one() {
    use std::sync::Barrier;

    const ROUNDS: usize = 2000;
    let root = RootAllocator::new(4000);
    let start = Barrier::new(2);
    let sources: Vec<_> = (0..ROUNDS).map(|_| array()).collect();
    let mut rooms = [root.new_reservation(), root.new_reservation()];
    for room in &mut rooms {
        room.add(2000).unwrap();
    }

    std::thread::scope(|threads| {
        for room in &mut rooms {
            threads.spawn(|| {
                for source in &sources {
                    start.wait();
                    let ours = source.clone().adopt_from(room).unwrap();
                    start.wait();
                    // All bytes are reserved, or adopted.
                    assert_eq!(root.allocated_memory(), 4000);
                    drop(ours);
                    // The adopted bytes are free now, for the next round.
                    start.wait();
                    room.add(2000 - room.size()).unwrap();
                }
            });
        }
    });

    assert_eq!(root.peak_memory_allocation(), 4000);
    drop(rooms);
    assert_eq!(root.allocated_memory(), 0);
}

struct Panics;

impl AllocationListener for Panics {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        panic!("told of an allocation");
    }
}

#[test]
fn a_listener_that_panics_leaves_the_reservation_as_it_was() {
    let root = RootAllocator::builder().limit(1000);
    let root = root.listener(Arc::new(Panics)).build().unwrap();
    let child = child(&root, "child");
    let mut room = child.new_reservation();
    room.add(900).unwrap();

    let adopt = || array().adopt_from(&mut room).is_ok();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(adopt)).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (900, 900));
    root.verify().unwrap();
}

/// Counts the allocations that it is told of, and runs a function at one of them.
struct Nth<F> {
    told: AtomicUsize,
    at: usize,
    run: F,
}

impl<F: Fn() + Send + Sync> AllocationListener for Nth<F> {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        // Relaxed: one thread.
        if self.told.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            (self.run)();
        }
    }
}

/// The bytes of the second column went back to the reservation, and those of the first one to the allocator.
#[test]
fn a_listener_that_panics_at_the_second_column_leaves_the_reservation_as_it_was() {
    let listener = Nth {
        told: AtomicUsize::new(0),
        at: 2,
        run: || panic!("told of the second column"),
    };
    let root = RootAllocator::builder().limit(2000);
    let root = root.listener(Arc::new(listener)).build().unwrap();
    let mut room = root.new_reservation();
    room.add(1800).unwrap();
    let batch = batch();

    let adopt = || batch.clone().adopt_from(&mut room).is_ok();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(adopt)).unwrap_err();

    assert_eq!((room.size(), root.allocated_memory()), (1800, 1800));
    root.verify().unwrap();
    let adopted = batch.adopt_from(&mut room).unwrap();
    assert_eq!((room.size(), root.allocated_memory()), (200, 1800));
    drop(adopted);
}

/// While the first column is adopted, the second one is adopted by another allocator, and the allocator of the
/// reservation is closed. So the second column cannot be shared. The bytes of the first one were lost.
#[test]
fn a_close_in_the_middle_of_an_adoption_leaves_the_reservation_as_it_was() {
    let root = OnceLock::<BufferAllocator>::new();
    let batch = batch();
    let second = batch.column(1).clone();
    let overtaken = Arc::new((root, Mutex::new(None)));
    let listener = Nth {
        told: AtomicUsize::new(0),
        at: 1,
        run: {
            let overtaken = overtaken.clone();
            move || {
                let (root, winner) = &*overtaken;
                let [late, other] = &root.get().unwrap().child_allocators()[..] else {
                    panic!("two children");
                };
                *winner.lock().unwrap() = Some(second.clone().adopt(other).unwrap());
                late.close().unwrap_err();
            }
        },
    };
    let root = RootAllocator::builder().limit(4000);
    let root = root.listener(Arc::new(listener)).build().unwrap();
    overtaken.0.set(root.root_allocator()).unwrap();
    let (late, _other) = (child(&root, "late"), child(&root, "other"));
    let mut room = late.new_reservation();
    room.add(1800).unwrap();

    let refused = batch.adopt_from(&mut room).unwrap_err();

    assert!(overtaken.1.lock().unwrap().is_some(), "overtaken");
    assert!(matches!(refused.source, MemoryError::Transfer(_)));
    assert_eq!((room.size(), late.allocated_memory()), (1800, 1800));
    assert_eq!(root.allocated_memory(), 1800 + 800);
    root.verify().unwrap();
    *overtaken.1.lock().unwrap() = None;
}

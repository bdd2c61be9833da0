//! Memory that is adopted anew while another adoption of it has not ended: at rest it is charged once.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_array::Int64Array;
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_core::{AllocationListener, AllocatorInfo, BufferAllocator, Veto};
use bytes::Bytes;

use crate::Books;

/// At one of its calls, has another thread adopt, and waits for that.
struct Meanwhile {
    /// How many calls come before that one.
    before: AtomicUsize,
    channels: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    then: Then,
}

/// What becomes of the adoption that makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoesOn,
    IsVetoed,
    Panics,
}

impl Meanwhile {
    fn call(&self) {
        if self.before.fetch_sub(1, Ordering::Relaxed) > 0 {
            return;
        }
        let channels = self.channels.lock().unwrap().take();
        if let Some((go, done)) = channels {
            go.send(()).unwrap();
            done.recv().unwrap();
        }
    }
}

impl AllocationListener for Meanwhile {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        self.call();
        match self.then {
            Then::GoesOn => Ok(()),
            Then::IsVetoed => Err(Veto::new("the test's own")),
            Then::Panics => panic!("the test's own"),
        }
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        self.call();
    }
}

/// Calls `adopt` with a query whose listener has another thread call `meanwhile`, after some calls. Returns what that
/// returned.
fn with_meanwhile<R: Send>(
    books: &Books,
    (before, then): (usize, Then),
    meanwhile: impl FnOnce() -> R + Send,
    adopt: impl FnOnce(&BufferAllocator),
) -> R {
    let (go, went) = mpsc::channel();
    let (finished, done) = mpsc::channel();
    let listener = Arc::new(Meanwhile {
        before: AtomicUsize::new(before),
        channels: Mutex::new(Some((go, done))),
        then,
    });
    let slow = books.root.child("slow").listener(listener.clone()).build();
    let slow = slow.unwrap();
    thread::scope(|threads| {
        let other = threads.spawn(move || {
            went.recv().unwrap();
            let result = meanwhile();
            finished.send(()).unwrap();
            result
        });
        let adopted = catch_unwind(AssertUnwindSafe(|| adopt(&slow)));
        // If the other thread was not called, it ends with an error.
        listener.channels.lock().unwrap().take();
        adopted.unwrap_or_else(|panic| resume_unwind(panic));
        assert_eq!(slow.allocated_memory(), 0);
        other.join().unwrap()
    })
}

#[test]
fn an_adoption_that_gives_way_to_another_one_returns_nothing_that_is_charged_there() {
    let books = Books::new();
    let array = books.array(8000);
    let there = array.clone();

    let meanwhile = || there.adopt(&books.join).unwrap();
    let adopted = with_meanwhile(&books, (0, Then::GoesOn), meanwhile, |slow| {
        // It shares what the other thread adopted.
        drop(array.clone().adopt(slow).unwrap());
    });

    assert_eq!(books.charged(), [8000, 0, 0, 8000]);
    drop(adopted);
    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    drop(array);
    books.close();
}

#[test]
fn an_adoption_that_fails_returns_nothing_that_another_one_is_charged_for() {
    for then in [Then::IsVetoed, Then::Panics] {
        let books = Books::new();
        let batch = books.batch(3, 8000);
        let first = batch.column(0).clone();

        let meanwhile = || first.adopt(&books.join).unwrap();
        let adopted = with_meanwhile(&books, (0, then), meanwhile, |slow| {
            let failed = catch_unwind(AssertUnwindSafe(|| batch.clone().adopt(slow)));
            assert_eq!(failed.is_err(), then == Then::Panics);
        });

        assert_eq!(books.charged(), [24_000, 16_000, 16_000, 8000]);
        drop(adopted);
        assert_eq!(books.charged(), [24_000, 24_000, 24_000, 0]);
        drop(batch);
        books.close();
    }
}

#[test]
fn a_reservation_gets_back_what_it_lent_to_an_adoption_that_gives_way() {
    // The other thread adopts the first column before the bytes move, and after that.
    for (lent, before) in [(6000, 0), (6000, 1), (16_000, 0), (16_000, 1), (20_000, 1)] {
        let books = Books::new();
        let batch = books.batch(2, 8000);
        let first = batch.column(0).clone();

        let meanwhile = || first.adopt(&books.join).unwrap();
        let adopted = with_meanwhile(&books, (before, Then::GoesOn), meanwhile, |slow| {
            let mut room = slow.new_reservation();
            room.add(lent).unwrap();
            let adopted = batch.clone().adopt_from(&mut room).unwrap();
            // The second column took the bytes of the reservation first.
            let left = lent.saturating_sub(8000);
            assert_eq!((room.size(), slow.allocated_memory()), (left, left + 8000));
            assert_eq!(books.charged(), [16_000 + left, 0, 0, 8000]);
            drop(adopted);
        });

        drop(adopted);
        assert_eq!(books.charged(), [16_000, 16_000, 16_000, 0]);
        drop(batch);
        books.close();
    }
}

#[test]
fn parts_that_overlap_are_charged_for_each_or_for_their_block() {
    for first_ends_first in [true, false] {
        let books = Books::new();
        let page = books.run(|| Bytes::from(vec![1; 50_000]));
        let part = |from: usize, bytes: usize| {
            let part = Buffer::from(page.slice(from..from + bytes));
            part.adopt(&books.join).unwrap()
        };
        let first = part(16, 40_000);
        assert_eq!(books.charged(), [50_000, 10_000, 10_000, 40_000]);
        let second = part(32, 30_000);
        assert_eq!(books.charged(), [70_000, 0, 0, 70_000]);

        if first_ends_first {
            drop(first);
            assert_eq!(books.charged(), [50_000, 20_000, 20_000, 30_000]);
            drop(second);
        } else {
            drop(second);
            assert_eq!(books.charged(), [50_000, 10_000, 10_000, 40_000]);
            drop(first);
        }

        assert_eq!(books.charged(), [50_000, 50_000, 50_000, 0]);
        drop(page);
        books.close();
    }
}

/// One thread drops the last adopted clone while the other one adopts another clone. Which comes first is left to them.
#[test]
fn an_array_that_is_adopted_anew_while_its_last_adoption_ends_is_charged_once() {
    const ROUNDS: usize = 5000;
    let books = Books::new();
    let array = books.array(8000);
    let (begun, ended) = &(AtomicUsize::new(0), AtomicUsize::new(0));
    let (hand_over, adoptions) = mpsc::sync_channel::<Int64Array>(0);
    let wait_for = |number: &AtomicUsize, round| {
        while number.load(Ordering::Acquire) < round {
            thread::yield_now();
        }
    };

    thread::scope(|threads| {
        threads.spawn(move || {
            for (adopted, round) in adoptions.iter().zip(1..) {
                while begun.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                drop(adopted);
                ended.store(round, Ordering::Release);
            }
        });
        for round in 1..=ROUNDS {
            let adopted = array.clone().adopt(&books.join).unwrap();
            hand_over.send(adopted).unwrap();
            begun.store(round, Ordering::Release);
            for _ in 0..round % 200 {
                std::hint::spin_loop();
            }
            let again = array.clone().adopt(&books.scan).unwrap();
            wait_for(ended, round);
            assert_eq!(books.root.allocated_memory(), 8000, "round {round}");
            drop(again);
        }
        drop(hand_over);
    });

    assert_eq!(books.charged(), [8000, 8000, 8000, 0]);
    drop(array);
    books.close();
}

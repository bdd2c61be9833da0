//! Adoptions and releases on several threads: at every instant, each byte is charged once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use bytes::Bytes;

use crate::Books;

const ROUNDS: usize = 2000;

#[test]
fn a_batch_moves_to_another_query_and_back_in_one_step_each() {
    let books = Books::without_credit();
    let batch = books.batch(20, 8000);
    let sum = 160_000;
    let (ended, seen_both) = (AtomicBool::new(false), AtomicBool::new(false));

    thread::scope(|threads| {
        let observer = threads.spawn(|| {
            let mut seen = [false; 2];
            while !ended.load(Ordering::Relaxed) {
                let books = books.root.snapshot();
                assert_eq!(books.entries[0].allocated, sum);
                let join = books.entries.iter();
                let join = join.filter(|entry| &*entry.allocator.name == "join");
                let join: usize = join.map(|entry| entry.allocated).sum();
                // The release of a batch takes one section for each buffer, its adoption one for all.
                assert_eq!(join % 8000, 0);
                seen[usize::from(join > 0)] = true;
                if seen == [true; 2] {
                    seen_both.store(true, Ordering::Relaxed);
                }
            }
        });
        let mut rounds = 0;
        while rounds < ROUNDS || !seen_both.load(Ordering::Relaxed) && !observer.is_finished() {
            rounds += 1;
            let adopted = batch.clone().adopt(&books.join).unwrap();
            assert_eq!(books.join.allocated_memory(), sum);
            drop(adopted);
        }
        ended.store(true, Ordering::Relaxed);
    });

    assert_eq!(books.root.peak_memory_allocation(), sum);
    drop(batch);
    books.close();
}

#[test]
fn a_batch_is_seen_at_its_adopter_as_a_whole_or_not_at_all() {
    let books = Books::new();
    let ended = AtomicBool::new(false);

    let kept = thread::scope(|threads| {
        threads.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let join = books.join.allocated_memory();
                assert!(join.is_multiple_of(160_000), "{join}");
            }
        });
        let mut kept = Vec::new();
        for _ in 0..200 {
            kept.push(books.batch(20, 8000).adopt(&books.join).unwrap());
        }
        ended.store(true, Ordering::Relaxed);
        kept
    });

    drop(kept);
    books.close();
}

#[test]
fn threads_that_adopt_and_release_the_same_memory_leave_nothing() {
    let books = Books::new();
    for round in 0..ROUNDS / 10 {
        let array = books.array(8000);
        let page = books.run(|| Bytes::from(vec![1; 50_000]));
        thread::scope(|threads| {
            for number in 0..4 {
                let (array, page, books) = (array.clone(), page.clone(), &books);
                threads.spawn(move || {
                    let ours = [&books.scan, &books.join][number % 2];
                    let adopted = array.adopt(ours).unwrap();
                    let start = 100 * (number / 2) + 16;
                    let slice = Buffer::from(page.slice(start..start + 20_000));
                    let slice = slice.adopt(ours).unwrap();
                    if number % 3 == round % 3 {
                        drop(adopted.transfer_ownership(&books.join).unwrap());
                    }
                    drop((page, adopted, slice));
                });
            }
            drop((array, page));
        });
        assert_eq!(books.charged(), [0; 4]);
        assert_eq!(books.retained(), 0);
    }
    books.close();
}

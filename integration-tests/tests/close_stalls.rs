//! A failed close visits every buffer of the process, and no other thread waits for that.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

/// A regression: the close held the lock from which every thread gets its bookkeeping during two walks over
/// all buffers. With a million of them, that took 110 to 170 ms.
#[test]
fn a_close_that_fails_beside_a_million_buffers_stops_nobody() {
    let stop = AtomicBool::new(false);
    let (worst, turns) = (AtomicU64::new(0), AtomicUsize::new(0));
    let other = RootAllocator::builder().debug(false).build().unwrap();
    let held: Vec<_> = (0..1_000_000).map(|_| other.buffer(64).unwrap()).collect();

    // For each round, the maximum wait of another thread, and the duration of the close.
    let mut rounds: Vec<(Duration, Duration)> = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let root = RootAllocator::builder().debug(false).build().unwrap();
            let mut held = Vec::with_capacity(2000);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..2000 {
                    let start = Instant::now();
                    held.push(root.buffer(64).unwrap());
                    worst.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                while let Some(buffer) = held.pop() {
                    let start = Instant::now();
                    drop(buffer);
                    worst.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..ROUNDS {
            let root = RootAllocator::builder().debug(false).build().unwrap();
            let child = root.child("leaky").build().unwrap();
            // The grandchild stays open, so the walk has to visit every buffer.
            let open = child.child("open").build().unwrap();
            let buffers = [child.buffer(64).unwrap(), open.buffer(64).unwrap()];
            worst.store(0, Ordering::Relaxed);
            let start = Instant::now();
            assert_eq!(child.close().unwrap_err().buffers(), 1);
            let close = start.elapsed();
            // A wait during the close has been measured once another whole turn is over.
            let turn = turns.load(Ordering::Relaxed);
            while turns.load(Ordering::Relaxed) < turn + 2 {
                thread::yield_now();
            }
            let stall = Duration::from_nanos(worst.load(Ordering::Relaxed));
            rounds.push((stall, close));
            drop(buffers);
        }
        stop.store(true, Ordering::Relaxed);
    });

    // A thread that the system does not schedule for a while waits, too, so the test uses a good round. It
    // does not use the best one, in which the thread may have read its clock during the whole close.
    let ratio = |(stall, close): &(Duration, Duration)| stall.as_secs_f64() / close.as_secs_f64();
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let (stall, close) = rounds[ROUNDS / 4];
    println!("a close took {close:?}, and the longest that another thread waited was {stall:?}");
    // A million buffers are in more than 300 chunks, and each chunk is visited without a lock.
    assert!(
        ratio(&(stall, close)) < 0.25,
        "waited {stall:?} while a close took {close:?}: {rounds:?}"
    );
    drop(held);
}

const ROUNDS: usize = 16;

#[test]
fn a_close_that_fails_finds_what_is_outstanding_although_it_ends_its_walk_early() {
    let root = RootAllocator::unlimited();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let owned: Vec<_> = (1..100)
        .map(|i| a.buffer(64 * i).unwrap().freeze())
        .collect();
    let shared: Vec<_> = owned
        .iter()
        .map(|owned| owned.retain_in(&b).unwrap())
        .collect();

    let error = a.close().unwrap_err();
    assert_eq!((error.buffers(), error.ledgers.len()), (99, 99));
    assert!(error.ledgers.iter().all(|ledger| ledger.owning));
    let error = b.close().unwrap_err();
    assert_eq!((error.buffers(), error.ledgers.len()), (99, 99));
    assert!(error.ledgers.iter().all(|ledger| !ledger.owning));
    drop((owned, shared));
    assert!(a.close().is_ok() && b.close().is_ok());
}

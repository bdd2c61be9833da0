//! Requests that wait for one another, and those that wait for allocators that compute.

use std::future::IntoFuture;
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocError, Retry, RootAllocator, WaitError};

use super::balanced;
use crate::support::{Woken, poll};

#[test]
fn waiters_that_hold_memory_and_wait_for_one_another_give_way() {
    let root = RootAllocator::builder()
        .limit(1000 << 6)
        .patience(Duration::from_millis(50))
        .build()
        .unwrap();
    let queries: Vec<_> = (0..2)
        .map(|i| root.child(&format!("q{i}")).build().unwrap())
        .collect();
    let both_hold = Arc::new(Barrier::new(2));
    let threads: Vec<_> = queries
        .into_iter()
        .map(|query| {
            let both_hold = Arc::clone(&both_hold);
            thread::spawn(move || {
                let mut held = Some(query.wait().reserve(400 << 6).unwrap());
                both_hold.wait();
                let mut give_ways = 0;
                let mut wait = query.wait();
                loop {
                    let bytes = if held.is_some() { 500 << 6 } else { 900 << 6 };
                    match wait.reserve(bytes) {
                        Ok(more) => {
                            drop((held, more));
                            return give_ways;
                        }
                        Err(WaitError::GiveWay(give_way)) => {
                            held = None;
                            give_ways += 1;
                            wait = query.wait().after(give_way);
                        }
                        Err(error) => panic!("{error:#}"),
                    }
                }
            })
        })
        .collect();
    let give_ways: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(give_ways.iter().sum::<i32>(), 1, "{give_ways:?}");
    balanced(&root);
}

#[test]
fn the_only_one_that_could_release_is_refused_in_the_end() {
    let root = RootAllocator::builder()
        .limit(1024)
        .patience(Duration::from_millis(20))
        .build()
        .unwrap();
    let query = root.child("query").build().unwrap();
    let held = query.buffer(1024).unwrap();

    let Err(WaitError::GiveWay(give_way)) = query.wait().buffer(64) else {
        panic!("told first")
    };
    let refused = query.wait().after(give_way).buffer(64).unwrap_err();

    assert!(
        matches!(refused, WaitError::Refused(AllocError::OutOfMemory { .. })),
        "{refused}"
    );
    assert_eq!(refused.retry(), Retry::WhenReleased);
    drop((held, query));
    balanced(&root);
}

#[test]
fn who_waits_and_holds_nothing_is_not_refused_while_others_compute() {
    let root = RootAllocator::builder()
        .limit(1024)
        .own_timer(true)
        .build()
        .unwrap();
    let computes = root.child("computes").build().unwrap();
    let held = computes.buffer(1024).unwrap();
    let waits = root.child("waits").build().unwrap();
    let woken = Arc::new(Woken::default());
    let mut waiting = Box::pin(waits.wait().buffer_async(64));
    let mut admitted = Box::pin(root.admit("q").reservation(64).into_future());
    assert!(poll(waiting.as_mut(), &woken).is_pending());
    assert!(poll(admitted.as_mut(), &woken).is_pending());

    let mut now = Instant::now();
    for _ in 0..10 {
        now += Duration::from_secs(10);
        assert!(root.expire_waits(now).is_some());
        assert!(poll(waiting.as_mut(), &woken).is_pending());
        assert!(poll(admitted.as_mut(), &woken).is_pending());
    }
    drop(held);

    assert_eq!(woken.count(), 2);
    assert_eq!(root.expire_waits(now), None);
    assert!(matches!(poll(waiting.as_mut(), &woken), Poll::Ready(Ok(_))));
    assert!(matches!(
        poll(admitted.as_mut(), &woken),
        Poll::Ready(Ok(_))
    ));
    drop((waiting, admitted, waits, computes));
    balanced(&root);
}

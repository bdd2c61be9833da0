//! Requests that wait for one another, and those that wait for allocators that compute.

use std::future::IntoFuture;
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocError, Cost, Retry, RootAllocator, WaitError};

use super::balanced;
use crate::reclaim::Asked;
use crate::support::{Woken, child, poll};

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
    // One, unless the machine is so busy that the first to be told has not let go when the other's patience ends, too.
    assert!(give_ways.contains(&1), "{give_ways:?}");
    assert!(give_ways.iter().all(|&times| times <= 1), "{give_ways:?}");
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

#[test]
fn one_whose_sibling_holds_memory_is_told_since_its_query_can_release_that() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let query = child(&root, "query");
    let (computes, scan) = (child(&query, "computes"), child(&query, "scan"));
    let held = computes.buffer(1024).unwrap();
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(64));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    root.expire_waits(Instant::now() + Duration::from_secs(10));

    let told = poll(waits.as_mut(), &woken);
    assert!(matches!(told, Poll::Ready(Err(WaitError::GiveWay(_)))));
    drop((waits, held, scan, computes, query));
    balanced(&root);
}

#[test]
fn one_that_waits_where_it_holds_memory_is_refused_unless_children_hold_some() {
    for others in [512, 0] {
        let root = RootAllocator::builder().limit(1024).own_timer(true);
        let root = root.build().unwrap();
        let computes = child(&root, "computes");
        let held = (
            computes.buffer(others).unwrap(),
            root.buffer(1024 - others).unwrap(),
        );
        let woken = Arc::new(Woken::default());
        let mut waits = Box::pin(root.wait().buffer_async(64));
        assert!(poll(waits.as_mut(), &woken).is_pending());
        let mut now = Instant::now() + Duration::from_secs(10);
        root.expire_waits(now);
        let Poll::Ready(Err(WaitError::GiveWay(give_way))) = poll(waits.as_mut(), &woken) else {
            panic!("it holds memory");
        };
        let mut waits = Box::pin(root.wait().after(give_way).buffer_async(64));
        assert!(poll(waits.as_mut(), &woken).is_pending());

        for _ in 0..4 {
            now += Duration::from_secs(10);
            root.expire_waits(now);
        }

        let ended = poll(waits.as_mut(), &woken);
        match others {
            0 => assert!(matches!(ended, Poll::Ready(Err(WaitError::Refused(_))))),
            _ => assert!(ended.is_pending(), "the child may release: {ended:?}"),
        }
        drop((waits, ended, held, computes));
        balanced(&root);
    }
}

#[test]
fn a_younger_one_that_comes_nearer_does_not_put_off_that_one_gives_way() {
    let root = RootAllocator::builder().limit(1000).own_timer(true);
    let root = root.build().unwrap();
    let [sort, query, late] = ["sort", "query", "late"].map(|name| child(&root, name));
    let held = (
        sort.wait().reserve(850).unwrap(),
        query.wait().reserve(100).unwrap(),
    );
    // It gives nothing back.
    let guard = sort.on_shortage(Cost::Drop, Asked(drop));
    let woken = Arc::new(Woken::default());
    let mut oldest = Box::pin(query.wait().reserve_async(64));
    assert!(poll(oldest.as_mut(), &woken).is_pending());
    let mut now = Instant::now() + Duration::from_secs(10);
    root.expire_waits(now);
    assert_eq!(woken.count(), 1, "it is to ask");
    assert!(poll(oldest.as_mut(), &woken).is_pending());
    let noise = late.wait().reserve(40).unwrap();
    let mut younger = Box::pin(late.wait().reserve_async(64));
    assert!(poll(younger.as_mut(), &woken).is_pending());
    drop(noise);

    now += Duration::from_secs(10);
    root.expire_waits(now);

    let told = poll(oldest.as_mut(), &woken);
    assert!(matches!(told, Poll::Ready(Err(WaitError::GiveWay(_)))));
    drop((oldest, younger, told, guard, held));
    drop((sort, query, late));
    balanced(&root);
}

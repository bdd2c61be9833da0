//! Requests that wait for memory.

mod admissions;
mod giving_way;
mod reserved;
mod rules;

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocError, ArrowBufMut, BufferAllocator, Retry, RootAllocator, WaitError,
};
use arrow_memory_system as _;

use crate::support::{Woken, poll};

const LONG: Duration = Duration::from_secs(60);

/// A root with that limit, filled up but for `free` bytes.
fn full(limit: usize, free: usize) -> (RootAllocator, ArrowBufMut) {
    let root = RootAllocator::new(limit);
    let held = root.child("held").build().unwrap();
    let held = held.buffer(limit - free).unwrap();
    (root, held)
}

/// Waits until so many requests wait in the tree.
fn until_waiting(root: &RootAllocator, count: usize) {
    until(|| root.snapshot().waiters.len() == count);
}

fn until(mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < LONG, "too long");
        thread::yield_now();
    }
}

fn balanced(root: &RootAllocator) {
    root.verify().unwrap();
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_request_that_fits_is_granted_at_once() {
    let root = RootAllocator::new(1024);

    let buffer = root.wait().buffer(1000).unwrap();
    assert_eq!((buffer.capacity(), root.allocated_memory()), (1024, 1024));
    drop(buffer);
    let reservation = root.wait().reserve(1024).unwrap();
    assert_eq!(reservation.size(), 1024);
    drop(reservation);
    let mut buffer = root.wait().buffer(0).unwrap();
    root.wait().grow(&mut buffer, 1024).unwrap();
    drop(buffer);

    balanced(&root);
}

#[test]
fn a_blocked_thread_gets_what_another_one_releases() {
    let (root, held) = full(1024, 0);
    let scan = root.child("scan").build().unwrap();

    let waits = root.clone();
    let releaser = thread::spawn(move || {
        until_waiting(&waits, 1);
        drop(held);
    });
    let buffer = scan.wait().at_most(LONG).buffer(1024).unwrap();

    releaser.join().unwrap();
    assert_eq!(scan.allocated_memory(), 1024);
    drop((buffer, scan));
    balanced(&root);
}

#[test]
fn a_future_is_granted_in_the_section_that_releases_and_woken_once() {
    let (root, held) = full(1024, 0);
    let (scan, woken) = (root.child("scan").build().unwrap(), Arc::default());
    let mut future = pin!(scan.wait().buffer_async(512));
    assert!(poll(future.as_mut(), &woken).is_pending());
    assert!(poll(future.as_mut(), &woken).is_pending());

    drop(held);

    assert_eq!((root.allocated_memory(), woken.count()), (512, 1));
    root.verify().unwrap();
    let Poll::Ready(Ok(buffer)) = poll(future.as_mut(), &woken) else {
        panic!("granted")
    };
    assert_eq!(buffer.capacity(), 512);
    drop(buffer);
    drop(scan);
    balanced(&root);
}

#[test]
fn a_future_that_is_dropped_gives_back_what_it_was_granted() {
    let (root, held) = full(1024, 0);
    let (scan, woken) = (root.child("scan").build().unwrap(), Arc::default());
    let mut first = Box::pin(scan.wait().buffer_async(1024));
    let mut second = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(first.as_mut(), &woken).is_pending());
    assert!(poll(second.as_mut(), &woken).is_pending());

    drop(held);
    assert_eq!(woken.count(), 1);
    drop(first); // granted and not taken: the second one gets it

    assert_eq!(woken.count(), 2);
    assert!(matches!(poll(second.as_mut(), &woken), Poll::Ready(Ok(_))));
    drop(second);
    drop(scan);
    balanced(&root);
}

#[test]
fn cancelling_the_head_of_the_queue_serves_the_next() {
    let (root, held) = full(1024, 512);
    let (scan, woken) = (
        root.child("scan").build().unwrap(),
        Arc::new(Woken::default()),
    );
    let mut large = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(large.as_mut(), &woken).is_pending());
    // Makes a barrier of the large one: as many bytes have passed it as it asks for.
    for _ in 0..2 {
        drop(root.child("passes").build().unwrap().buffer(512).unwrap());
    }
    let mut small = Box::pin(scan.wait().buffer_async(512));
    let waits = poll(small.as_mut(), &woken).is_pending();
    assert!(waits, "room is withheld for the large one");

    drop(large);

    assert!(matches!(poll(small.as_mut(), &woken), Poll::Ready(Ok(_))));
    drop((small, held, scan));
    balanced(&root);
}

#[test]
fn a_snapshot_tells_who_waits_and_what_is_withheld() {
    let (root, held) = full(1024, 512);
    let scan = root.child("scan").build().unwrap();
    let woken = Arc::new(Woken::default());
    let mut future = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(future.as_mut(), &woken).is_pending());
    assert_eq!(root.headroom(), 512);
    for _ in 0..2 {
        drop(root.child("passes").build().unwrap().buffer(512).unwrap());
    }

    let snapshot = root.snapshot();
    let [waiter] = &snapshot.waiters[..] else {
        panic!("{snapshot:?}")
    };
    assert_eq!(
        (&*waiter.allocator.name, &*waiter.lacks_room.name),
        ("scan", "ROOT")
    );
    assert_eq!(
        (waiter.bytes, waiter.admission, waiter.withholds),
        (1024, false, true)
    );
    assert_eq!((snapshot.entries[0].withheld, root.headroom()), (512, 0));
    assert!(held.allocator().snapshot().waiters.is_empty());
    let refused = root.child("try").build().unwrap().buffer(64).unwrap_err();
    let text = format!("{refused:#}");
    assert!(
        text.contains("512 withheld for requests that wait or spill"),
        "{text}"
    );
    assert!(text.contains("withheld for others 512"), "{text}");

    drop((future, held, scan));
    balanced(&root);
}

#[test]
fn everything_that_makes_room_wakes() {
    type Release = Box<dyn FnOnce(&RootAllocator)>;
    type Hold = fn(&RootAllocator) -> Release;
    let releases: [(&str, Hold); 8] = [
        ("buffer", |root| {
            let held = root.child("held").build().unwrap().buffer(1024).unwrap();
            Box::new(|_| drop(held))
        }),
        ("reservation", |root| {
            let mut held = root.new_reservation();
            held.add(1024).unwrap();
            Box::new(|_| drop(held))
        }),
        ("reservation shrinks", |root| {
            let mut held = root.child("held").build().unwrap().new_reservation();
            held.add(1024).unwrap();
            Box::new(move |root| {
                held.shrink(1024);
                let _ = root.allocated_memory();
            })
        }),
        ("external bytes", |root| {
            root.allocate_bytes(1024).unwrap();
            Box::new(|root| root.release_bytes(1024))
        }),
        ("limit", |root| {
            let held = root.buffer(1024).unwrap();
            Box::new(|root| {
                root.set_limit(2048);
                drop(held);
            })
        }),
        ("cap", |root| {
            root.set_cap(Some(0));
            Box::new(|root| root.set_cap(None))
        }),
        ("child with a reservation", |root| {
            let held = root.child("held").reservation(1024).build().unwrap();
            Box::new(|_| drop(held))
        }),
        ("live reservation", |root| {
            let held = root.child("held").reservation(1024).build().unwrap();
            Box::new(move |_| held.set_reservation(0).unwrap())
        }),
    ];
    for (name, hold) in releases {
        let root = RootAllocator::new(1024);
        let release = hold(&root);
        let woken = Arc::new(Woken::default());
        let scan = root.child("scan").build().unwrap();
        let mut future = Box::pin(scan.wait().buffer_async(1024));
        assert!(poll(future.as_mut(), &woken).is_pending(), "{name}");

        release(&root);

        assert_eq!(woken.count(), 1, "{name}");
        let granted = poll(future.as_mut(), &woken);
        assert!(matches!(granted, Poll::Ready(Ok(_))), "{name}: {granted:?}");
        drop((future, granted, scan));
        balanced(&root);
    }
}

#[test]
fn a_transfer_out_of_a_full_child_wakes_who_waits_there() {
    let root = RootAllocator::unlimited();
    let (full, other) = (
        root.child("full").limit(1024).build().unwrap(),
        root.child("other").build().unwrap(),
    );
    let held = full.buffer_from_slice(&[1; 1024]).unwrap();
    let woken = Arc::new(Woken::default());
    let mut future = Box::pin(full.wait().reserve_async(1024));
    assert!(poll(future.as_mut(), &woken).is_pending());

    let moved = held.transfer_ownership(&other);

    assert_eq!(woken.count(), 1);
    assert!(matches!(poll(future.as_mut(), &woken), Poll::Ready(Ok(_))));
    drop((moved, held, full, other));
    balanced(&root);
}

#[test]
fn a_request_that_can_never_fit_is_refused_at_once() {
    let root = RootAllocator::new(4096);
    let scan = root.child("scan").limit(1024).build().unwrap();

    let refused = scan.wait().buffer(2048).unwrap_err();
    assert!(matches!(refused, WaitError::Refused(_)), "{refused}");
    assert_eq!(refused.retry(), Retry::Never);
    let refused = root.wait().reserve(5000).unwrap_err();
    assert_eq!(refused.retry(), Retry::Never);
    // A buffer keeps its bytes while it grows.
    let mut buffer = scan.buffer(512).unwrap();
    let refused = scan.wait().grow(&mut buffer, 1100).unwrap_err();
    assert_eq!(refused.retry(), Retry::Never);
    // A cap is not for ever.
    scan.set_cap(Some(100));
    let refused = scan.wait().at_most(Duration::ZERO).buffer(512).unwrap_err();
    assert!(matches!(refused, WaitError::TimedOut(_)), "{refused}");
    assert_eq!(refused.retry(), Retry::WhenReleased);

    drop((buffer, scan));
    balanced(&root);
}

#[test]
fn a_lowered_limit_refuses_a_waiter_that_cannot_fit_any_more() {
    let (root, held) = full(1024, 0);
    let woken = Arc::new(Woken::default());
    let mut future = Box::pin(root.wait().buffer_async(1024));
    assert!(poll(future.as_mut(), &woken).is_pending());

    root.set_limit(512);

    assert_eq!(woken.count(), 1);
    let Poll::Ready(Err(WaitError::Refused(error))) = poll(future.as_mut(), &woken) else {
        panic!("refused")
    };
    assert_eq!(error.retry(), Retry::Never);
    drop(held);
    balanced(&root);
}

#[test]
fn closing_an_allocator_at_any_level_refuses_those_that_wait_for_it() {
    for level in 0..3 {
        let root = RootAllocator::new(1024);
        let query = root.child("query").build().unwrap();
        let scan = query.child("scan").build().unwrap();
        let held = root.child("held").build().unwrap().buffer(1024).unwrap();
        let woken = Arc::new(Woken::default());
        let mut future = Box::pin(scan.wait().buffer_async(1024));
        assert!(poll(future.as_mut(), &woken).is_pending());
        let path: [&BufferAllocator; 3] = [&scan, &query, &root];

        path[level].retire();

        assert_eq!(woken.count(), 1);
        let ended = poll(future.as_mut(), &woken);
        let Poll::Ready(Err(WaitError::Refused(AllocError::Closed { allocator, .. }))) = ended
        else {
            panic!("{ended:?}")
        };
        assert_eq!(&allocator, path[level].info());
        drop((future, held, scan, query));
        balanced(&root);
    }
}

#[test]
fn a_waiter_times_out_whether_it_blocks_or_is_polled_or_not() {
    let (root, held) = full(1024, 0);
    let began = Instant::now();
    let refused = root
        .wait()
        .at_most(Duration::from_millis(30))
        .buffer(64)
        .unwrap_err();
    assert!(matches!(refused, WaitError::TimedOut(_)), "{refused}");
    assert!(began.elapsed() >= Duration::from_millis(30));

    let woken = Arc::new(Woken::default());
    let mut future = Box::pin(
        root.wait()
            .at_most(Duration::from_millis(30))
            .buffer_async(64),
    );
    assert!(poll(future.as_mut(), &woken).is_pending());
    until(|| woken.count() > 0); // the timer ends the wait
    drop(held);
    assert_eq!(root.allocated_memory(), 0, "it has left the queue");
    // What has become free meanwhile is taken all the same.
    assert!(matches!(poll(future.as_mut(), &woken), Poll::Ready(Ok(_))));
    balanced(&root);
}

#[test]
fn of_a_duration_and_a_deadline_the_one_that_was_set_last_counts() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let held = root.child("held").build().unwrap().buffer(1024).unwrap();
    let (scan, woken) = (root.child("scan").build().unwrap(), Arc::default());
    let (soon, late) = (Duration::from_secs(10), Duration::from_secs(1000));
    let now = Instant::now();
    let admit = || root.admit("query").reservation(64);
    let waits = [
        scan.wait().at_most(late).until(now + soon),
        scan.wait().until(now + late).at_most(soon),
        scan.wait().at_most(soon).until(now + late),
        scan.wait().until(now + soon).at_most(late),
    ];
    let admissions = [
        admit().at_most(late).until(now + soon),
        admit().until(now + late).at_most(soon),
        admit().at_most(soon).until(now + late),
        admit().until(now + soon).at_most(late),
    ];
    let mut waits = waits.map(|wait| Box::pin(wait.reserve_async(64)));
    let mut admissions = admissions.map(|admission| Box::pin(admission.into_future()));
    for wait in &mut waits {
        assert!(poll(wait.as_mut(), &woken).is_pending());
    }
    for admission in &mut admissions {
        assert!(poll(admission.as_mut(), &woken).is_pending());
    }

    root.expire_waits(now + Duration::from_secs(500));

    assert_eq!(woken.count(), 4);
    let ended_soon = waits.map(|mut wait| poll(wait.as_mut(), &woken).is_ready());
    assert_eq!(ended_soon, [true, true, false, false]);
    let ended_soon = admissions.map(|mut wait| poll(wait.as_mut(), &woken).is_ready());
    assert_eq!(ended_soon, [true, true, false, false]);
    drop((held, scan));
    balanced(&root);
}

//! Children that wait for their reservation.

use std::future::IntoFuture;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arrow_memory_core::{Retry, RootAllocator, WaitError};

use super::{LONG, balanced, full};
use crate::support::{Woken, poll};

#[test]
fn an_admission_waits_for_its_reservation_and_holds_back_younger_admissions_only() {
    let (root, held) = full(1 << 20, 1 << 19);
    let woken = Arc::new(Woken::default());
    let mut first = Box::pin(root.admit("q1").reservation(1 << 20).into_future());
    assert!(poll(first.as_mut(), &woken).is_pending());

    // What runs already can use the room, for as long as it likes.
    for _ in 0..10 {
        drop(root.child("runs").build().unwrap().buffer(1 << 19).unwrap());
    }
    let mut second = Box::pin(root.admit("q2").reservation(1 << 18).into_future());
    assert!(
        poll(second.as_mut(), &woken).is_pending(),
        "the first one is older"
    );
    drop(held);

    let Poll::Ready(Ok(q1)) = poll(first.as_mut(), &woken) else {
        panic!("admitted")
    };
    assert_eq!(
        (q1.reservation(), root.allocated_memory()),
        (1 << 20, 1 << 20)
    );
    assert!(poll(second.as_mut(), &woken).is_pending());
    drop(q1);
    let Poll::Ready(Ok(q2)) = poll(second.as_mut(), &woken) else {
        panic!("admitted")
    };
    drop(q2);
    balanced(&root);
}

#[test]
fn an_admission_blocks_and_gives_back_what_a_closed_parent_does_not_need() {
    let root = RootAllocator::new(1024);
    let q = root.admit("q").reservation(1000).blocking(LONG).unwrap();
    let refused = root
        .admit("r")
        .reservation(1000)
        .blocking(Duration::ZERO)
        .unwrap_err();
    assert!(matches!(refused, WaitError::TimedOut(_)), "{refused}");
    let never = root
        .admit("r")
        .reservation(2000)
        .blocking(LONG)
        .unwrap_err();
    assert_eq!(never.retry(), Retry::Never);
    let unsound = root
        .admit("r")
        .reservation(200)
        .limit(100)
        .blocking(LONG)
        .unwrap_err();
    assert_eq!(unsound.retry(), Retry::Never);
    let woken = Arc::new(Woken::default());
    let mut future = Box::pin(root.admit("r").reservation(1000).into_future());
    assert!(poll(future.as_mut(), &woken).is_pending());
    drop(q);
    assert_eq!(root.allocated_memory(), 1000);
    root.retire();
    assert!(matches!(
        poll(future.as_mut(), &woken),
        Poll::Ready(Err(WaitError::Refused(_)))
    ));
    drop(future);
    assert_eq!(root.allocated_memory(), 0);
}

//! An inbox as a `Stream`.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow_memory_core::{Cost, RootAllocator};
use futures_core::Stream;

use crate::reclaim::{balanced, child};
use crate::support::Woken;

#[test]
fn an_inbox_is_a_stream_of_asks_that_does_not_end() {
    let root = RootAllocator::new(1000);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let mut inbox = pin!(sort.reclaim_inbox(Cost::Drop));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let query = child(&root, "query");
    assert!(inbox.as_mut().poll_next(&mut context).is_pending());

    assert!(query.buffer(64).is_err());

    assert_eq!(woken.count(), 1);
    let Poll::Ready(Some(ask)) = inbox.as_mut().poll_next(&mut context) else {
        panic!("it was asked");
    };
    assert_eq!(ask.bytes(), 64);
    drop((ask, held));
    assert!(inbox.as_mut().poll_next(&mut context).is_pending());
    assert!(query.buffer(64).is_ok());
    drop(query);
    balanced(&root);
}

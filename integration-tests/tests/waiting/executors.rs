//! Futures that wait in one executor, and are polled by another one later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;

use arrow_memory_core::{ArrowBufMut, RootAllocator, WaitError};

use crate::support::{
    Woken, assert_empty, full, poll, poll_spuriously, poll_with, runtime, until_waiting,
};

type Waits = Pin<Box<dyn Future<Output = Result<ArrowBufMut, WaitError>> + Send>>;

/// Polls once, in the task of whoever awaits it.
async fn pending(future: &mut Waits) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

/// A future that was polled in a task of tokio, and then in one of smol.
#[expect(clippy::async_yields_async, reason = "the future is polled elsewhere")]
fn moved(root: &RootAllocator) -> Waits {
    let runtime = runtime(1);
    let mut waits: Waits = Box::pin(root.wait().buffer_async(1024));
    let task = runtime.spawn(async move {
        assert!(pending(&mut waits).await);
        waits
    });
    let mut waits = runtime.block_on(task).unwrap();
    drop(runtime);
    smol::block_on(async {
        assert!(pending(&mut waits).await);
        assert!(pending(&mut waits).await);
    });
    waits
}

#[test]
fn a_future_that_moves_from_tokio_to_smol_to_an_executor_that_polls_spuriously_is_granted() {
    let (root, held) = full(1024, 0);
    let waits = moved(&root);

    let buffer = thread::scope(|scope| {
        let root = &root;
        scope.spawn(move || {
            until_waiting(root, 1);
            drop(held);
        });
        poll_spuriously(waits)
    });

    assert_eq!(root.allocated_memory(), 1024);
    drop(buffer.unwrap());
    assert_empty(&root);
}

#[test]
fn a_future_that_was_granted_after_it_left_a_runtime_is_ready_in_the_next_one() {
    let (root, held) = full(1024, 0);
    let waits = moved(&root);

    drop(held); // wakes a task of smol that has ended

    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let buffer = runtime.unwrap().block_on(waits).unwrap();
    drop(buffer);
    assert_empty(&root);
}

#[test]
fn only_the_waker_of_the_last_poll_is_woken() {
    let (root, held) = full(1024, 0);
    let mut waits: Waits = Box::pin(root.wait().buffer_async(1024));
    let wakers: Vec<Arc<Woken>> = (0..10).map(|_| Arc::default()).collect();
    for woken in &wakers {
        assert!(poll(&mut waits, woken).is_pending());
        assert!(poll(&mut waits, woken).is_pending());
    }

    drop(held);

    let counts = wakers.iter().map(|woken| woken.count());
    assert_eq!(counts.collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(wakers.iter().all(|woken| Arc::strong_count(woken) == 1));
    assert!(poll_with(&mut waits, Waker::noop()).is_ready());
    drop(waits);
    assert_empty(&root);
}

#[test]
fn many_threads_that_poll_spuriously_are_each_granted_once() {
    let (root, held) = full(4096, 0);

    thread::scope(|scope| {
        for _ in 0..8 {
            let root = &root;
            scope.spawn(move || {
                for _ in 0..200 {
                    let buffer = poll_spuriously(root.wait().buffer_async(1024)).unwrap();
                    assert!(root.allocated_memory() <= 4096);
                    drop(buffer);
                }
            });
        }
        until_waiting(&root, 8);
        drop(held);
    });

    assert_empty(&root);
}

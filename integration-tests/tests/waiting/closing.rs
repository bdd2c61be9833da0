//! What ends waits from outside: closing, runtimes that are dropped, panics, and futures that are forgotten.

use std::future::{Future, IntoFuture};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, WaitError};

use crate::support::{
    LONG, Woken, assert_empty, full, full_with_timer, is_closed, poll, runtime, until,
    until_waiting,
};

const THREADS: usize = 10;
const FUTURES: usize = 40;

/// Waits of an allocator, of each kind that there is.
fn queue_futures(scan: &BufferAllocator) -> Vec<Pin<Box<dyn Future<Output = bool> + Send>>> {
    (0..FUTURES)
        .map(|index| -> Pin<Box<dyn Future<Output = bool> + Send>> {
            let wait = scan.wait();
            match index % 3 {
                0 => {
                    let future = wait.buffer_async(64);
                    Box::pin(async { is_closed(&future.await) })
                }
                1 => {
                    let future = wait.reserve_async(64);
                    Box::pin(async { is_closed(&future.await) })
                }
                _ => {
                    let admission = scan.admit("part").reservation(64).into_future();
                    Box::pin(async { is_closed(&admission.await) })
                }
            }
        })
        .collect()
}

#[test]
fn closing_any_level_ends_all_waits_that_need_it_and_no_others() {
    for level in 0..3 {
        let (root, held) = full(1 << 20, 0);
        let query = root.child("query").build().unwrap();
        let scan = query.child("scan").build().unwrap();
        let other = root.child("other").build().unwrap();
        let woken = Arc::new(Woken::default());
        let mut beside = Box::pin(other.wait().buffer_async(64));
        assert!(poll(&mut beside, &woken).is_pending());

        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| assert!(is_closed(&scan.wait().at_most(LONG).buffer(64))));
            }
            let mut futures = queue_futures(&scan);
            let ended = Arc::new(Woken::default());
            for future in &mut futures {
                assert!(poll(future, &ended).is_pending());
            }
            until_waiting(&root, THREADS + FUTURES + 1);
            let path: [&BufferAllocator; 3] = [&scan, &query, &root];

            // Its error may list what is left. It ends the waits in any case.
            let _ = path[level].close();

            until(|| ended.count() == FUTURES); // Another thread may wake some of them.
            for future in &mut futures {
                assert_eq!(poll(future, &ended), Poll::Ready(true));
            }
        });

        let others = usize::from(level < 2);
        assert_eq!(root.snapshot().waiters.len(), others, "level {level}");
        assert_eq!(woken.count(), 1 - others);
        drop((beside, held, scan, query, other));
        assert_empty(&root);
    }
}

#[test]
fn a_tokio_runtime_that_is_dropped_ends_the_waits_of_its_tasks() {
    let (root, held) = full(1 << 20, 0);
    let runtime = runtime(2);
    for index in 0..20 {
        let root = root.clone();
        runtime.spawn(async move {
            let query = root.child(&format!("query-{index}")).build().unwrap();
            let _ = query.wait().buffer_async(64).await;
            unreachable!("nothing is released before the task is dropped");
        });
    }
    until_waiting(&root, 20);

    drop(runtime);

    assert_eq!(root.snapshot().waiters.len(), 0);
    drop(held);
    assert_empty(&root);
}

#[test]
fn a_smol_executor_that_is_dropped_ends_the_waits_of_its_tasks_and_gives_back_what_was_granted() {
    let (root, held) = full(1 << 20, 0);
    let executor = smol::LocalExecutor::new();
    for _ in 0..20 {
        let root = root.clone();
        executor
            .spawn(async move { drop(root.wait().reserve_async(1 << 18).await) })
            .detach();
    }
    while executor.try_tick() {}
    until_waiting(&root, 20);

    // Four of them are granted, and are not polled any more.
    drop(held);
    assert_eq!(root.allocated_memory(), 1 << 20);
    drop(executor);

    assert_empty(&root);
}

#[test]
fn a_thread_that_panics_leaves_the_queue_with_its_futures() {
    let (root, held) = full(1 << 20, 0);
    let woken = Arc::new(Woken::default());

    let (tree, woken_there) = (root.clone(), Arc::clone(&woken));
    let panics = thread::spawn(move || {
        let mut waits = Box::pin(tree.wait().buffer_async(64));
        let mut granted = Box::pin(tree.wait().buffer_async(64));
        assert!(poll(&mut granted, &woken_there).is_pending());
        assert!(poll(&mut waits, &woken_there).is_pending());
        tree.set_limit((1 << 20) + 64);
        assert_eq!(woken_there.count(), 1);
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panics.join().is_err());

    assert_eq!(root.snapshot().waiters.len(), 0);
    assert_eq!(root.allocated_memory(), 1 << 20, "the grant is given back");
    drop(held);
    assert_empty(&root);
}

#[test]
fn a_task_that_panics_leaves_the_queue() {
    let (root, held) = full(1 << 20, 0);
    let runtime = runtime(1);
    let tree = root.clone();
    let task = runtime.spawn(async move {
        let mut waits = Box::pin(tree.wait().buffer_async(64));
        std::future::poll_fn(|context| {
            assert!(waits.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        std::panic::resume_unwind(Box::new("on purpose"));
    });

    assert!(smol::block_on(task).is_err());

    assert_eq!(root.snapshot().waiters.len(), 0);
    drop(held);
    assert_empty(&root);
}

/// It is dropped when the test ends, so that nothing is reported as leaked.
#[test]
fn a_future_that_is_forgotten_leaves_the_queue_at_its_deadline() {
    let (root, held) = full(1 << 20, 0);
    let woken = Arc::new(Woken::default());
    let wait = root.wait().at_most(Duration::from_secs(5));
    let mut forgotten = ManuallyDrop::new(Box::pin(wait.buffer_async(64)));
    assert!(poll(&mut forgotten, &woken).is_pending());
    let mut behind = Box::pin(root.wait().buffer_async(1 << 20));
    assert!(poll(&mut behind, &woken).is_pending());

    root.expire_waits(Instant::now());
    assert_eq!(root.snapshot().waiters.len(), 2);
    root.expire_waits(Instant::now() + Duration::from_secs(5));
    assert_eq!(root.snapshot().waiters.len(), 1);
    drop(held);

    assert!(matches!(poll(&mut behind, &woken), Poll::Ready(Ok(_))));
    drop((behind, ManuallyDrop::into_inner(forgotten)));
    assert_empty(&root);
}

#[test]
fn the_timer_ends_the_wait_of_a_future_that_is_forgotten() {
    let (root, held) = full_with_timer(1 << 20);
    let woken = Arc::new(Woken::default());
    let wait = root.wait().at_most(Duration::from_millis(30));
    let mut forgotten = ManuallyDrop::new(Box::pin(wait.buffer_async(64)));
    assert!(poll(&mut forgotten, &woken).is_pending());

    until(|| root.snapshot().waiters.is_empty());

    until(|| woken.count() == 1);
    drop((held, ManuallyDrop::into_inner(forgotten)));
    assert_empty(&root);
}

/// The task blocks the only worker, on which the task that would release memory is to run.
#[test]
fn a_wait_that_blocks_the_only_worker_of_a_runtime_ends_at_its_deadline() {
    let (root, held) = full(1 << 20, 0);
    let runtime = runtime(1);

    let tree = root.clone();
    let task = runtime.spawn(async move {
        let releases = tokio::spawn(async move { drop(held) });
        let blocked = tree.wait().at_most(Duration::from_millis(50)).buffer(64);
        releases.await.unwrap();
        (blocked, tree.wait().at_most(LONG).buffer_async(64).await)
    });
    let (blocked, asynchronous) = smol::block_on(task).unwrap();

    assert!(
        matches!(blocked, Err(WaitError::TimedOut(_))),
        "{blocked:?}"
    );
    drop(asynchronous.unwrap());
    assert_empty(&root);
}

#[test]
fn a_wait_in_a_drop_while_the_thread_panics_is_not_queued() {
    let (root, held) = full(1 << 20, 1 << 19);
    struct Waits(BufferAllocator, Arc<Mutex<Vec<bool>>>);
    impl Drop for Waits {
        fn drop(&mut self) {
            for bytes in [1 << 19, 1 << 20] {
                let granted = self.0.wait().at_most(LONG).buffer(bytes).is_ok();
                self.1.lock().unwrap().push(granted);
            }
        }
    }
    let granted = Arc::default();

    let ended = catch_unwind(AssertUnwindSafe(|| {
        let _waits = Waits((*root).clone(), Arc::clone(&granted));
        std::panic::resume_unwind(Box::new("on purpose"));
    }));

    assert!(ended.is_err());
    assert_eq!(*granted.lock().unwrap(), [true, false]);
    drop(held);
    assert_empty(&root);
}

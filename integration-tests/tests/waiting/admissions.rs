//! Queries that wait to be admitted while others compute.

use std::future::IntoFuture;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, RootAllocator};

use crate::support::{LONG, Woken, assert_empty, builder, poll, until_waiting};

const PART: usize = 1 << 20;

/// A root of four parts, and four queries that each have one of them and use half of it.
fn four_compute(own_timer: bool) -> (RootAllocator, Vec<(BufferAllocator, impl Drop)>) {
    let root = builder(4 * PART).own_timer(own_timer).build().unwrap();
    let queries = (0..4).map(|index| {
        let query = root
            .child(&format!("computes-{index}"))
            .reservation(PART)
            .build()
            .unwrap();
        let buffer = query.buffer(PART / 2).unwrap().freeze();
        (query, Held(Some(buffer)))
    });
    let queries = queries.collect();
    (root, queries)
}

/// The buffers of a query that computes.
struct Held(Option<arrow_memory_core::ArrowBuf>);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[test]
fn twenty_queued_admissions_are_not_refused_while_four_queries_compute() {
    let (root, computing) = four_compute(true);
    let woken: Vec<Arc<Woken>> = (0..20).map(|_| Arc::default()).collect();
    let mut queued: Vec<_> = (0..20)
        .map(|index| {
            let name = format!("queued-{index}");
            Box::pin(
                root.admit(&name)
                    .reservation(PART)
                    .limit(PART)
                    .into_future(),
            )
        })
        .collect();
    for (future, woken) in queued.iter_mut().zip(&woken) {
        assert!(poll(future, woken).is_pending());
    }

    let began = Instant::now();
    for tenth in 0..=100 {
        // Ten seconds pass. The queries that compute do not touch the tree.
        root.expire_waits(began + Duration::from_millis(100) * tenth);
    }
    assert!(woken.iter().all(|woken| woken.count() == 0));
    assert_eq!(root.snapshot().waiters.len(), 20);
    drop(computing);

    let woken_first = woken.iter().map(|woken| woken.count());
    assert!(
        woken_first.eq((0..20).map(|index| usize::from(index < 4))),
        "the four oldest ones are admitted"
    );
    for index in 0..20 {
        let Poll::Ready(Ok(query)) = poll(&mut queued[index], &woken[index]) else {
            panic!("{index} is admitted by now")
        };
        // The query ends, so the next one is admitted.
        assert_eq!(query.reservation(), PART);
        drop(query);
    }
    assert_eq!(woken.iter().map(|woken| woken.count()).sum::<usize>(), 20);
    assert_empty(&root);
}

#[test]
fn admissions_that_block_threads_are_all_admitted_in_the_end() {
    let (root, computing) = four_compute(false);

    thread::scope(|scope| {
        for index in 0..20 {
            let root = &root;
            scope.spawn(move || {
                let admission = root.admit(&format!("queued-{index}")).reservation(PART);
                let query = admission.blocking(LONG).unwrap();
                drop(query.buffer(PART).unwrap());
            });
        }
        until_waiting(&root, 20);
        // The queries compute for ten seconds by the clock, and the timer's thread looks at who waits.
        #[expect(
            clippy::disallowed_methods,
            reason = "the time that passes is what is tested"
        )]
        thread::sleep(Duration::from_secs(10));
        assert_eq!(root.snapshot().waiters.len(), 20);
        drop(computing);
    });

    assert_empty(&root);
}

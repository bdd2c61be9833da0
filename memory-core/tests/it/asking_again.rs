//! Requests that wait and ask others again: whose turn it is, and who gives way meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, Cost, RootAllocator, WaitError};

use crate::reclaim::{Asked, balanced, child};
use crate::support::{Woken, poll};

type Waits = Pin<Box<dyn Future<Output = Result<ArrowBufMut, WaitError>> + Send>>;

fn root(limit: usize) -> RootAllocator {
    let builder = RootAllocator::builder().limit(limit).own_timer(true);
    builder.build().unwrap()
}

fn waits(allocator: &BufferAllocator) -> Waits {
    Box::pin(allocator.wait().buffer_async(64))
}

/// Passes the patience, again and again.
struct Clock(Instant);
impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn stuck(&mut self, root: &RootAllocator) {
        self.0 += Duration::from_secs(2);
        assert!(root.expire_waits(self.0).is_some(), "requests wait");
    }
}

/// A regression: a task that was polled in a reclaimer's callback, where nobody asks, did not ask later either.
#[test]
fn a_task_that_is_polled_in_a_callback_asks_when_it_is_polled_outside() {
    let root = root(1000);
    let query = child(&root, "query");
    let waiting = Arc::new(Mutex::new(waits(&query)));
    let woken = Arc::new(Woken::default());
    let polls = child(&root, "polls");
    let some = polls.wait().reserve(100).unwrap();
    let (inside, waker) = (Arc::clone(&waiting), Arc::clone(&woken));
    let guard = polls.on_shortage(
        Cost::Drop,
        Asked(move |_ask| {
            if let Ok(mut waiting) = inside.try_lock() {
                assert!(poll(waiting.as_mut(), &waker).is_pending());
            }
        }),
    );
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(900).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Spill);
    let outside = || poll(waiting.lock().unwrap().as_mut(), &woken).is_pending();
    assert!(outside());
    drop(inbox.try_ask().unwrap());
    Clock::start().stuck(&root);
    assert_eq!(woken.count(), 1, "it is to ask");
    for _ in 0..4 {
        let _ = root.reclaim(1);
        drop(inbox.try_ask());
    }

    assert!(outside());

    let ask = inbox.try_ask().expect("it asks now");
    assert_eq!(&*ask.requester().name, "query");
    drop((ask, inbox, held, some, guard, waiting));
    drop((query, sort, polls));
    balanced(&root);
}

/// A regression: where a level had none left to be looked at, `expire_waits` said that nobody waits.
#[test]
fn a_waiter_that_has_moved_to_another_level_is_looked_at_again() {
    let root = root(1000);
    let held = child(&root, "held").wait().reserve(1000).unwrap();
    let query = root.child("query").limit(600).build().unwrap();
    let mut scan = Box::pin(query.wait().buffer_async(512));
    let woken = Arc::new(Woken::default());
    assert!(poll(scan.as_mut(), &woken).is_pending());
    let mut forced = query.child("forced").build().unwrap().new_reservation();
    forced.force_add(200);

    let mut clock = Clock::start();
    clock.stuck(&root);
    clock.stuck(&root);

    let _ = poll(scan.as_mut(), &woken);
    drop((scan, forced, held, query));
    balanced(&root);
}

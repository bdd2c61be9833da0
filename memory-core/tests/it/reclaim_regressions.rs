//! Mistakes that asking others for memory was found to have, each with its story.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use arrow_memory_core::testing::locks_held;
use arrow_memory_core::{AllocationListener, Ask, Cost, Reclaim, ReclaimInbox, RootAllocator};

use crate::reclaim::{Asked, Cache, LONG, Log, asked, balanced, child};

/// A regression: the listener's mark, under which nobody asks, lasted from its first callback to its second.
#[test]
fn a_buffer_asks_also_where_a_listener_hears_of_it() {
    struct Hears;
    impl AllocationListener for Hears {}
    let root = RootAllocator::builder()
        .limit(1024)
        .listener(Arc::new(Hears))
        .build()
        .unwrap();
    let log = Log::default();
    let cache = Cache::new(child(&root, "cache"), Cost::Drop, 1024, &log);
    let query = child(&root, "query");

    assert!(query.buffer(512).is_ok());

    drop((cache, query));
    balanced(&root);
}

/// A regression: what a reclaimer promised was expected of it although it had answered, so the next was not asked.
#[test]
fn who_promises_much_and_frees_nothing_does_not_keep_others_from_being_asked() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let liar = child(&root, "liar");
    let held = liar.wait().reserve(500).unwrap();
    let guard = liar.on_shortage(Cost::Drop, Asked(drop));
    let cache = Cache::new(child(&root, "cache"), Cost::Spill, 500, &log);
    let query = child(&root, "query");

    let buffer = query.wait().at_most(LONG).buffer(64).unwrap();

    assert!(cache.is_empty());
    drop((buffer, held, guard, cache, liar, query));
    balanced(&root);
}

/// A regression: shares were taken when an ask was made, so four that were never read ended all spilling.
#[test]
fn asks_that_nobody_reads_hold_no_share_of_the_spill_reserve() {
    let root = RootAllocator::builder()
        .limit(1 << 20)
        .spill_reserve(64 << 10)
        .build()
        .unwrap();
    let sorts: Vec<_> = (0..6)
        .map(|at| child(&root, &format!("sort {at}")))
        .collect();
    let held: Vec<_> = sorts
        .iter()
        .map(|sort| sort.wait().reserve(160 << 10).unwrap())
        .collect();
    let inboxes: Vec<_> = sorts
        .iter()
        .map(|sort| sort.reclaim_inbox(Cost::Spill))
        .collect();
    let query = child(&root, "query");
    assert!(query.buffer(64).is_err());

    let ask = inboxes[5].try_ask().unwrap();

    assert!(ask.memory().is_some());
    drop((ask, held, inboxes, sorts, query));
    balanced(&root);
}

/// A regression: lowering the reservation of a share gave its part of the limit away.
#[test]
fn a_share_of_the_spill_reserve_keeps_its_reservation() {
    let root = RootAllocator::builder()
        .limit(1 << 20)
        .spill_reserve(64 << 10)
        .build()
        .unwrap();
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(960 << 10).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Spill);
    assert_eq!(root.reclaim(1), 0);
    let ask = inbox.try_ask().unwrap();

    ask.memory().unwrap().set_reservation(0).unwrap();
    assert!(child(&root, "other").buffer(16 << 10).is_err());
    drop(ask);

    root.verify().unwrap();
    drop((held, inbox, sort));
    balanced(&root);
}

/// A regression: a buffer that grows tries twice its capacity first, and a cache was dropped for that.
#[test]
fn nobody_is_asked_for_what_is_tried_and_not_needed() {
    let (root, log) = (RootAllocator::new(1024), Log::default());
    let cache = Cache::new(child(&root, "cache"), Cost::Drop, 512, &log);
    let query = child(&root, "query");
    let mut buffer = query.buffer_zeroed(320).unwrap();

    buffer.try_reserve(64).unwrap();

    assert_eq!((buffer.capacity(), asked(&log).len()), (384, 0));
    drop((buffer, cache, query));
    balanced(&root);
}

/// A regression: a request that had found a registration before its guard was dropped called it afterwards.
#[test]
fn no_call_begins_once_the_guard_is_dropped() {
    struct Counts(Arc<AtomicUsize>);
    impl Reclaim for Counts {
        fn reclaimable(&self) -> usize {
            self.0.fetch_add(1, Ordering::Relaxed);
            400
        }
        fn reclaim(&self, _ask: Ask) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for waits in [false, true] {
        let root = RootAllocator::new(1000);
        let (first, second) = (child(&root, "first"), child(&root, "second"));
        let held = (first.wait().reserve(600), second.wait().reserve(400));
        let calls = Arc::new(AtomicUsize::new(0));
        let guard = second.on_shortage(Cost::Drop, Counts(Arc::clone(&calls)));
        let guard = Mutex::new(Some(guard));
        let drops = first.on_shortage(
            Cost::Drop,
            Asked(move |_ask| drop(guard.lock().unwrap().take())),
        );
        let query = child(&root, "query");

        let refused = if waits {
            query.wait().at_most(Duration::ZERO).buffer(64).is_err()
        } else {
            query.buffer(64).is_err()
        };

        assert!(refused);
        assert_eq!(calls.load(Ordering::Relaxed), 0, "{waits}");
        drop((held, drops, first, second, query));
        balanced(&root);
    }
}

/// A regression: an inbox with an ask that found all shares of the spill reserve taken slept on when one was returned.
#[test]
fn an_inbox_is_woken_when_a_share_of_the_spill_reserve_is_free() {
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            assert_eq!(locks_held(), 0);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let root = RootAllocator::builder()
        .limit(1 << 20)
        .spill_reserve(64 << 10)
        .build()
        .unwrap();
    let sorts: Vec<_> = (0..7)
        .map(|at| child(&root, &format!("sort {at}")))
        .collect();
    let held: Vec<_> = sorts
        .iter()
        .map(|sort| sort.wait().reserve(137 << 10).unwrap())
        .collect();
    let mut inboxes: Vec<_> = sorts
        .iter()
        .map(|sort| sort.reclaim_inbox(Cost::Spill))
        .collect();
    assert_eq!(root.reclaim(1), 0);
    let mut asks: Vec<_> = inboxes[..4]
        .iter()
        .map(|inbox| inbox.try_ask().unwrap())
        .collect();
    let woken = [(); 3].map(|()| Arc::new(Woken::default()));
    let poll = |inbox: &ReclaimInbox, at: usize| {
        let waker = Waker::from(Arc::clone(&woken[at]));
        inbox.poll_ask(&mut Context::from_waker(&waker))
    };
    let count = || [0, 1, 2].map(|at: usize| woken[at].0.load(Ordering::Relaxed));
    for at in 0..3 {
        assert!(poll(&inboxes[4 + at], at).is_pending());
        assert!(poll(&inboxes[4 + at], at).is_pending());
    }
    drop(inboxes.remove(5)); // it waits no more
    assert_eq!(count(), [0; 3]);

    // A share is returned once nothing uses it any more.
    let memory = asks[0].memory().unwrap().clone();
    let page = memory.buffer(64).unwrap();
    drop((asks.remove(0), memory));
    assert_eq!(count(), [0; 3]);
    drop(page);

    assert_eq!(count(), [1, 0, 1]);
    let Poll::Ready(ask) = poll(&inboxes[5], 2) else {
        panic!("a share is free");
    };
    assert!(ask.memory().is_some());
    assert!(poll(&inboxes[4], 0).is_pending(), "it is taken again");
    drop(ask);
    assert_eq!(count(), [2, 0, 1]);
    drop((asks, held, inboxes, sorts));
    assert_eq!(count(), [2, 0, 1]);
    balanced(&root);
}

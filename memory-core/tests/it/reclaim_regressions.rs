//! Mistakes that asking others for memory was found to have, each with its story.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::testing::locks_held;
use arrow_memory_core::{
    AllocationListener, Ask, Cost, Reclaim, ReclaimInbox, RootAllocator, WaitError,
};

use crate::reclaim::{Asked, Cache, LONG, Log, asked, balanced, child};

/// How often it was woken, with no lock held.
#[derive(Default)]
struct Woken(AtomicUsize);
impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        assert_eq!(locks_held(), 0);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

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

/// A regression: where a level was stuck the timer's thread called reclaimers, and a slow one delayed all deadlines.
#[test]
fn a_slow_reclaimer_delays_no_deadlines() {
    let root = RootAllocator::builder()
        .limit(1000)
        .patience(Duration::from_millis(5))
        .build()
        .unwrap();
    let slow = child(&root, "slow");
    let held = slow.wait().reserve(1000).unwrap();
    let (entered, enters) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let left = Mutex::new(left);
    let calls = AtomicUsize::new(0);
    let guard = slow.on_shortage(
        Cost::Drop,
        Asked(move |_ask| {
            if calls.fetch_add(1, Ordering::Relaxed) > 0 {
                let name = thread::current().name().map(str::to_owned);
                let _ = entered.send(name);
                let _ = left.lock().unwrap().recv();
            }
        }),
    );
    let query = child(&root, "query");
    let waits = thread::Builder::new()
        .name("query".to_owned())
        .spawn(move || query.wait().at_most(10 * LONG).buffer(64).is_ok());

    let name = enters.recv_timeout(LONG).unwrap();
    let other = RootAllocator::new(64);
    let full = other.buffer(64).unwrap();
    let (wake, woken) = mpsc::channel();
    struct Sends(mpsc::Sender<()>);
    impl Wake for Sends {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    let waker = Waker::from(Arc::new(Sends(wake)));
    let deadline = other.wait().at_most(Duration::from_millis(20));
    let mut future = Box::pin(deadline.buffer_async(64));
    let mut poll = || future.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    let in_time = woken.recv_timeout(LONG / 6).is_ok();
    drop((leave, held)); // the reclaimer returns, and the query is granted

    assert!(in_time, "woken at the deadline although a reclaimer blocks");
    assert_eq!(
        name.as_deref(),
        Some("query"),
        "the waiter's own thread asks"
    );
    assert!(matches!(poll(), Poll::Ready(Err(WaitError::TimedOut(_)))));
    assert!(waits.unwrap().join().unwrap());
    drop((future, full, guard, slow));
    balanced(&root);
    balanced(&other);
}

/// A future that nobody polls does not keep others of its level from asking.
#[test]
fn the_next_waiter_asks_where_the_oldest_is_not_polled() {
    let root = RootAllocator::builder()
        .limit(1000)
        .own_timer(true)
        .build()
        .unwrap();
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    let query = child(&root, "query");
    let mut waits = [64, 64].map(|bytes| Box::pin(query.wait().buffer_async(bytes)));
    let woken = [(); 2].map(|()| Arc::new(Woken::default()));
    let count = || [0, 1].map(|at: usize| woken[at].0.load(Ordering::Relaxed));
    for at in 0..2 {
        let waker = Waker::from(Arc::clone(&woken[at]));
        let polled = waits[at].as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    drop(inbox.try_ask().unwrap()); // frees nothing
    let mut now = Instant::now();
    let mut stuck = || {
        now += Duration::from_secs(2);
        let _ = root.expire_waits(now);
        count()
    };

    assert_eq!(stuck(), [1, 0], "the oldest is to ask");
    assert_eq!(stuck(), [1, 1], "it has not looked, so the next one is");
    assert!(inbox.try_ask().is_none());
    let waker = Waker::from(Arc::clone(&woken[1]));
    let polled = waits[1].as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());

    let ask = inbox.try_ask().expect("asked again");
    drop((held, ask));
    assert_eq!(
        count(),
        [1, 2],
        "both are granted; the oldest was woken already"
    );
    drop((waits, inbox, query, sort));
    balanced(&root);
}

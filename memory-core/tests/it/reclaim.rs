//! Asking others for memory.

use std::future::Future;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocationReservation, Ask, BufferAllocator, Cost, Reclaim, ReclaimGuard, RootAllocator,
    WaitError,
};
use arrow_memory_system as _;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Does what its function says.
pub(crate) struct Asked<F>(pub(crate) F);

impl<F: Fn(Ask) + Send + Sync> Reclaim for Asked<F> {
    fn reclaimable(&self) -> usize {
        usize::MAX
    }

    fn reclaim(&self, ask: Ask) {
        (self.0)(ask);
    }
}

/// The names of those that were asked, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// Holds memory, and drops it when it is asked.
pub(crate) struct Cache {
    allocator: BufferAllocator,
    held: Arc<Mutex<Option<AllocationReservation>>>,
    _guard: ReclaimGuard,
}

impl Cache {
    pub(crate) fn new(allocator: BufferAllocator, cost: Cost, bytes: usize, log: &Log) -> Self {
        let held = allocator.wait().at_most(Duration::ZERO).reserve(bytes);
        let held = Arc::new(Mutex::new(Some(held.unwrap())));
        let (drops, log, name) = (
            Arc::clone(&held),
            Arc::clone(log),
            allocator.name().to_owned(),
        );
        let guard = allocator.on_shortage(
            cost,
            Asked(move |_ask| {
                log.lock().unwrap().push(name.clone());
                let dropped = drops.try_lock().map(|mut held| held.take());
                drop(dropped);
            }),
        );
        Self {
            allocator,
            held,
            _guard: guard,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.lock().unwrap().is_none()
    }
}

pub(crate) fn asked(log: &Log) -> Vec<String> {
    mem::take(&mut *log.lock().unwrap())
}

pub(crate) fn child(root: &BufferAllocator, name: &str) -> BufferAllocator {
    root.child(name).build().unwrap()
}

pub(crate) fn balanced(root: &RootAllocator) {
    root.verify().unwrap();
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn every_kind_of_request_asks_before_it_is_refused() {
    type Request = fn(&BufferAllocator) -> bool;
    let requests: [(&str, Request); 6] = [
        ("buffer", |query| query.buffer(512).is_ok()),
        ("reservation", |query| {
            query.new_reservation().add(512).is_ok()
        }),
        ("bytes", |query| {
            let fits = query.allocate_bytes(512).is_ok();
            query.release_bytes(512);
            fits
        }),
        ("child", |query| {
            query.child("scan").reservation(512).build().is_ok()
        }),
        ("growth", |query| {
            let mut buffer = query.buffer(0).unwrap();
            buffer.try_reserve(512).is_ok()
        }),
        ("wait", |query| {
            query.wait().at_most(LONG).buffer(512).is_ok()
        }),
    ];
    for (name, request) in requests {
        let (root, log) = (RootAllocator::new(1024), Log::default());
        let cache = Cache::new(child(&root, "cache"), Cost::Drop, 1024, &log);
        let query = child(&root, "query");

        assert!(request(&query), "{name}");

        assert!(cache.is_empty(), "{name}");
        assert_eq!(asked(&log), ["cache"], "{name}");
        drop((query, cache));
        balanced(&root);
    }
}

#[test]
fn those_are_asked_by_cost_then_priority_then_overuse_until_it_is_enough() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let with = |name: &str, priority, cost, bytes| {
        let allocator = root.child(name).priority(priority).build().unwrap();
        Cache::new(allocator, cost, bytes, &log)
    };
    let caches = [
        with("spills", -1, Cost::Spill, 100),
        with("later", 1, Cost::Drop, 500),
        with("small", 0, Cost::Drop, 100),
        with("large", 0, Cost::Drop, 300),
    ];
    let query = child(&root, "query");

    let held = query.wait().reserve(300).unwrap();
    assert_eq!(asked(&log), ["large"]);
    let more = query.wait().reserve(700).unwrap();
    assert_eq!(asked(&log), ["small", "later", "spills"]);

    drop((held, more, query, caches));
    balanced(&root);
}

#[test]
fn what_a_reservation_covers_and_the_requesters_own_bytes_are_not_asked_for() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let reserved = root.child("reserved").reservation(500).build().unwrap();
    let reserved = Cache::new(reserved, Cost::Drop, 500, &log);
    let own = Cache::new(child(&root, "own"), Cost::Drop, 500, &log);

    assert!(own.allocator.buffer(64).is_err());

    assert!(asked(&log).is_empty());
    drop((reserved, own));
    balanced(&root);
}

#[test]
fn only_those_below_the_level_that_lacks_room_are_asked() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let query = root.child("query").limit(256).build().unwrap();
    let elsewhere = Cache::new(child(&root, "elsewhere"), Cost::Drop, 100, &log);
    let within = query.child("within").build().unwrap();
    let within = Cache::new(within, Cost::Drop, 256, &log);

    assert!(query.child("scan").build().unwrap().buffer(64).is_ok());

    assert_eq!(asked(&log), ["within"]);
    drop((elsewhere, within, query));
    balanced(&root);
}

#[test]
fn hostile_reclaimers_change_nothing_but_who_is_asked() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let query = child(&root, "query");
    let at = |name: &str| {
        let allocator = child(&root, name);
        let held = allocator.wait().reserve(10).unwrap();
        (allocator, held)
    };
    let (lies, _held0) = at("lies");
    let lies = lies.on_shortage(Cost::Drop, Asked(drop));
    let (panics, _held1) = at("panics");
    struct Panics;
    impl Reclaim for Panics {
        fn reclaimable(&self) -> usize {
            panic!("estimate")
        }
        fn reclaim(&self, _: Ask) {
            panic!("reclaim")
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("drop")
        }
    }
    let panics = panics.on_shortage(Cost::Drop, Panics);
    let (allocates, _held2) = at("allocates");
    let needy = allocates.clone();
    let allocates = allocates.on_shortage(
        Cost::Drop,
        Asked(move |_ask| {
            assert!(needy.buffer(4096).is_err());
            let waited = needy.wait().buffer(900).unwrap_err();
            assert!(matches!(waited, WaitError::Refused(_)), "{waited}");
        }),
    );
    let (drops, _held3) = at("drops its guard");
    let slot: Arc<Mutex<Option<ReclaimGuard>>> = Arc::default();
    let own = Arc::clone(&slot);
    let guard = drops.on_shortage(
        Cost::Drop,
        Asked(move |_ask| drop(own.lock().unwrap().take())),
    );
    *slot.lock().unwrap() = Some(guard);
    let helps = Cache::new(child(&root, "helps"), Cost::Spill, 900, &log);

    let buffer = query.buffer(512).unwrap();

    assert!(slot.lock().unwrap().is_none() && helps.is_empty());
    drop((buffer, lies, panics, allocates, helps));
    drop((_held0, _held1, _held2, _held3, query));
    balanced(&root);
}

#[test]
fn two_caches_that_ask_each_other_do_not_wait_for_each_other() {
    let root = RootAllocator::new(1000);
    let caches = ["a", "b"].map(|name| child(&root, name));
    let held =
        [0, 1].map(|at: usize| Arc::new(Mutex::new(Some(caches[at].wait().reserve(500).unwrap()))));
    let guards = [0, 1].map(|at: usize| {
        let held = Arc::clone(&held[at]);
        caches[at].on_shortage(
            Cost::Drop,
            Asked(move |_ask| drop(held.try_lock().map(|mut held| held.take()))),
        )
    });

    // Each allocates under its own lock.
    thread::scope(|scope| {
        for at in [0, 1] {
            let (held, cache) = (&held[at], &caches[at]);
            scope.spawn(move || {
                for _ in 0..1000 {
                    let _own = held.lock().unwrap();
                    drop(cache.buffer(64));
                }
            });
        }
    });

    drop((guards, held, caches));
    balanced(&root);
}

#[test]
fn who_frees_nothing_is_left_alone_for_a_while_and_then_asked_again() {
    let root = RootAllocator::new(1000);
    let stubborn = child(&root, "stubborn");
    let held = stubborn.wait().reserve(1000).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let guard = stubborn.on_shortage(
        Cost::Drop,
        Asked(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
    );
    let query = child(&root, "query");

    let asked = (1..=200).map(|_| {
        assert!(query.buffer(64).is_err());
        count.load(Ordering::Relaxed)
    });
    let asked: Vec<usize> = asked.collect();

    // After 1, 2, 4, … 64 refusals without it.
    assert_eq!(asked[..12], [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4]);
    assert_eq!(asked[199], 9);
    drop((held, guard, query, stubborn));
    balanced(&root);
}

#[test]
fn an_inbox_is_answered_elsewhere_and_serves_who_waits() {
    let root = RootAllocator::new(1000);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    inbox.set_reclaimable(1000);
    let sorts = thread::spawn(move || {
        struct Unpark(thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let ask = loop {
            match inbox.poll_ask(&mut Context::from_waker(&waker)) {
                Poll::Ready(ask) => break ask,
                Poll::Pending => thread::park(),
            }
        };
        assert_eq!((ask.bytes(), &*ask.requester().name), (512, "query"));
        assert!(ask.may_block() && !ask.is_over());
        drop(held);
        drop(ask);
    });
    let query = child(&root, "query");

    let buffer = query.wait().at_most(LONG).buffer(512).unwrap();

    sorts.join().unwrap();
    drop((buffer, query, sort));
    balanced(&root);
}

#[test]
fn a_request_that_is_over_says_so_and_an_ask_is_dropped_with_its_inbox() {
    let root = RootAllocator::new(1000);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    let query = child(&root, "query");
    let mut waits = Box::pin(query.wait().buffer_async(512));
    let polled = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());

    let ask = inbox.try_ask().unwrap();
    assert!(!ask.is_over() && !ask.may_block());
    drop(waits);
    assert!(ask.is_over());
    drop(ask);

    assert!(query.buffer(64).is_err()); // left alone once
    assert!(query.buffer(64).is_err());
    drop(inbox); // with an ask in it
    drop((held, sort, query));
    balanced(&root);
}

#[test]
fn an_ask_that_is_out_for_longer_than_the_patience_counts_for_nothing() {
    let root = RootAllocator::builder()
        .limit(1000)
        .patience(Duration::from_millis(1))
        .build()
        .unwrap();
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    let query = child(&root, "query");
    assert!(query.buffer(64).is_err());
    let first = inbox.try_ask().unwrap();

    let began = Instant::now();
    let second = loop {
        assert!(began.elapsed() < LONG && query.buffer(64).is_err());
        if let Some(ask) = inbox.try_ask() {
            break ask;
        }
    };

    drop((first, second, held, inbox, sort, query));
    balanced(&root);
}

#[test]
fn spilling_has_memory_of_its_own_and_neither_asks_nor_waits() {
    let root = RootAllocator::builder()
        .limit(1 << 20)
        .spill_reserve(64 << 10)
        .build()
        .unwrap();
    let log = Log::default();
    let idle = Cache::new(child(&root, "idle"), Cost::Spill, 0, &log);
    let operators: Vec<_> = (0..6)
        .map(|at| child(&root, &format!("sort {at}")))
        .collect();
    let held: Vec<_> = operators
        .iter()
        .map(|sort| sort.wait().reserve(((1 << 20) - (64 << 10)) / 6).unwrap())
        .collect();
    let inboxes: Vec<_> = operators
        .iter()
        .map(|sort| sort.reclaim_inbox(Cost::Spill))
        .collect();
    let query = child(&root, "query");

    assert!(
        query.buffer(64 << 10).is_err(),
        "the reserve is for spilling"
    );
    let asks: Vec<_> = inboxes.iter().filter_map(|inbox| inbox.try_ask()).collect();

    assert_eq!(asks.len(), 4, "as many as there are shares");
    for ask in &asks {
        let memory = ask.memory().unwrap();
        let _share = memory.buffer(16 << 10).unwrap();
        let refused = memory.wait().buffer(64).unwrap_err();
        assert!(matches!(refused, WaitError::Refused(_)), "{refused}");
        let below = memory.child("writer").build().unwrap();
        assert!(matches!(
            below.wait().buffer(64),
            Err(WaitError::Refused(_))
        ));
        root.verify().unwrap();
    }
    assert!(asked(&log).is_empty());
    drop(asks);
    root.verify().unwrap();
    drop(held);
    assert!(query.buffer((1 << 20) - (64 << 10)).is_ok());
    drop((inboxes, operators, query, idle));
    balanced(&root);
}

#[test]
fn ten_thousand_registrations_come_and_go() {
    let (root, log) = (RootAllocator::new(1 << 20), Log::default());
    let caches: Vec<_> = (0..10_000)
        .map(|at| Cache::new(child(&root, &format!("cache {at}")), Cost::Drop, 100, &log))
        .collect();
    let query = child(&root, "query");

    let held = query.wait().reserve(1 << 20).unwrap();

    assert_eq!(asked(&log).len(), 10_000);
    assert!(caches.iter().all(Cache::is_empty));
    drop((held, caches));
    assert!(query.buffer(64).is_ok());
    drop(query);
    balanced(&root);
}

#[test]
fn asking_without_a_need_returns_what_came_back() {
    let (root, log) = (RootAllocator::new(1000), Log::default());
    let caches = ["a", "b", "c"].map(|name| Cache::new(child(&root, name), Cost::Drop, 100, &log));

    assert_eq!(root.reclaim(150), 200);
    assert_eq!(root.reclaim(150), 100);
    assert_eq!(root.reclaim(150), 0);

    drop(caches);
    balanced(&root);
}

#[test]
fn a_level_that_is_stuck_asks_again_before_anybody_gives_way() {
    let root = RootAllocator::builder()
        .limit(1000)
        .own_timer(true)
        .build()
        .unwrap();
    let sort = child(&root, "sort");
    let mut held = sort.wait().reserve(900).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    inbox.set_reclaimable(900);
    let query = child(&root, "query");
    let own = query.wait().reserve(100).unwrap();
    let mut waits = Box::pin(query.wait().buffer_async(512));
    let mut poll = || waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    held.shrink(100);
    drop(inbox.try_ask().unwrap()); // frees some, but not enough

    let mut now = Instant::now();
    for _ in 0..2 {
        now += Duration::from_secs(2);
        let _ = root.expire_waits(now);
    }
    assert!(poll().is_pending());
    let ask = inbox.try_ask().expect("asked again");
    drop((held, ask));

    assert!(matches!(poll(), Poll::Ready(Ok(_))));
    drop((waits, own, inbox, query, sort));
    balanced(&root);
}

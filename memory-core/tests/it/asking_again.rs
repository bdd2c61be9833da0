//! Requests that wait and ask others again: whose turn it is, and who gives way meanwhile; and what an ask says of who
//! asks.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocationListener, AllocationOutcome, AllocatorInfo, ArrowBufMut, Ask, BufferAllocator, Cost,
    RootAllocator, WaitError,
};

use crate::reclaim::{Asked, Cache, LONG, Log, asked, balanced, child};
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

/// A regression: an admission asked only once, and waited for ever for one who promised and gave nothing.
#[test]
fn an_admission_asks_again_those_who_were_not_asked_before() {
    let (root, log) = (root(1000), Log::default());
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(500).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    inbox.set_reclaimable(500);
    let cache = Cache::new(child(&root, "cache"), Cost::Spill, 500, &log);
    let woken = Arc::new(Woken::default());
    let mut admitted = Box::pin(root.admit("query").reservation(400).into_future());
    assert!(poll(admitted.as_mut(), &woken).is_pending());
    assert!(asked(&log).is_empty(), "the sort's promise is enough");

    Clock::start().stuck(&root);

    assert_eq!(woken.count(), 1, "it is to ask");
    let Poll::Ready(Ok(query)) = poll(admitted.as_mut(), &woken) else {
        panic!("the cache gives way");
    };
    assert_eq!(asked(&log), ["cache"]);
    drop((query, admitted, inbox, held, sort, cache));
    balanced(&root);
}

/// A regression: nobody looked after admissions, though others may register while they wait.
#[test]
fn an_admission_asks_those_who_register_while_it_waits() {
    let (root, log) = (root(1000), Log::default());
    let cache = child(&root, "cache");
    let held = cache.wait().reserve(500).unwrap();
    let woken = Arc::new(Woken::default());
    let mut admitted = Box::pin(root.admit("query").reservation(600).into_future());
    assert!(poll(admitted.as_mut(), &woken).is_pending());
    let mut clock = Clock::start();
    clock.stuck(&root);
    let cache = Cache::new(cache, Cost::Drop, 500, &log);
    drop(held);
    assert!(poll(admitted.as_mut(), &woken).is_pending());

    clock.stuck(&root);

    assert!(poll(admitted.as_mut(), &woken).is_ready());
    assert_eq!(asked(&log), ["cache"]);
    drop((admitted, cache));
    balanced(&root);
}

#[test]
fn nobody_gives_way_for_an_admission_nor_waits_longer_for_it() {
    let patience = Duration::from_millis(50);
    let builder = RootAllocator::builder().limit(1000).own_timer(true);
    let root = builder.patience(patience).build().unwrap();
    let computes = child(&root, "computes");
    let held = computes.wait().reserve(900).unwrap();
    let guard = computes.on_shortage(Cost::Drop, Asked(drop));
    let query = child(&root, "query");
    let own = query.wait().reserve(100).unwrap();
    let woken = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut admitted = Box::pin(root.admit("next").reservation(500).into_future());
    assert!(poll(admitted.as_mut(), &woken[0]).is_pending());
    let first = Instant::now();
    while first.elapsed() < patience / 2 {
        thread::yield_now();
    }
    let mut more = waits(&query);
    assert!(poll(more.as_mut(), &woken[1]).is_pending());
    let second = Instant::now();
    let count = || [0, 1].map(|at: usize| woken[at].count());

    for _ in 0..3 {
        // The admission is stuck, the query is not.
        let _ = root.expire_waits(first + patience);
        assert_eq!(count(), [1, 0], "the admission asks");
        assert!(poll(admitted.as_mut(), &woken[0]).is_pending());
    }
    // The query is, too: first one asks, then the query gives way.
    let _ = root.expire_waits(second + patience);
    assert_eq!(count()[0] + count()[1], 2);
    assert!(poll(admitted.as_mut(), &woken[0]).is_pending());
    assert!(poll(more.as_mut(), &woken[1]).is_pending());
    let _ = root.expire_waits(second + 2 * patience);

    let told = poll(more.as_mut(), &woken[1]);
    assert!(matches!(told, Poll::Ready(Err(WaitError::GiveWay(_)))));
    for round in 3..10 {
        let _ = root.expire_waits(second + round * patience);
        assert!(poll(admitted.as_mut(), &woken[0]).is_pending());
    }
    drop((held, own, guard, computes));
    assert!(poll(admitted.as_mut(), &woken[0]).is_ready());
    drop((admitted, more, query));
    balanced(&root);
}

/// A regression: it was always the oldest waiter of a level that asked again.
#[test]
fn the_waiters_of_a_level_ask_by_turns() {
    let root = root(1000);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(1000).unwrap();
    let guard = sort.on_shortage(Cost::Drop, Asked(drop));
    let queries = ["a", "b", "c"].map(|name| child(&root, name));
    let mut waiting = [0, 1, 2].map(|at: usize| waits(&queries[at]));
    let woken = [(); 3].map(|()| Arc::new(Woken::default()));
    let count = || [0, 1, 2].map(|at: usize| woken[at].count());
    let mut clock = Clock::start();
    let mut rounds = Vec::new();

    for _ in 0..5 {
        for at in 0..3 {
            assert!(poll(waiting[at].as_mut(), &woken[at]).is_pending());
        }
        clock.stuck(&root);
        rounds.push(count());
    }

    assert_eq!(
        rounds,
        [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1]]
    );
    drop((waiting, guard, held, sort, queries));
    balanced(&root);
}

/// A regression: the oldest waiter was the owner of all that could be given back, so that its asks helped nobody, and no
/// other waiter asked.
#[test]
fn a_waiter_whom_nobody_can_help_does_not_keep_others_from_asking() {
    let root = root(1000);
    let computes = child(&root, "computes");
    let held = computes.wait().reserve(100).unwrap();
    let sort = child(&root, "sort");
    let sorted = sort.wait().reserve(900).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    let woken = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut own = waits(&sort);
    assert!(poll(own.as_mut(), &woken[0]).is_pending());
    let query = child(&root, "query");
    let mut other = waits(&query);
    assert!(poll(other.as_mut(), &woken[1]).is_pending());
    drop(inbox.try_ask().unwrap()); // frees nothing
    let mut clock = Clock::start();

    let mut is_asked = || {
        clock.stuck(&root);
        if let Poll::Ready(told) = poll(own.as_mut(), &woken[0]) {
            let Err(WaitError::GiveWay(give_way)) = told else {
                panic!("others hold memory, too");
            };
            // It gives back nothing.
            own = Box::pin(sort.wait().after(give_way).buffer_async(64));
            assert!(poll(own.as_mut(), &woken[0]).is_pending());
        }
        assert!(poll(other.as_mut(), &woken[1]).is_pending());
        inbox.try_ask().is_some()
    };

    assert!((0..4).any(|_| is_asked()));
    drop((own, other, inbox, sorted, held, sort, query, computes));
    balanced(&root);
}

/// A regression: each waiter was told to ask before one was told to give way.
#[test]
fn waiters_that_nobody_polls_do_not_delay_that_one_gives_way() {
    let root = root(1000);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(900).unwrap();
    let guard = sort.on_shortage(Cost::Drop, Asked(drop));
    let query = child(&root, "query");
    let own = query.wait().reserve(100).unwrap();
    let woken = Arc::new(Woken::default());
    let mut waiting: Vec<_> = (0..8).map(|_| waits(&query)).collect();
    for waits in &mut waiting {
        assert!(poll(waits.as_mut(), &woken).is_pending());
    }
    let mut clock = Clock::start();

    for _ in 0..2 {
        clock.stuck(&root);
    }

    let told = poll(waiting[7].as_mut(), &woken);
    assert!(matches!(told, Poll::Ready(Err(WaitError::GiveWay(_)))));
    drop((waiting, own, guard, held, sort, query));
    balanced(&root);
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
    let inside = || {
        // It is left alone for a while each time.
        for _ in 0..70 {
            let _ = root.reclaim(1);
            drop(inbox.try_ask());
        }
    };
    let mut clock = Clock::start();
    clock.stuck(&root);
    assert_eq!(woken.count(), 1, "it is to ask");
    inside();

    assert!(outside());

    let ask = inbox.try_ask().expect("it asks now");
    assert_eq!(&*ask.requester().name, "query");
    drop(ask);
    clock.stuck(&root);
    assert_eq!(woken.count(), 2, "it is to ask again");
    inside();
    clock.stuck(&root);
    assert_eq!(woken.count(), 3, "nobody else could ask");
    drop((inbox, held, some, guard, waiting));
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

#[test]
fn an_ask_may_block_only_if_a_thread_blocks_for_the_request() {
    let root = RootAllocator::builder()
        .limit(1000)
        .patience(Duration::from_secs(3600))
        .build()
        .unwrap();
    let cache = child(&root, "cache");
    let held = Arc::new(Mutex::new(None));
    let fill = || *held.lock().unwrap() = Some(cache.wait().reserve(1000).unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (drops, notes) = (Arc::clone(&held), Arc::clone(&seen));
    let guard = cache.on_shortage(
        Cost::Drop,
        Asked(move |ask: Ask| {
            notes.lock().unwrap().push(ask.may_block());
            drop(drops.lock().unwrap().take());
        }),
    );
    let query = child(&root, "query");
    let woken = Arc::new(Woken::default());
    fill();
    drop(query.buffer(64).unwrap());
    fill();
    assert!(poll(waits(&query).as_mut(), &woken).is_ready());
    fill();
    let mut admitted = Box::pin(root.admit("a").reservation(64).into_future());
    assert!(poll(admitted.as_mut(), &woken).is_ready());
    drop(admitted);
    fill();
    assert_eq!(root.reclaim(1), 1000);
    assert_eq!(seen.lock().unwrap()[..], [false; 4]);
    fill();
    drop(query.wait().buffer(64).unwrap());
    fill();
    drop(root.admit("b").reservation(64).blocking(LONG).unwrap());

    assert_eq!(seen.lock().unwrap()[4..], [true; 2]);
    drop((guard, query, cache, held));
    balanced(&root);
}

#[test]
fn the_listener_is_asked_first_and_others_only_if_it_makes_no_room() {
    struct Makes(Log, Mutex<Option<ArrowBufMut>>);
    impl AllocationListener for Makes {
        fn hears_allocations(&self) -> bool {
            false
        }
        fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
            self.0.lock().unwrap().push("listener".to_owned());
            self.1.lock().unwrap().take().is_some()
        }
    }
    let (root, log) = (RootAllocator::new(1024), Log::default());
    let cache = Cache::new(child(&root, "cache"), Cost::Drop, 512, &log);
    let own = child(&root, "own").buffer(512).unwrap();
    let listener = Arc::new(Makes(Arc::clone(&log), Mutex::new(Some(own))));
    let query = root.child("query").listener(listener).build().unwrap();

    let first = query.buffer(512).unwrap();
    assert_eq!(asked(&log), ["listener"]);
    let second = query.buffer(512).unwrap();
    assert_eq!(asked(&log), ["listener", "cache"]);

    drop((first, second, cache, query));
    balanced(&root);
}

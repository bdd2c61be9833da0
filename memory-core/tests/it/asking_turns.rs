//! Whose turn it is to ask others once more, or to give way: each test is for a turn that never came.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, Cost, RootAllocator, WaitError};

use crate::reclaim::{Asked, child};
use crate::support::{Woken, poll};

type Waits = Pin<Box<dyn Future<Output = Result<ArrowBufMut, WaitError>> + Send>>;

const SECOND: Duration = Duration::from_secs(1);

fn root(limit: usize, patience: Duration) -> RootAllocator {
    let builder = RootAllocator::builder().limit(limit).own_timer(true);
    builder.patience(patience).build().unwrap()
}

/// A request that waits.
fn waits(allocator: &BufferAllocator, woken: &Arc<Woken>) -> Waits {
    let mut wait: Waits = Box::pin(allocator.wait().buffer_async(64));
    assert!(poll(wait.as_mut(), woken).is_pending());
    wait
}

/// Polls a request, which may be told to give way: then it begins anew. Says whether it was.
fn poll_again(wait: &mut Waits, allocator: &BufferAllocator, woken: &Arc<Woken>) -> bool {
    let Poll::Ready(told) = poll(wait.as_mut(), woken) else {
        return false;
    };
    let Err(WaitError::GiveWay(give_way)) = told else {
        panic!("{told:?}")
    };
    *wait = Box::pin(allocator.wait().after(give_way).buffer_async(64));
    assert!(poll(wait.as_mut(), woken).is_pending());
    true
}

#[test]
fn requests_that_arrive_do_not_put_off_the_turn_of_one_that_waits() {
    let root = root(1000, SECOND);
    let (sort, query) = (child(&root, "sort"), child(&root, "query"));
    let held = root.wait().reserve(100).unwrap();
    let sorted = sort.wait().reserve(900).unwrap();
    let inbox = sort.reclaim_inbox(Cost::Drop);
    let woken = Arc::default();
    // Only this one's asks reach the sort: those of the sort's own requests do not.
    let mut other = waits(&query, &woken);
    drop(inbox.try_ask().unwrap());
    let mut tasks = [(); 2].map(|()| waits(&sort, &woken));
    let (mut now, mut asks) = (Instant::now(), 0);

    for _ in 0..30 {
        for task in &mut tasks {
            poll_again(task, &sort, &woken);
        }
        assert!(poll(other.as_mut(), &woken).is_pending());
        asks += usize::from(inbox.try_ask().is_some());
        // One gives up, another one comes.
        tasks.rotate_left(1);
        tasks[1] = waits(&sort, &woken);
        now += 2 * SECOND;
        assert!(root.expire_waits(now).is_some());
    }

    assert!(asks >= 8, "{asks} asks in 30 rounds");
    drop((other, tasks, inbox, sorted, held));
}

#[test]
fn one_that_is_told_to_ask_while_nobody_is_registered_asks_who_comes() {
    let root = root(1000, SECOND);
    let (sort, query) = (child(&root, "sort"), child(&root, "query"));
    let sorted = sort.wait().reserve(890).unwrap();
    let mut trickle = sort.wait().reserve(10).unwrap();
    let own = query.wait().reserve(100).unwrap();
    let guard = sort.on_shortage(Cost::Drop, Asked(drop));
    let woken = Arc::default();
    let mut wait = waits(&query, &woken);
    let now = Instant::now() + 2 * SECOND;
    root.expire_waits(now);
    assert_eq!(woken.count(), 1);
    drop(guard);
    assert!(poll(wait.as_mut(), &woken).is_pending());
    let sorted = Mutex::new(Some(sorted));
    let cache = Asked(move |_| drop(sorted.lock().unwrap().take()));
    let guard = sort.on_shortage(Cost::Drop, cache);

    // It comes nearer, so that it is not yet its turn to give way.
    trickle.shrink(1);
    root.expire_waits(now + SECOND / 2);
    root.expire_waits(now + 2 * SECOND);

    let Poll::Ready(granted) = poll(wait.as_mut(), &woken) else {
        panic!("the cache was not asked");
    };
    drop((granted.unwrap(), guard, own, trickle));
}

#[test]
fn no_level_comes_always_too_late_to_be_told() {
    const LEVELS: usize = 30;
    let patience = Duration::from_millis(20);
    let root = root(1 << 30, patience);
    let mut all: Vec<_> = (0..LEVELS)
        .map(|_| {
            let top = root.child("query").limit(1000).build().unwrap();
            let (sort, scan) = (child(&top, "sort"), child(&top, "scan"));
            let held = (
                sort.wait().reserve(900).unwrap(),
                scan.wait().reserve(100).unwrap(),
            );
            let guard = sort.on_shortage(Cost::Drop, Asked(drop));
            let woken = Arc::default();
            let wait = waits(&scan, &woken);
            (scan, wait, woken, held, guard)
        })
        .collect();
    let begun = Instant::now();
    let mut now = begun;

    while now < begun + 20 * patience {
        let next = root.expire_waits(now).unwrap();
        for (scan, wait, woken, ..) in &mut all {
            poll_again(wait, scan, woken);
        }
        // As the timer does, which counts milliseconds: so there is time to tell one level in each.
        now = next.max(now) + Duration::from_millis(1);
    }

    let never = all.iter().filter(|(_, _, woken, ..)| woken.count() == 0);
    assert_eq!(never.count(), 0);
}

#[test]
fn one_that_moves_between_levels_gives_way() {
    let root = root(1000, SECOND);
    let sort = child(&root, "sort");
    let held = sort.wait().reserve(300).unwrap();
    let top = root.child("top").limit(700).build().unwrap();
    let (query, other) = (child(&top, "query"), child(&top, "other"));
    let own = query.wait().reserve(600).unwrap();
    let guards = [&sort, &other].map(|one| one.on_shortage(Cost::Drop, Asked(drop)));
    let mut noise = [&other, &child(&root, "fill")].map(BufferAllocator::new_reservation);
    noise[0].force_add(100);
    let woken = Arc::default();
    let mut wait = waits(&query, &woken);
    let mut now = Instant::now();

    for round in 0..20 {
        now += SECOND + Duration::from_millis(1);
        while root.expire_waits(now).is_some_and(|at| at <= now) {
            now += Duration::from_millis(1);
        }
        if poll(wait.as_mut(), &woken).is_ready() {
            drop((wait, own, held, guards, noise));
            return;
        }
        // The query's limit has room, but the root has none; or the other way round.
        noise[1 - round % 2].force_add(100);
        noise[round % 2].shrink(100);
    }
    panic!("it was never told");
}

#[test]
fn of_levels_that_are_stuck_at_each_look_one_after_the_other_is_told() {
    let root = root(1 << 30, SECOND);
    let mut all = [(); 3].map(|()| {
        let top = root.child("query").limit(1000).build().unwrap();
        let (sort, scan) = (child(&top, "sort"), child(&top, "scan"));
        let held = sort.wait().reserve(1000).unwrap();
        let guard = sort.on_shortage(Cost::Drop, Asked(drop));
        let woken = Arc::default();
        let wait = waits(&scan, &woken);
        (wait, woken, held, guard)
    });
    let mut now = Instant::now();

    for told in 1..=3 {
        now += 2 * SECOND;
        root.expire_waits(now);
        for (wait, woken, ..) in &mut all {
            assert!(poll(wait.as_mut(), woken).is_pending());
        }
        let counts = all.each_ref().map(|(_, woken, ..)| woken.count());
        assert_eq!(counts.iter().filter(|&&count| count > 0).count(), told);
    }
}

#[test]
fn a_look_at_an_admission_that_is_stuck_does_not_put_off_the_look_at_others() {
    let patience = 3600 * SECOND;
    let root = root(1000, patience);
    let computes = child(&root, "computes");
    let held = computes.wait().reserve(1000).unwrap();
    let guard = computes.on_shortage(Cost::Drop, Asked(drop));
    let woken = Arc::new(Woken::default());
    let mut admitted = Box::pin(root.admit("next").reservation(500).into_future());
    assert!(poll(admitted.as_mut(), &woken).is_pending());
    let first = Instant::now();
    while first.elapsed() < Duration::from_millis(5) {
        thread::yield_now();
    }
    let wait = waits(&computes, &Arc::default());
    let second = Instant::now();

    let next = root.expire_waits(first + patience);

    assert_eq!(woken.count(), 1, "the admission is to ask");
    assert!(next.unwrap() <= second + patience);
    drop((admitted, wait, guard, held));
}

#[test]
fn an_admission_that_is_stuck_asks_who_is_registered_at_the_next_look() {
    let root = root(1000, SECOND);
    let computes = child(&root, "computes");
    let held = computes.wait().reserve(1000).unwrap();
    let woken = Arc::new(Woken::default());
    let mut admitted = Box::pin(root.admit("next").reservation(500).into_future());
    assert!(poll(admitted.as_mut(), &woken).is_pending());
    let now = Instant::now() + 2 * SECOND;
    root.expire_waits(now);
    assert_eq!(woken.count(), 0, "nobody could be asked");
    let held = Mutex::new(Some(held));
    let drops = Asked(move |_| drop(held.lock().unwrap().take()));
    let guard = computes.on_shortage(Cost::Drop, drops);

    root.expire_waits(now + Duration::from_millis(1));

    assert_eq!(woken.count(), 1);
    assert!(poll(admitted.as_mut(), &woken).is_ready());
    drop(guard);
}

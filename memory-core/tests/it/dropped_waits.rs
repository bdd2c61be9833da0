//! Futures that wait for memory, dropped after any number of polls: nothing stays charged or queued, and the next
//! request is served.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, RootAllocator, WaitError};
use arrow_memory_system as _;

/// More polls than any future needs until it is ready.
const POLLS: usize = 5;
const LIMIT: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a future was granted what it asked for; what it was given was dropped.
type Ends = Pin<Box<dyn Future<Output = Result<(), WaitError>> + Send>>;

/// A waker that counts, and drops what it was given when it is woken or dropped.
#[derive(Default)]
struct Woken {
    count: AtomicUsize,
    drops: Mutex<Option<Ends>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(self.drops.lock().unwrap().take());
    }
}

fn poll(future: &mut Ends, woken: &Arc<Woken>) -> Poll<Result<(), WaitError>> {
    let waker = Waker::from(Arc::clone(woken));
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

/// What happens to the request between its first polls and its last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Granted,
    Closed,
    Lowered,
    TimedOut,
    GivesWay,
}

const MEANWHILE: [Meanwhile; 6] = [
    Meanwhile::Nothing,
    Meanwhile::Granted,
    Meanwhile::Closed,
    Meanwhile::Lowered,
    Meanwhile::TimedOut,
    Meanwhile::GivesWay,
];

/// How a waker is chosen for a poll.
#[derive(Clone, Copy, Debug)]
enum Wakers {
    Same,
    Changed,
}

struct Scene {
    root: RootAllocator,
    query: BufferAllocator,
    held: Option<ArrowBufMut>,
    deadline: Instant,
}

type Begin = fn(&Scene) -> Ends;

const BEGIN: [(&str, Begin); 4] = [
    ("buffer", |scene| {
        let future = scene.query.wait().until(scene.deadline).buffer_async(1024);
        Box::pin(async { future.await.map(drop) })
    }),
    ("reserve", |scene| {
        let future = scene.query.wait().until(scene.deadline).reserve_async(1024);
        Box::pin(async { future.await.map(drop) })
    }),
    ("grow", |scene| {
        let (query, deadline) = (scene.query.clone(), scene.deadline);
        let mut buffer = query.buffer(64).unwrap();
        Box::pin(async move {
            query
                .wait()
                .until(deadline)
                .grow_async(&mut buffer, 1024)
                .await
        })
    }),
    ("admit", |scene| {
        let admission = scene.query.admit("admitted").reservation(1024);
        let future = admission.until(scene.deadline).into_future();
        Box::pin(async { future.await.map(drop) })
    }),
];

/// A full root below whose query a request will wait.
fn scene() -> Scene {
    let root = RootAllocator::builder()
        .limit(LIMIT)
        .own_timer(true)
        .patience(PATIENCE)
        .build()
        .unwrap();
    let query = root.child("query").build().unwrap();
    // 64 bytes are left for the buffer that grows.
    let held = Some(query.buffer(LIMIT - 64).unwrap());
    let deadline = Instant::now() + Duration::from_secs(3600);
    Scene {
        root,
        query,
        held,
        deadline,
    }
}

impl Scene {
    fn happen(&mut self, meanwhile: Meanwhile) {
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Granted => self.held = None,
            Meanwhile::Closed => self.query.retire(),
            Meanwhile::Lowered => self.root.set_limit(100),
            Meanwhile::TimedOut => {
                self.root.expire_waits(self.deadline);
            }
            Meanwhile::GivesWay => {
                // The missing bytes are noted, and then have not fallen for long.
                self.root.expire_waits(Instant::now());
                self.root.expire_waits(Instant::now() + 2 * PATIENCE);
            }
        }
    }

    /// All is given back, and nobody waits.
    fn ends(mut self, what: &str) {
        self.root.set_limit(LIMIT);
        self.held = None;
        self.root.verify().unwrap();
        assert_eq!(self.root.allocated_memory(), 0, "{what}");
        assert!(self.root.snapshot().waiters.is_empty(), "{what}");
        drop(self.query);
        self.root.close().unwrap();
    }
}

/// Polls a future `before` times, lets something happen, polls it `after` times, and drops it.
fn play(
    begin: Begin,
    meanwhile: Meanwhile,
    wakers: Wakers,
    (before, after): (usize, usize),
    what: &str,
) {
    let mut scene = scene();
    let mut future = begin(&scene);
    let mut woken = Arc::new(Woken::default());
    let mut ready = None;
    for at in 0..before + after {
        if at == before {
            scene.happen(meanwhile);
        }
        if ready.is_some() {
            break;
        }
        if matches!(wakers, Wakers::Changed) {
            woken = Arc::default();
        }
        if let Poll::Ready(result) = poll(&mut future, &woken) {
            ready = Some(result);
        }
    }
    if after == 0 {
        scene.happen(meanwhile);
    }
    // Another request waits behind it, for as much as there is.
    let next = Arc::new(Woken::default());
    let other = scene.root.child("next").build().unwrap();
    let waits = other.wait().reserve_async(LIMIT);
    let mut waits: Ends = Box::pin(async { waits.await.map(drop) });
    // Not if the limit is too low for it by now.
    let can_wait = meanwhile != Meanwhile::Lowered;
    let pending = can_wait && poll(&mut waits, &next).is_pending();

    drop(future);
    scene.held = None;

    if pending {
        assert_eq!(next.count.load(Ordering::Relaxed), 1, "{what}");
        let served = poll(&mut waits, &next);
        assert!(matches!(served, Poll::Ready(Ok(()))), "{what}: {served:?}");
    }
    drop((waits, other));
    check_result(ready, meanwhile, before, what);
    scene.ends(what);
}

fn check_result(
    ready: Option<Result<(), WaitError>>,
    meanwhile: Meanwhile,
    before: usize,
    what: &str,
) {
    let Some(result) = ready else { return };
    let right = match meanwhile {
        Meanwhile::Granted => result.is_ok(),
        Meanwhile::Closed | Meanwhile::Lowered => matches!(result, Err(WaitError::Refused(_))),
        // A request that was not queued yet did not hear of it.
        _ if before == 0 => false,
        Meanwhile::TimedOut => matches!(result, Err(WaitError::TimedOut(_))),
        Meanwhile::GivesWay => matches!(result, Err(WaitError::GiveWay(_))),
        Meanwhile::Nothing => false,
    };
    assert!(right, "{what}: {result:?}");
}

#[test]
fn a_future_that_is_dropped_after_any_number_of_polls_leaves_nothing() {
    for (name, begin) in BEGIN {
        for meanwhile in MEANWHILE {
            for wakers in [Wakers::Same, Wakers::Changed] {
                for before in 0..POLLS {
                    for after in 0..POLLS {
                        let what = format!("{name}, {meanwhile:?}, {wakers:?}, {before}, {after}");
                        play(begin, meanwhile, wakers, (before, after), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_waker_may_drop_the_future_that_it_wakes() {
    for (name, begin) in BEGIN {
        for meanwhile in MEANWHILE {
            let what = format!("{name}, {meanwhile:?}");
            let mut scene = scene();
            let mut future = begin(&scene);
            let woken = Arc::new(Woken::default());
            assert!(poll(&mut future, &woken).is_pending(), "{what}");
            *woken.drops.lock().unwrap() = Some(future);

            scene.happen(meanwhile);

            // An admission holds nothing that it could give back.
            let goes_on = name == "admit" && meanwhile == Meanwhile::GivesWay;
            let ends = meanwhile != Meanwhile::Nothing && !goes_on;
            let count = woken.count.load(Ordering::Relaxed);
            assert_eq!(count, usize::from(ends), "{what}");
            drop(woken);
            scene.ends(&what);
        }
    }
}

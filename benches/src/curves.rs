//! How costs grow: scenarios with n of something, measured for one n after another.
//!
//! The benchmark `attack` prints the curves, and a test of the integration tests asserts that none of them is worse than
//! n log n in sum.

use std::pin::Pin;
use std::sync::Barrier;
use std::task::{Context, Waker};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBuf, Ask, BufferAllocator, Cost, Reclaim};

use crate::trees;

/// A scenario with n of something.
#[derive(Clone, Copy)]
pub struct Curve {
    /// What is measured, and what n counts.
    pub name: &'static str,
    /// The largest n for which it makes sense on a machine with 8 GiB.
    pub largest: usize,
    /// Runs it once, and returns the time of everything.
    run: fn(usize) -> Duration,
}

/// Operations of one thread in the scenarios with threads.
const OPERATIONS: usize = 1000;

/// All scenarios.
pub const CURVES: &[Curve] = &[
    curve(
        "n children, each with a buffer: created, dropped",
        100_000,
        children,
    ),
    curve(
        "n children, closed in another order",
        100_000,
        closed_children,
    ),
    curve(
        "a buffer of each of n children in turn",
        100_000,
        beside_children,
    ),
    curve(
        "a chain of n levels: created, a buffer at its end, dropped",
        10_000,
        chain,
    ),
    curve(
        "a chain of n levels with reservations",
        10_000,
        reserved_chain,
    ),
    curve(
        "a request refused by the top of n levels",
        10_000,
        refused_in_chain,
    ),
    curve(
        "n buffers alive, dropped in another order",
        1_000_000,
        buffers,
    ),
    curve(
        "n buffers shared by two allocators: n more ledgers",
        1_000_000,
        shared_buffers,
    ),
    curve("a buffer shared by n allocators", 10_000, shared_widely),
    curve(
        "n buffers moved to another allocator",
        100_000,
        moved_buffers,
    ),
    curve(
        "n reservations, dropped in another order",
        100_000,
        reservations,
    ),
    curve(
        "n requests that wait, cancelled in another order",
        100_000,
        cancelled_waits,
    ),
    curve("n requests that wait, served", 10_000, served_waits),
    curve("n caches that are asked once", 10_000, caches),
    curve(
        "n refusals beside n children that allocate",
        10_000,
        refusals,
    ),
    curve(
        "the report of a closing with n buffers, as text",
        100_000,
        report,
    ),
    curve(
        "the report of n children, as text",
        10_000,
        report_of_children,
    ),
    curve("verify with n children", 100_000, verify),
    curve(
        "n threads at once, a child each: 1,000 buffers of each",
        1_000,
        threads,
    ),
    curve(
        "n threads at once on one allocator: 1,000 buffers of each",
        1_000,
        one_allocator,
    ),
];

const fn curve(name: &'static str, largest: usize, run: fn(usize) -> Duration) -> Curve {
    Curve { name, largest, run }
}

impl Curve {
    /// The time of the scenario with n of something, divided by n, in nanoseconds: the minimum of some runs.
    pub fn cost(&self, n: usize) -> f64 {
        let (mut least, mut total) = (Duration::MAX, Duration::ZERO);
        let mut runs = 0;
        while runs < 3 || (total < Duration::from_millis(100) && runs < 300) {
            let time = (self.run)(n);
            least = least.min(time);
            total += time;
            runs += 1;
            if total > Duration::from_secs(4) {
                break;
            }
        }
        least.as_secs_f64() * 1e9 / n as f64
    }
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn root() -> BufferAllocator {
    trees::root("system")
}

/// A root with a limit, in which nobody who waits is told to give way.
fn limited(limit: usize) -> BufferAllocator {
    trees::root_with("system", |builder| builder.limit(limit).own_timer(true))
}

fn child(parent: &BufferAllocator) -> BufferAllocator {
    parent.child("child").build().expect("it needs no bytes")
}

fn buffer(allocator: &BufferAllocator) -> ArrowBuf {
    allocator.buffer(64).expect("there is room").freeze()
}

/// The numbers below n in another order.
fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    // A prime that divides no power of ten.
    (0..n).map(move |index| (index * 7919 + n / 3) % n)
}

/// Drops the values in another order.
fn drop_shuffled<T>(values: Vec<T>) {
    let count = values.len();
    let mut values: Vec<Option<T>> = values.into_iter().map(Some).collect();
    for index in shuffled(count) {
        values[index] = None;
    }
}

fn many_children(root: &BufferAllocator, n: usize) -> Vec<BufferAllocator> {
    (0..n).map(|_| child(root)).collect()
}

fn levels(root: &BufferAllocator, n: usize, reservation: usize) -> Vec<BufferAllocator> {
    let mut chain: Vec<BufferAllocator> = Vec::with_capacity(n);
    for _ in 0..n {
        let above = chain.last().unwrap_or(root);
        let level = above.child("level").reservation(reservation).build();
        chain.push(level.expect("there is room"));
    }
    chain
}

fn children(n: usize) -> Duration {
    let root = root();
    time(|| {
        let children = many_children(&root, n);
        let buffers: Vec<_> = children.iter().map(buffer).collect();
        drop(children);
        drop(buffers);
    })
}

fn closed_children(n: usize) -> Duration {
    let root = root();
    time(|| {
        let children = many_children(&root, n);
        for index in shuffled(n) {
            children[index].close().expect("it is empty");
        }
    })
}

fn beside_children(n: usize) -> Duration {
    let root = root();
    let children = many_children(&root, n);
    time(|| {
        for index in shuffled(n) {
            drop(buffer(&children[index]));
        }
    })
}

fn chain(n: usize) -> Duration {
    let root = root();
    time(|| {
        let chain = levels(&root, n, 0);
        drop(buffer(&chain[n - 1]));
        drop(chain);
    })
}

fn reserved_chain(n: usize) -> Duration {
    let root = root();
    time(|| drop(levels(&root, n, 64)))
}

fn refused_in_chain(n: usize) -> Duration {
    let root = limited(1 << 20);
    let chain = levels(&root, n, 0);
    time(|| assert!(chain[n - 1].buffer(2 << 20).is_err()))
}

fn buffers(n: usize) -> Duration {
    let root = root();
    time(|| drop_shuffled((0..n).map(|_| buffer(&root)).collect()))
}

fn shared_buffers(n: usize) -> Duration {
    let root = root();
    let other = child(&root);
    let held: Vec<_> = (0..n).map(|_| buffer(&root)).collect();
    time(|| {
        let share = |held: &ArrowBuf| held.retain_in(&other).expect("it is open");
        drop_shuffled(held.iter().map(share).collect());
    })
}

fn shared_widely(n: usize) -> Duration {
    let root = root();
    let children = many_children(&root, n);
    let held = buffer(&root);
    time(|| {
        let share = |child| held.retain_in(child).expect("it is open");
        drop_shuffled(children.iter().map(share).collect());
    })
}

fn moved_buffers(n: usize) -> Duration {
    let root = root();
    let (from, to) = (child(&root), child(&root));
    let held: Vec<_> = (0..n).map(|_| buffer(&from)).collect();
    time(|| {
        for buffer in held {
            drop(buffer.transfer_ownership(&to).expect("it is open"));
        }
    })
}

fn reservations(n: usize) -> Duration {
    let root = root();
    time(|| {
        let reserve = |_| {
            let mut reservation = root.new_reservation();
            reservation.add(64).expect("there is room");
            reservation
        };
        drop_shuffled((0..n).map(reserve).collect());
    })
}

type Waits = Vec<Pin<Box<dyn Future<Output = bool>>>>;

/// Bytes of a request that waits.
const PAGE: usize = 4096;

/// Requests that wait for a page of a root that is full.
fn waits(root: &BufferAllocator, n: usize) -> Waits {
    let mut waits: Waits = Vec::with_capacity(n);
    for _ in 0..n {
        let reservation = root.wait().reserve_async(PAGE);
        let mut wait: Pin<Box<dyn Future<Output = bool>>> =
            Box::pin(async { reservation.await.is_ok() });
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        waits.push(wait);
    }
    waits
}

fn cancelled_waits(n: usize) -> Duration {
    let root = limited(PAGE * n);
    let held = root.buffer(PAGE * n).expect("there is room");
    let time = time(|| drop_shuffled(waits(&root, n)));
    drop(held);
    time
}

fn served_waits(n: usize) -> Duration {
    let root = limited(PAGE * n);
    let page = |_| root.buffer(PAGE).expect("there is room");
    let held: Vec<_> = (0..n).map(page).collect();
    let waits = waits(&root, n);
    time(|| {
        drop(held);
        for mut wait in waits {
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_ready());
        }
    })
}

/// A cache that has nothing.
struct Empty;

impl Reclaim for Empty {
    fn reclaimable(&self) -> usize {
        64
    }

    fn reclaim(&self, _ask: Ask) {}
}

fn caches(n: usize) -> Duration {
    let root = root();
    let register = |child: &BufferAllocator| child.on_shortage(Cost::Drop, Empty);
    let children = many_children(&root, n);
    let guards: Vec<_> = children.iter().map(register).collect();
    let time = time(|| assert_eq!(root.reclaim(1 << 20), 0));
    drop(guards);
    time
}

fn refusals(n: usize) -> Duration {
    let root = limited(1 << 30);
    let children = many_children(&root, n);
    let greedy = child(&root);
    time(|| {
        for index in shuffled(n) {
            assert!(greedy.buffer(2 << 30).is_err());
            drop(buffer(&children[index]));
        }
    })
}

fn report(n: usize) -> Duration {
    let root = root();
    let child = child(&root);
    let held: Vec<_> = (0..n).map(|_| buffer(&child)).collect();
    let time = time(|| {
        let report = child.close().expect_err("there are buffers");
        assert_eq!(
            (report.buffers(), report.to_string().is_empty()),
            (n, false)
        );
    });
    drop(held);
    time
}

fn report_of_children(n: usize) -> Duration {
    let root = root();
    let children = many_children(&root, n);
    let time = time(|| assert!(root.report().to_string().len() > n));
    drop(children);
    time
}

fn verify(n: usize) -> Duration {
    let root = root();
    let children = many_children(&root, n);
    let time = time(|| assert_eq!(root.verify(), Ok(())));
    drop(children);
    time
}

fn threads(n: usize) -> Duration {
    let root = root();
    with_threads(n, || child(&root))
}

fn one_allocator(n: usize) -> Duration {
    let root = root();
    with_threads(n, || root.clone())
}

/// The time from the first operation of any of n threads to the last of all, for each operation of a thread.
fn with_threads(n: usize, allocator: impl Fn() -> BufferAllocator + Sync) -> Duration {
    let barrier = Barrier::new(n);
    let work = || {
        let allocator = allocator();
        barrier.wait();
        let began = Instant::now();
        for _ in 0..OPERATIONS {
            drop(buffer(&allocator));
        }
        (began, Instant::now())
    };
    // The threads read the clock, since this one may be the last to run again.
    let times: Vec<_> = thread::scope(|scope| {
        let start = |_| {
            let builder = thread::Builder::new().stack_size(128 << 10);
            builder.spawn_scoped(scope, work).expect("a thread starts")
        };
        let threads: Vec<_> = (0..n).map(start).collect();
        let end = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("it does not panic");
        threads.into_iter().map(end).collect()
    });
    let first = times.iter().map(|(began, _)| began).min();
    let last = times.iter().map(|(_, ended)| ended).max();
    let time = first.zip(last).map(|(first, last)| *last - *first);
    time.unwrap_or_default() / OPERATIONS as u32
}

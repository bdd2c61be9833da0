//! The cost of a thread while many others exist, and after them. This is a binary of its own and runs one
//! test at a time, since each test depends on the number of threads. It is for release builds only: the
//! times of the backends' own code mean nothing without optimisation (jemalloc and mimalloc always have it).
//!
//! Times are the minimum of many short rounds, so on a machine with other load only some rounds have to be
//! undisturbed. Each comparison is made three times, and one of them has to pass.
#![cfg(not(debug_assertions))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use arrow_memory_core::{AllocationListener, AllocatorInfo, RootAllocator, backend};
use serial_test::serial;

/// The maximum factor by which a thread may become slower than it is alone.
const ALLOWED: f64 = 1.5;

const KIB: usize = 1024;

/// Nanoseconds of one call, the minimum of many rounds of about a millisecond.
fn cost(mut work: impl FnMut()) -> f64 {
    let mut round = |calls: u32| {
        let started = Instant::now();
        (0..calls).for_each(|_| work());
        started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    round(100);
    let calls = (1e6 / round(100)).clamp(20.0, 100_000.0) as u32;
    (0..40).map(|_| round(calls)).fold(f64::MAX, f64::min)
}

/// Threads that have done `work` once and wait until the group is dropped.
struct Group {
    all_there: Arc<Barrier>,
    threads: Vec<JoinHandle<()>>,
}

impl Group {
    fn new(count: usize, work: impl Fn() + Send + Sync + 'static) -> Self {
        let work = Arc::new(work);
        let all_there = Arc::new(Barrier::new(count + 1));
        let threads = (0..count).map(|_| {
            let (work, all_there) = (Arc::clone(&work), Arc::clone(&all_there));
            let thread = thread::Builder::new().stack_size(64 * KIB);
            let thread = thread.spawn(move || {
                work();
                all_there.wait();
                all_there.wait();
            });
            thread.unwrap()
        });
        let threads = threads.collect();
        all_there.wait();
        Self { all_there, threads }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.all_there.wait();
        // A join also waits for the destructors of thread-locals.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn root(backend: &str) -> RootAllocator {
    let builder = RootAllocator::builder().allocation_manager(backend::manager(backend).unwrap());
    builder.build().unwrap()
}

/// The costs of buffers of three sizes on a new thread.
fn costs_of_buffers(root: &RootAllocator) -> [f64; 3] {
    thread::scope(|scope| {
        let busy = scope.spawn(|| SIZES.map(|size| cost(|| drop(root.buffer(size).unwrap()))));
        busy.join().unwrap()
    })
}

const SIZES: [usize; 3] = [64, 64 * KIB, KIB * KIB];

/// A regression: 128 threads had their own place each, and all others shared one. A thread that started after
/// 200 idle ones paid 17 times as much for 64 KiB of jemalloc's.
fn a_busy_thread_pays_the_same_beside_500_idle_ones(backend: &str) {
    let root = root(backend);
    let tries = (0..3).map(|_| {
        let alone = costs_of_buffers(&root);
        let idle = root.clone();
        let _idle = Group::new(500, move || drop(idle.buffer(64).unwrap()));
        (alone, costs_of_buffers(&root))
    });
    let tries: Vec<_> = tries
        .inspect(|(alone, beside)| {
            println!("{backend}: alone {alone:.1?} ns, beside {beside:.1?} ns")
        })
        .collect();
    for (index, size) in SIZES.into_iter().enumerate() {
        let good = |(alone, beside): &([f64; 3], [f64; 3])| beside[index] <= alone[index] * ALLOWED;
        assert!(
            tries.iter().any(good),
            "{size} bytes of {backend}: {tries:.1?} ns"
        );
    }
}

/// A listener that hears every release.
struct Hears;

impl AllocationListener for Hears {
    fn on_release(&self, _allocator: &AllocatorInfo, _bytes: usize) {}
}

/// A regression: freeing an allocator with a listener cost more for each thread that had ever existed.
#[test]
#[serial]
fn a_child_with_a_listener_costs_the_same_after_4000_threads_have_come_and_gone() {
    use arrow_memory_system as _;
    let builder = RootAllocator::builder().listener(Arc::new(Hears));
    let builder = builder.allocation_manager(backend::manager("system").unwrap());
    let root = builder.build().unwrap();
    let request = || {
        let child = root.child("request").build().unwrap();
        drop(child.buffer(64).unwrap());
    };
    let before = cost(request);

    let burst = root.clone();
    drop(Group::new(4000, move || drop(burst.buffer(64).unwrap())));

    let after = (0..3).map(|_| cost(request)).fold(f64::MAX, f64::min);
    assert!(
        after <= before * ALLOWED,
        "{after:.0} ns instead of {before:.0}"
    );
}

macro_rules! beside_idle_threads {
    ($($backend:ident: $library:ident),+) => { $(
        #[test]
        #[serial]
        fn $backend() {
            use $library as _;
            a_busy_thread_pays_the_same_beside_500_idle_ones(stringify!($backend));
        }
    )+ };
}

mod beside_500_idle_threads {
    use super::*;
    beside_idle_threads!(
        system: arrow_memory_system,
        jemalloc: arrow_memory_jemalloc,
        mimalloc: arrow_memory_mimalloc,
        arena: arrow_memory_arena
    );
}

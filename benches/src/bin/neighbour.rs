//! Measures what a client pays beside another one that the root refuses: `neighbour [rounds]`.
//!
//! The client allocates and drops buffers of 4 KiB that nobody writes to, and has no reservation. The other one holds
//! most of the root's limit and asks for more than is left, after a pause each time. Where less than an eighth of the
//! limit is free, all words stay shut between two refusals; where more is free, they are opened again.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_benches::{harness, raw, trees};
use arrow_memory_core::BufferAllocator;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;
const LIMIT: usize = 64 * MIB;
/// How many buffers are allocated and dropped in a round.
const PAIRS: u32 = 2000;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let rounds = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok());
    println!("free,pause_ns,pair_ns,refusal_ns");
    for free in [MIB, LIMIT / 4] {
        beside_refusals(free, rounds.unwrap_or(101));
    }
}

fn beside_refusals(free: usize, rounds: usize) {
    let root = trees::root("system");
    root.set_limit(LIMIT);
    let [client, greedy] = ["client", "greedy"].map(|name| {
        let child = root.child(name).build();
        child.expect("the root has room")
    });
    let measure = || median((0..rounds).map(|_| pairs(&client)).collect());
    println!("{},nobody asks,{:.0},", free / MIB, measure());
    let held = greedy.buffer(LIMIT - free).expect("it fits");
    let refused = || greedy.buffer(free + MIB).is_err();
    assert!(refused());
    println!("{},one has asked once,{:.0},", free / MIB, measure());
    for pause in [100_000, 10_000, 3000, 1000, 300, 0] {
        let (ends, refusals) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    assert!(black_box(refused()));
                    refusals.fetch_add(1, Ordering::Relaxed);
                    wait(Duration::from_nanos(pause));
                }
            });
            while refusals.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            let (began, before) = (Instant::now(), refusals.load(Ordering::Relaxed));
            let pair = measure();
            let count = refusals.load(Ordering::Relaxed) - before;
            let each = began.elapsed().as_secs_f64() * 1e9 / count.max(1) as f64;
            println!("{},{pause},{pair:.0},{each:.0}", free / MIB);
            ends.store(true, Ordering::Relaxed);
        });
    }
    drop(held);
}

/// Nanoseconds for each buffer.
fn pairs(client: &BufferAllocator) -> f64 {
    let began = Instant::now();
    for _ in 0..PAIRS {
        drop(black_box(client.buffer(4096)).expect("it fits"));
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS)
}

fn wait(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

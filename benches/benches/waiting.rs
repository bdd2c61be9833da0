//! What waiting costs: those who wait, and those beside them; against tokio's `Semaphore`.
//!
//!     cargo bench -p arrow-memory-benches --bench waiting -- [--quick] [filter]

use std::future::{Future, IntoFuture};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_benches::harness::{self, Estimate, Group, Settings};
use arrow_memory_benches::{raw, trees};
use arrow_memory_core::{AdmissionFuture, BufferAllocator};
use tokio::sync::Semaphore;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    println!("| case | |\n|---|---|");
    let groups: [(&str, harness::RunGroup); 5] = [
        ("uncontended", uncontended),
        ("hand-over", hand_over),
        ("beside admission", beside_admission),
        ("beside near", beside_near),
        ("waits by size", waits_by_size),
    ];
    harness::run_groups(&groups);
}

fn print(name: &str, estimate: Estimate, unit: &str) {
    println!("| {name} | {estimate} {unit} |");
}

/// A root over mimalloc with a limit.
fn root(limit: usize) -> BufferAllocator {
    trees::root_with("mimalloc", |builder| builder.limit(limit))
}

fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nobody waits"),
    }
}

/// Acquires and releases 4 KiB where nobody waits.
fn uncontended(settings: &Settings) {
    let root = root(64 * MIB);
    let mut reservation = root.new_reservation();
    let mut blocking = root.new_reservation();
    let semaphore = Arc::new(Semaphore::new(64 * MIB));
    let mut group = Group::new();
    group.add("add_async + shrink", || {
        now(root.wait().add_async(&mut reservation, 4 * KIB)).expect("it fits");
        reservation.shrink(4 * KIB);
    });
    group.add("add + shrink", || {
        root.wait().add(&mut blocking, 4 * KIB).expect("it fits");
        blocking.shrink(4 * KIB);
    });
    group.add("acquire_many_owned + drop", || {
        let permits = now(Arc::clone(&semaphore).acquire_many_owned(4 * KIB as u32));
        drop(black_box(permits.expect("it is open")));
    });
    group.add("buffer", || drop(black_box(root.buffer(4 * KIB))));
    group.add("wait().buffer", || {
        drop(black_box(root.wait().buffer(4 * KIB)))
    });
    let measured = group.measure(settings);
    for name in measured.names() {
        print(
            &format!("uncontended, 4 KiB: {name}"),
            measured.time(name),
            "ns",
        );
    }
    for ours in ["add_async + shrink", "add + shrink"] {
        let ratio = measured.ratio(ours, "acquire_many_owned + drop");
        print(&format!("uncontended: {ours} / semaphore"), ratio, "×");
    }
    print(
        "wait().buffer / buffer",
        measured.ratio("wait().buffer", "buffer"),
        "×",
    );
}

/// From a release in one thread to the return of another thread that blocks or polls for it.
/// How long it takes from a release until the other thread has the memory. The cases take turns, with new threads
/// each time: two threads that share a core for a while take as long as the time that the memory is held.
fn hand_over(settings: &Settings) {
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..31 {
        let [ours, blocking, theirs] = &mut samples;
        ours.push(ping_pong(settings.rounds, |side, rounds| {
            let root = side.root.clone();
            side.run(rounds, move || {
                let held = tokio_block_on(root.wait().reserve_async(MIB)).expect("no deadline");
                move || drop(held)
            })
        }));
        blocking.push(ping_pong(settings.rounds, |side, rounds| {
            let root = side.root.clone();
            side.run(rounds, move || {
                let held = root.wait().reserve(MIB).expect("no deadline");
                move || drop(held)
            })
        }));
        theirs.push(ping_pong(settings.rounds, |side, rounds| {
            let semaphore = Arc::clone(&side.semaphore);
            side.run(rounds, move || {
                let acquired = Arc::clone(&semaphore).acquire_many_owned(MIB as u32);
                let held = tokio_block_on(acquired).expect("it is open");
                move || drop(held)
            })
        }));
    }
    let [ours, blocking, theirs] = samples.map(Estimate::of);
    print("hand-over, future", ours, "ns");
    print("hand-over, blocked thread", blocking, "ns");
    print("hand-over, semaphore", theirs, "ns");
    println!(
        "| hand-over / semaphore | {:.2} ×, blocked thread {:.2} × |",
        ours.median / theirs.median,
        blocking.median / theirs.median
    );
}

/// One of two threads that hand a MiB to each other.
struct Side {
    root: BufferAllocator,
    semaphore: Arc<Semaphore>,
    released: Arc<std::sync::Mutex<Instant>>,
    samples: mpsc::Sender<f64>,
    stop: Arc<AtomicBool>,
}

impl Side {
    /// Acquires and releases until it is told to stop, and sends how long each hand-over took.
    fn run<R: FnOnce()>(&self, rounds: usize, mut acquire: impl FnMut() -> R) {
        for _ in 0..rounds {
            let release = acquire();
            let taken = self.released.lock().expect("no panic").elapsed();
            if self.samples.send(taken.as_nanos() as f64).is_err() {
                return;
            }
            // Long enough for the other side to wait.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(30) {
                std::hint::spin_loop();
            }
            *self.released.lock().expect("no panic") = Instant::now();
            release();
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // So that the other side is served, and this one waits.
            thread::yield_now();
        }
    }
}

/// The median time of a hand-over between two threads, in ns.
fn ping_pong(rounds: usize, side: impl Fn(&Side, usize) + Sync) -> f64 {
    let (samples, received) = mpsc::channel();
    let root = root(MIB);
    let semaphore = Arc::new(Semaphore::new(MIB));
    let released = Arc::new(std::sync::Mutex::new(Instant::now()));
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            let one = Side {
                root: root.clone(),
                semaphore: Arc::clone(&semaphore),
                released: Arc::clone(&released),
                samples: samples.clone(),
                stop: Arc::clone(&stop),
            };
            let side = &side;
            scope.spawn(move || side(&one, rounds));
        }
    });
    drop(samples);
    Estimate::of(received.iter().skip(10).collect()).median
}

/// Runs a future on this thread, which parks while it waits.
fn tokio_block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Admissions that wait in a full tree.
fn queue_admissions(
    root: &BufferAllocator,
    count: usize,
    bytes: usize,
) -> Vec<Pin<Box<AdmissionFuture>>> {
    let queued = (0..count).map(|number| {
        let admission = root.admit(&format!("q{number}")).reservation(bytes);
        let mut future = Box::pin(admission.into_future());
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the tree is full");
        future
    });
    queued.collect()
}

/// Buffers of 4 KiB beside queued admissions: one for half of the limit, and ten thousand.
fn beside_admission(settings: &Settings) {
    for threads in [1, 2] {
        let alone = Beside::new(0);
        let one = Beside::new(1);
        let (alone, one) = (&alone, &one);
        let ratio = in_turns(settings, threads, alone, one, churn);
        print(
            &format!("4 KiB buffers beside a queued admission / alone, {threads} threads"),
            ratio,
            "×",
        );
    }
    let (one, many) = (Beside::new(1), Beside::new(10_000));
    let ratio = in_turns(settings, 1, &one, &many, release);
    print(
        "a release of 4 MiB beside 10,000 queued admissions / beside one",
        ratio,
        "×",
    );
    let alone = Beside::new(0);
    let ratio = in_turns(settings, 1, &alone, &many, release);
    print(
        "a release of 4 MiB beside 10,000 queued admissions / alone",
        ratio,
        "×",
    );
}

/// A tree whose memory is held but for a quarter, and admissions for half of it that wait.
struct Beside {
    works: Vec<BufferAllocator>,
    _held: arrow_memory_core::AllocationReservation,
    _queued: Vec<Pin<Box<AdmissionFuture>>>,
}

impl Beside {
    fn new(admissions: usize) -> Self {
        let root = root(1024 * MIB);
        let holds = root.child("holds").build().expect("it is open");
        let held = holds.wait().reserve(768 * MIB).expect("it fits");
        let query = root.child("query").build().expect("it is open");
        let works = ["a", "b"].map(|name| query.child(name).build().expect("it is open"));
        let queued = queue_admissions(&root, admissions, 512 * MIB);
        Self {
            works: works.into(),
            _held: held,
            _queued: queued,
        }
    }
}

fn churn(allocator: &BufferAllocator) {
    drop(black_box(allocator.buffer(4 * KIB)).expect("it fits"));
}

/// A charge and a release that take the tree's mutex.
fn release(allocator: &BufferAllocator) {
    allocator.allocate_bytes(4 * MIB).expect("it fits");
    allocator.release_bytes(4 * MIB);
}

/// The time of an operation in one tree as a multiple of that in another: threads work in turns.
fn in_turns(
    settings: &Settings,
    threads: usize,
    baseline: &Beside,
    other: &Beside,
    operation: fn(&BufferAllocator),
) -> Estimate {
    let time = |beside: &Beside| {
        let begun = Instant::now();
        let done: usize = thread::scope(|scope| {
            let workers = beside.works.iter().take(threads).map(|allocator| {
                scope.spawn(move || {
                    let mut done = 0;
                    while begun.elapsed() < settings.sample * 4 {
                        for _ in 0..100 {
                            operation(allocator);
                        }
                        done += 100;
                    }
                    done
                })
            });
            let workers: Vec<_> = workers.collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .sum()
        });
        begun.elapsed().as_secs_f64() / done as f64
    };
    let ratios = (0..settings.rounds).map(|round| {
        if round % 2 == 0 {
            let base = time(baseline);
            time(other) / base
        } else {
            let other = time(other);
            other / time(baseline)
        }
    });
    Estimate::of(ratios.collect())
}

/// Buffers of 4 KiB beside a waiter that lacks little: all below its level is shut.
fn beside_near(settings: &Settings) {
    for missing in [1, 64 * KIB, MIB, 16 * MIB] {
        for threads in [1, 2] {
            let alone = Near::new(None);
            let near = Near::new(Some(missing));
            let ratio = in_turns(settings, threads, &alone.beside, &near.beside, churn);
            let name = format!(
                "4 KiB buffers beside a waiter that lacks {missing} bytes / alone, {threads} threads"
            );
            print(&name, ratio, "×");
        }
    }
}

struct Near {
    beside: Beside,
    _waiter: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Near {
    fn new(missing: Option<usize>) -> Self {
        let beside = Beside::new(0);
        let root = beside.works[0].root_allocator();
        let waiter = missing.map(|missing| {
            let waits = root.wait().reserve_async(256 * MIB + missing);
            let mut future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                drop(waits.await);
            });
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            future
        });
        Self {
            beside,
            _waiter: waiter,
        }
    }
}

/// How long requests of several sizes wait in 16 MiB while six threads want 27 MiB on average. The two take turns.
fn waits_by_size(settings: &Settings) {
    for bytes in [MIB, 4 * MIB, 12 * MIB] {
        let tree = root(16 * MIB);
        let semaphore = Arc::new(Semaphore::new(16 * MIB));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            ours.extend(waits(settings.rounds * 10, bytes, |bytes| {
                tree.wait().reserve(bytes).expect("no deadline")
            }));
            theirs.extend(waits(settings.rounds * 10, bytes, |bytes| {
                let acquired = Arc::clone(&semaphore).acquire_many_owned(bytes as u32);
                tokio_block_on(acquired).expect("it is open")
            }));
        }
        let [ours, theirs] = [ours, theirs].map(|mut taken| {
            taken.sort_by(f64::total_cmp);
            let at = |percent: usize| taken[taken.len() * percent / 100] / 1000.0;
            format!("{:.0}, {:.0}, {:.0}", at(50), at(90), at(99))
        });
        println!(
            "| wait for {} KiB under load, median, p90, p99: ours {ours}; semaphore {theirs} | µs |",
            bytes / KIB
        );
    }
}

/// How long each acquisition of one thread took, in ns, while others acquire 1 to 8 MiB and hold them.
fn waits<P>(rounds: usize, bytes: usize, acquire: impl Fn(usize) -> P + Sync) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    // All have begun when the first is measured: otherwise that is over before there is any load.
    let begin = Barrier::new(7);
    let hold = |bytes: usize| {
        let held = acquire(bytes);
        let begun = Instant::now();
        // Held while others run, as by a task that computes.
        while begun.elapsed() < Duration::from_micros(20) {
            thread::yield_now();
        }
        drop(held);
    };
    thread::scope(|scope| {
        for number in 0..6 {
            let (hold, stop, begin) = (&hold, &stop, &begin);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                begin.wait();
                while !stop.load(Ordering::Relaxed) {
                    hold(random.usize(1..=8) * MIB);
                }
            });
        }
        begin.wait();
        let taken = (0..rounds).map(|_| {
            // The others come in between, as they do where each does something else as well.
            #[expect(
                clippy::disallowed_methods,
                reason = "a pause of that length is a part of the load"
            )]
            thread::sleep(Duration::from_micros(50));
            let begun = Instant::now();
            drop(acquire(bytes));
            begun.elapsed().as_nanos() as f64
        });
        let taken = taken.collect();
        stop.store(true, Ordering::Relaxed);
        taken
    })
}

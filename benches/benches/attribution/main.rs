//! What attributing the program's heap costs, beside bare mimalloc and beside two other schemes.
//!
//!     cargo bench -p arrow-memory-benches --bench attribution -- [--quick] [filter]
//!
//! The allocators are called by hand. The program's own one is bare mimalloc, so that what the harness allocates is
//! no part of any case.
#![expect(unsafe_code, reason = "calls allocators by hand, and wraps one")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use arrow_memory_benches::harness::{self, Estimate, Group, Measured, Settings};
use arrow_memory_benches::{raw, trees};
use arrow_memory_core::BufferAllocator;
use arrow_memory_global::{Attributed, Scope};
use mimalloc::MiMalloc;

mod schemes;

use schemes::{Drift, Tail};

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

static BARE: MiMalloc = MiMalloc;
static ATTRIBUTED: Attributed<MiMalloc> = Attributed::new(MiMalloc);
static TAIL: Tail = Tail;
static DRIFT: Drift = Drift;

const KIB: usize = 1024;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let groups: [(&str, harness::RunGroup); 4] = [
        ("few live", few_live),
        ("many live", many_live),
        ("pressure", pressure),
        ("threads", threads),
    ];
    harness::run_groups(&groups);
}

/// The sizes of a case.
#[derive(Clone, Copy)]
enum Sizes {
    /// All blocks have this size.
    Of(usize),
    /// Between 512 bytes and 2.5 KiB.
    Mixed,
}

/// Blocks that are live, of which one after another is freed and replaced.
struct Live<A: GlobalAlloc + 'static> {
    allocator: &'static A,
    sizes: Sizes,
    /// Whether the block to be replaced is taken at random.
    at_random: bool,
    blocks: Vec<(*mut u8, Layout)>,
    state: u64,
    at: usize,
}

impl<A: GlobalAlloc> Live<A> {
    fn new(allocator: &'static A, sizes: Sizes, count: usize, at_random: bool) -> Self {
        let mut live = Self {
            allocator,
            sizes,
            at_random,
            blocks: Vec::with_capacity(count),
            state: 88_172_645_463_325_252,
            at: 0,
        };
        for _ in 0..count {
            let block = live.allocate();
            live.blocks.push(block);
        }
        live
    }

    #[inline]
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    #[inline]
    fn allocate(&mut self) -> (*mut u8, Layout) {
        let size = match self.sizes {
            Sizes::Of(size) => size,
            Sizes::Mixed => 512 + (self.random() >> 40) as usize % 2048,
        };
        // SAFETY: the alignment is a power of two, and the size is small.
        let layout = unsafe { Layout::from_size_align_unchecked(size, 16) };
        // SAFETY: the size is not zero.
        let block = unsafe { allocate(self.allocator, layout) };
        // SAFETY: the block has a byte; nothing here runs out of memory.
        unsafe { block.write(1) };
        (block, layout)
    }

    /// Frees one block and allocates another, `times` times.
    fn replace(&mut self, times: usize) {
        for _ in 0..times {
            let at = match self.at_random {
                true => (self.random() >> 20) as usize % self.blocks.len(),
                false => self.at,
            };
            self.at = (at + 1) % self.blocks.len();
            let (block, layout) = self.blocks[at];
            // SAFETY: the block is of this allocator, with this layout, and is replaced below.
            unsafe { free(self.allocator, block, layout) };
            self.blocks[at] = self.allocate();
        }
    }
}

/// Calls an allocator as a program calls its global one: by a function that is not inline, which the compiler makes.
///
/// # Safety
///
/// As for `alloc`.
#[inline(never)]
unsafe fn allocate<A: GlobalAlloc>(allocator: &A, layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { allocator.alloc(layout) }
}

/// # Safety
///
/// As for `dealloc`.
#[inline(never)]
unsafe fn free<A: GlobalAlloc>(allocator: &A, block: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise.
    unsafe { allocator.dealloc(block, layout) };
}

impl<A: GlobalAlloc> Drop for Live<A> {
    fn drop(&mut self) {
        for &(block, layout) in &self.blocks {
            // SAFETY: the block is of this allocator, with this layout.
            unsafe { self.allocator.dealloc(block, layout) };
        }
    }
}

/// The number of operations in a call of `run`.
const BATCH: usize = 1000;

fn allocator(name: &str) -> BufferAllocator {
    trees::root("mimalloc")
        .child(name)
        .build()
        .expect("it is unlimited")
}

/// The word of `alone`.
static WORD: AtomicU64 = AtomicU64::new(1 << 20);

// Relaxed, all: a measurement.
fn exchange(bytes: u64) {
    let word = WORD.load(Ordering::Relaxed);
    let changed = word.wrapping_add(bytes);
    let _ = WORD.compare_exchange(word, changed, Ordering::Relaxed, Ordering::Relaxed);
}

fn add(bytes: u64) {
    WORD.fetch_add(bytes, Ordering::Relaxed);
}

/// As one thread could, if no other ever wrote the word.
fn store(bytes: u64) {
    let word = WORD.load(Ordering::Relaxed);
    WORD.store(word.wrapping_add(bytes), Ordering::Relaxed);
}

/// What an allocation and its release do to the word of who pays, and nothing else.
fn alone(times: usize, take: impl Fn(u64), give: impl Fn(u64)) {
    for _ in 0..times {
        take(0_u64.wrapping_sub(black_box(1000)));
        give(black_box(1000));
    }
}

/// 300 live blocks.
fn few_live(settings: &Settings) {
    const LIVE: usize = 300;
    println!("| ns for an allocation and a release, 300 live blocks | 1,000 B | 4 KiB | mixed |");
    println!("|---|---|---|---|");
    let measured: Vec<Measured> = [Sizes::Of(1000), Sizes::Of(4 * KIB), Sizes::Mixed]
        .into_iter()
        .map(|sizes| {
            let at_random = matches!(sizes, Sizes::Mixed);
            let allocator = allocator("scope");
            let scope = Scope::new(&allocator).expect("it is open");
            let mut group = Group::new();
            let mut live = Live::new(&BARE, sizes, LIVE, at_random);
            group.add_many("mimalloc", BATCH, move || live.replace(BATCH));
            let mut live = Live::new(&ATTRIBUTED, sizes, LIVE, at_random);
            group.add_many("installed, no scope", BATCH, move || live.replace(BATCH));
            let mut live = scope.run(|| Live::new(&ATTRIBUTED, sizes, LIVE, at_random));
            group.add_many("installed, in a scope", BATCH, move || {
                scope.run(|| live.replace(BATCH))
            });
            let mut live = Live::new(&DRIFT, sizes, LIVE, at_random);
            group.add_many("thread drift (a re-creation)", BATCH, move || {
                live.replace(BATCH)
            });
            let mut live = Live::new(&TAIL, sizes, LIVE, at_random);
            group.add_many("tail (a re-creation)", BATCH, move || live.replace(BATCH));
            group.add_many("two compare-exchanges alone", BATCH, || {
                alone(BATCH, exchange, exchange);
            });
            group.add_many("an exchange and an addition alone", BATCH, || {
                alone(BATCH, exchange, add);
            });
            group.add_many("two additions alone", BATCH, || alone(BATCH, add, add));
            group.add_many("two unlocked writes alone", BATCH, || {
                alone(BATCH, store, store);
            });
            group.measure(settings)
        })
        .collect();
    for name in measured[0].names() {
        let times: Vec<String> = (measured.iter())
            .map(|measured| measured.time(name).to_string())
            .collect();
        println!("| {name} | {} |", times.join(" | "));
    }
    println!("\n| more than mimalloc, ns | 1,000 B | 4 KiB | mixed | bar for the first two |  |");
    println!("|---|---|---|---|---|---|");
    let more = |name: &str| -> Vec<Estimate> {
        (measured.iter())
            .map(|measured| measured.difference(name, "mimalloc"))
            .collect()
    };
    let installed = more("installed, no scope");
    let holds = installed[..2].iter().all(|it| it.low <= 1.0);
    row("installed, no scope", &installed, "≤ 1 ns", holds);
    let scoped = more("installed, in a scope");
    let holds = scoped[..2].iter().all(|it| it.low <= 5.0);
    row("installed, in a scope", &scoped, "≤ 5 ns", holds);
    for name in ["thread drift (a re-creation)", "tail (a re-creation)"] {
        row(name, &more(name), "", true);
    }
    println!();
}

fn row(name: &str, estimates: &[Estimate], bar: &str, holds: bool) {
    let numbers: Vec<String> = estimates.iter().map(Estimate::to_string).collect();
    let verdict = match (bar, holds) {
        ("", _) => "",
        (_, true) => "bar",
        (_, false) => "**missed**",
    };
    println!("| {name} | {} | {bar} | {verdict} |", numbers.join(" | "));
}

/// A million live blocks, of which any is replaced: most accesses miss the caches.
///
/// The sets take turns at replacing many blocks before they are measured: until then, replacements meet fresh pages, of
/// the blocks and of their labels, and would measure how the system clears them.
fn many_live(settings: &Settings) {
    const LIVE: usize = 1_000_000;
    let settings = Settings {
        rounds: settings.rounds.min(61),
        ..*settings
    };
    let allocator = allocator("scope");
    let scope = Scope::new(&allocator).expect("it is open");
    let mut group = Group::new();
    let mut live = Live::new(&BARE, Sizes::Mixed, LIVE, true);
    group.add_many("mimalloc", BATCH, move || live.replace(BATCH));
    let mut live = Live::new(&ATTRIBUTED, Sizes::Mixed, LIVE, true);
    group.add_many("installed, no scope", BATCH, move || live.replace(BATCH));
    let mut live = scope.run(|| Live::new(&ATTRIBUTED, Sizes::Mixed, LIVE, true));
    group.add_many("installed, in a scope", BATCH, move || {
        scope.run(|| live.replace(BATCH))
    });
    group.warm_up(300);
    let measured = group.measure(&settings);
    println!("| a million live blocks, one at random | ns | / mimalloc | bar | |");
    println!("|---|---|---|---|---|");
    for name in measured.names() {
        let (time, ratio) = (measured.time(name), measured.ratio(name, "mimalloc"));
        let (bar, holds) = match name.as_str() {
            "installed, in a scope" => ("≤ 1.2 ×", ratio.low <= 1.2),
            _ => ("", true),
        };
        let verdict = if bar.is_empty() {
            ""
        } else if holds {
            "bar"
        } else {
            "**missed**"
        };
        println!("| {name} | {time} | {ratio} | {bar} | {verdict} |");
    }
    println!();
}

/// Over the limit, where bytes are charged by force, and beside a request that waits at the root.
fn pressure(settings: &Settings) {
    println!("| in a scope, mixed, 300 live blocks | ns | / with room | bar | |");
    println!("|---|---|---|---|---|");
    let mut group = Group::new();
    let free = allocator("free");
    let full = allocator("full");
    full.set_limit(1000);
    let waited_for = trees::root_with("mimalloc", |builder| builder.limit(64 * KIB * KIB));
    let _waits = Waiting::new(&waited_for);
    for (name, allocator) in [
        ("with room", &free),
        ("over the limit", &full),
        ("beside a waiter", &waited_for),
    ] {
        let scope = Scope::new(allocator).expect("it is open");
        let mut live = scope.run(|| Live::new(&ATTRIBUTED, Sizes::Mixed, 300, true));
        group.add_many(name, BATCH, move || scope.run(|| live.replace(BATCH)));
    }
    let measured = group.measure(settings);
    for name in measured.names() {
        let (time, ratio) = (measured.time(name), measured.ratio(name, "with room"));
        let verdict = if ratio.low <= 2.0 {
            "bar"
        } else {
            "**missed**"
        };
        println!("| {name} | {time} | {ratio} | ≤ 2 × | {verdict} |");
    }
    println!();
}

/// A request for more than is there, which waits as long as this exists.
struct Waiting {
    #[expect(dead_code, reason = "its bytes let nobody else have them")]
    held: arrow_memory_core::ArrowBufMut,
    #[expect(dead_code, reason = "it waits until it is dropped")]
    future: std::pin::Pin<Box<dyn Future<Output = ()>>>,
}

impl Waiting {
    fn new(root: &BufferAllocator) -> Self {
        use std::future::IntoFuture;
        use std::task::{Context, Waker};
        let held = root.buffer(8 * KIB * KIB).expect("it fits");
        let waits = root.wait().buffer_async(60 * KIB * KIB).into_future();
        let mut future: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
            let _ = waits.await;
        });
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        Self { held, future }
    }
}

/// Two threads in one scope, and in a scope each, beside two threads on bare mimalloc.
fn threads(settings: &Settings) {
    println!("| two threads, mixed, 300 live blocks each | ns for an operation of a thread |");
    println!("|---|---|");
    let one = Scope::new(&allocator("one")).expect("it is open");
    let two = Scope::new(&allocator("two")).expect("it is open");
    let full = allocator("full");
    full.set_limit(1000);
    let over = Scope::new(&full).expect("it is open");
    let waited_for = trees::root_with("mimalloc", |builder| builder.limit(64 * KIB * KIB));
    let _waits = Waiting::new(&waited_for);
    let beside = Scope::new(&waited_for).expect("it is open");
    let mut rows = vec![
        ("mimalloc", Vec::new()),
        ("a scope each", Vec::new()),
        ("one scope", Vec::new()),
        ("one scope, over the limit", Vec::new()),
        ("one scope, beside a waiter", Vec::new()),
    ];
    for _ in 0..settings.rounds {
        rows[0].1.push(on_two_threads(&BARE, [None, None]));
        rows[1]
            .1
            .push(on_two_threads(&ATTRIBUTED, [Some(&one), Some(&two)]));
        rows[2]
            .1
            .push(on_two_threads(&ATTRIBUTED, [Some(&one), Some(&one)]));
        rows[3]
            .1
            .push(on_two_threads(&ATTRIBUTED, [Some(&over), Some(&over)]));
        rows[4]
            .1
            .push(on_two_threads(&ATTRIBUTED, [Some(&beside), Some(&beside)]));
    }
    for (name, times) in rows {
        println!("| {name} | {} |", Estimate::of(times));
    }
    println!();
}

fn on_two_threads<A: GlobalAlloc + Sync>(
    allocator: &'static A,
    scopes: [Option<&Scope>; 2],
) -> f64 {
    const TIMES: usize = 20_000;
    let begin = std::sync::Barrier::new(2);
    let work = |scope: Option<&Scope>| {
        let all = || {
            let mut live = Live::new(allocator, Sizes::Mixed, 300, true);
            begin.wait();
            let begun = Instant::now();
            live.replace(TIMES);
            begun.elapsed().as_nanos() as f64 / TIMES as f64
        };
        match scope {
            Some(scope) => scope.run(all),
            None => all(),
        }
    };
    thread::scope(|threads| {
        let other = threads.spawn(|| work(scopes[1]));
        let own = work(scopes[0]);
        (own + other.join().expect("it does not panic")) / 2.0
    })
}

//! The bars: each is a ratio of two cases that take turns, with its interval and its verdict.
//!
//!     cargo bench -p arrow-memory-benches --features datafusion --bench bars -- [--quick] [filter]

use std::hint::black_box;
use std::time::Duration;

use arrow_memory_benches::harness::{self, Estimate, Group, Settings};
use arrow_memory_benches::raw::{Block, Jemalloc, Library, Malloc, Mimalloc};
use arrow_memory_benches::threads::{Case, Stage};
use arrow_memory_benches::{batch, memory, pools, raw, trees};
use arrow_memory_core::{ArrowBuf, BufferAllocator};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1024;

fn main() {
    memory::run_if_asked();
    harness::start();
    raw::assert_global_is_mimalloc();
    let (settings, filter) = Settings::from_arguments();
    let mut report = Report::new();
    for (name, run) in GROUPS {
        if name.contains(&filter) {
            run(&settings, &mut report);
        }
    }
    report.end();
}

/// Measures a group of bars.
type Run = fn(&Settings, &mut Report);

/// The groups of bars, by the names that the filter selects.
const GROUPS: [(&str, Run); 9] = [
    ("allocate", allocate),
    ("extras", extras),
    ("small", small),
    ("batch", in_batches),
    ("clone slice", shared),
    ("external", external),
    ("transfer children", transfers_and_children),
    ("threads", threads),
    ("memory", live_memory),
];

fn allocate(settings: &Settings, report: &mut Report) {
    let (shallow, middle, deep) = {
        let depth = |depth| trees::at_depth("mimalloc", depth);
        (depth(1), depth(3), depth(6))
    };
    let mut group = Group::new();
    group.add("raw", || drop(black_box(Block::<Mimalloc>::new(4 * KIB))));
    group.add("arrow_buffer", arrow_buffer_pair(4 * KIB));
    group.add("depth 1", pair(&shallow, 4 * KIB));
    group.add("depth 3", pair(&middle, 4 * KIB));
    group.add("depth 6", pair(&deep, 4 * KIB));
    let measured = group.measure(settings);
    for name in measured.names() {
        report.note(&format!("4 KiB, mimalloc, {name}"), measured.time(name));
    }
    let name = "allocate + drop 4 KiB, mimalloc, depth 3 / arrow_buffer";
    report.ratio(name, measured.ratio("depth 3", "arrow_buffer"), 1.1, 0.85);
    let name = "allocate + drop 4 KiB, mimalloc, depth 3 / raw";
    report.ratio(name, measured.ratio("depth 3", "raw"), 2.0, 1.5);
    let name = "allocate + drop 4 KiB, mimalloc, depth 6 / depth 1";
    report.ratio(name, measured.ratio("depth 6", "depth 1"), 1.05, 1.0);
}

fn extras(settings: &Settings, report: &mut Report) {
    let plain = trees::at_depth("mimalloc", 3);
    let heard = trees::below(&trees::heard("mimalloc"), 2);
    let waiting = trees::below(&trees::waiting("mimalloc"), 2);
    let reserving = trees::below(&trees::root("mimalloc"), 1);
    let reserved = reserving.child("level").reservation(KIB * KIB).build();
    let reserved = reserved.expect("it is unlimited");
    let root = trees::root_with("mimalloc", |builder| builder.debug(false).statistics(false));
    let explicit = trees::below(&root, 2);
    let mut group = Group::new();
    group.add("plain", pair(&plain, 4 * KIB));
    group.add("listener that hears all", pair(&heard, 4 * KIB));
    group.add("listener for refusals", pair(&waiting, 4 * KIB));
    group.add("reservation", pair(&reserved, 4 * KIB));
    group.add("debug off", pair(&explicit, 4 * KIB));
    let measured = group.measure(settings);
    for extra in [
        "listener that hears all",
        "listener for refusals",
        "reservation",
        "debug off",
    ] {
        let name = format!("allocate + drop 4 KiB, mimalloc, {extra} / without");
        report.ratio(&name, measured.ratio(extra, "plain"), 1.1, 1.0);
    }
}

fn small(settings: &Settings, report: &mut Report) {
    fn one<L: Library>(settings: &Settings, report: &mut Report, name: &str) {
        let allocator = trees::at_depth(name, 3);
        let mut group = Group::new();
        group.add("raw", || drop(black_box(Block::<L>::new(64))));
        group.add("ours", pair(&allocator, 64));
        let measured = group.measure(settings);
        report.note(&format!("64 B, {}", L::NAME), measured.time("raw"));
        report.note(&format!("64 B, {name}, depth 3"), measured.time("ours"));
        let label = format!("allocate + drop 64 B, {name}, depth 3 − {}", L::NAME);
        report.nanoseconds(&label, measured.difference("ours", "raw"), 25.0, 15.0);
    }
    one::<Malloc>(settings, report, "system");
    one::<Mimalloc>(settings, report, "mimalloc");
    one::<Jemalloc>(settings, report, "jemalloc");
}

fn in_batches(settings: &Settings, report: &mut Report) {
    let allocator = trees::at_depth("mimalloc", 3);
    let mut group = Group::new();
    let ours = batch::operation(|size| allocator.buffer(size).expect("it fits").freeze());
    group.add_many("ours", batch::COUNT, ours);
    let theirs =
        batch::operation(|size| arrow_buffer::Buffer::from(arrow_buffer::MutableBuffer::new(size)));
    group.add_many("arrow_buffer", batch::COUNT, theirs);
    group.add_many(
        "raw",
        batch::COUNT,
        batch::operation(Block::<Mimalloc>::new),
    );
    let measured = group.measure(settings);
    for name in measured.names() {
        report.note(
            &format!("batch of 1,000, each, {name}"),
            measured.time(name),
        );
    }
    let name = "batch of 1,000 mixed buffers, shuffled frees, mimalloc / arrow_buffer";
    report.ratio(name, measured.ratio("ours", "arrow_buffer"), 1.1, 0.9);
}

fn shared(settings: &Settings, report: &mut Report) {
    let ours = zeroed(&trees::at_depth("mimalloc", 3));
    let theirs = arrow_buffer::Buffer::from(arrow_buffer::MutableBuffer::from_len_zeroed(4 * KIB));
    let mut group = Group::new();
    group.add("clone", || drop(black_box(ours.clone())));
    group.add("arrow_buffer clone", || drop(black_box(theirs.clone())));
    group.add("slice", || {
        drop(black_box(ours.slice(black_box(64)..black_box(1088))));
    });
    group.add("arrow_buffer slice", || {
        drop(black_box(
            theirs.slice_with_length(black_box(64), black_box(1024)),
        ));
    });
    let measured = group.measure(settings);
    for case in ["clone", "slice"] {
        let baseline = format!("arrow_buffer {case}");
        report.note(&format!("{case} + drop"), measured.time(case));
        report.note(
            &format!("{case} + drop, arrow_buffer"),
            measured.time(&baseline),
        );
        let name = format!("{case} + drop / arrow_buffer");
        report.ratio(&name, measured.ratio(case, &baseline), 1.0, 0.9);
    }
}

fn external(settings: &Settings, report: &mut Report) {
    let allocator = trees::at_depth("mimalloc", 6);
    let mut reservation = allocator.new_reservation();
    let mut group = Group::new();
    group.add("reservation", || {
        reservation.add(black_box(4 * KIB)).expect("it fits");
        reservation.shrink(black_box(4 * KIB));
    });
    group.add("allocate_bytes", || {
        allocator
            .allocate_bytes(black_box(4 * KIB))
            .expect("it fits");
        allocator.release_bytes(black_box(4 * KIB));
    });
    let has_greedy = pools::add_greedy(&mut group, "GreedyMemoryPool");
    let measured = group.measure(settings);
    for name in measured.names() {
        report.note(&format!("{name}, up and down"), measured.time(name));
    }
    let bars = [
        (
            "AllocationReservation add + shrink, depth 6",
            "reservation",
            0.7,
            0.5,
        ),
        (
            "allocate_bytes + release_bytes, depth 6",
            "allocate_bytes",
            1.0,
            0.8,
        ),
    ];
    for (name, case, bar, goal) in bars {
        if has_greedy {
            let name = format!("{name} / GreedyMemoryPool");
            report.ratio(&name, measured.ratio(case, "GreedyMemoryPool"), bar, goal);
        } else {
            report.skip(name, "needs the feature `datafusion`");
        }
    }
}

fn transfers_and_children(settings: &Settings, report: &mut Report) {
    let parent = trees::at_depth("mimalloc", 3);
    let pair = || (trees::below(&parent, 1), trees::below(&parent, 1));
    let (used, fresh, sharing) = (pair(), pair(), pair());
    for side in [&used.0, &used.1] {
        // This leaves credit at the allocator.
        drop(side.buffer(4 * KIB).expect("it fits"));
    }
    let shared = zeroed(&sharing.0);
    let _held =
        [&sharing.0, &sharing.1].map(|side| shared.retain_in(side).expect("it is one tree"));
    let mut group = Group::new();
    group.add("used", there_and_back(zeroed(&used.0), &used));
    group.add("fresh", there_and_back(zeroed(&fresh.0), &fresh));
    group.add("sharing", there_and_back(shared, &sharing));
    group.add("child", || {
        let child = parent.new_child_allocator(black_box("child"), 0, usize::MAX);
        child
            .expect("it is unlimited")
            .close()
            .expect("it is empty");
    });
    let measured = group.measure(settings);
    for (case, target) in [
        // Each allocator has had other buffers, and has credit left.
        ("used", ""),
        ("fresh", " that never had a buffer"),
        ("sharing", " that holds a buffer of it"),
    ] {
        let name = format!("transfer_ownership to a sibling{target} and back");
        report.nanoseconds(&name, measured.time(case), 150.0, 78.0);
    }
    report.nanoseconds(
        "child created and closed",
        measured.time("child"),
        200.0,
        120.0,
    );
}

/// Transfers a buffer to `right` and back, and drops the old handle each time.
fn there_and_back<'a>(
    buffer: ArrowBuf,
    (left, right): &'a (BufferAllocator, BufferAllocator),
) -> impl FnMut() + 'a {
    let mut held = Some(buffer);
    move || {
        for target in [right, left] {
            if let Some(before) = held.take() {
                let moved = before.transfer_ownership(target).expect("it is one tree");
                held = Some(moved.buffer);
            }
        }
    }
}

fn threads(settings: &Settings, report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    if cores < 2 {
        report.skip("two threads", "this machine has one core");
        return;
    }
    let (rounds, length) = if settings.quick {
        (21, Duration::from_millis(25))
    } else {
        (51, Duration::from_millis(60))
    };
    let stages = [Case::Raw, Case::OwnChild, Case::Shared].map(|case| Stage::new(case, 2));
    let mut scaling = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for turn in 0..stages.len() {
            let at = (turn + round) % stages.len();
            let one = stages[at].throughput(1, length);
            let two = stages[at].throughput(2, length);
            scaling[at].push(two / one);
        }
    }
    let [raw, own, shared] = scaling;
    for (name, scaling) in [
        ("raw mimalloc", &raw),
        ("own child", &own),
        ("shared", &shared),
    ] {
        let name = format!("2 threads / 1 thread, 4 KiB, {name}");
        report.note(&name, Estimate::of(scaling.clone()));
    }
    for (case, scaling, bar, goal) in [
        ("own child each", own, 0.95, 1.0),
        ("on one allocator", shared, 0.8, 0.95),
    ] {
        let against_raw = scaling.iter().zip(&raw).map(|(ours, raw)| ours / raw);
        let name = format!("two threads, {case}: scaling / raw");
        report.at_least(&name, Estimate::of(against_raw.collect()), bar, goal);
    }
}

fn live_memory(_settings: &Settings, report: &mut Report) {
    let exactly = |bytes| Estimate::of(vec![bytes]);
    for case in ["raw", "arrow_buffer"] {
        let name = format!("bytes beside 64, one million live, mimalloc, {case}");
        report.note(&name, exactly(memory::measure(case)));
    }
    let name = "bookkeeping per live 64-byte buffer, mimalloc, handle included";
    report.bytes(name, exactly(memory::measure("ours")), 144.0, 112.0);
    let name = "resident bytes more after one million children";
    report.bytes(name, exactly(memory::measure("children")), 65_536.0, 0.0);
}

/// Allocates, freezes and drops a buffer.
fn pair(allocator: &BufferAllocator, size: usize) -> impl FnMut() + '_ {
    move || {
        let buffer = allocator.buffer(black_box(size)).expect("it fits");
        drop(black_box(buffer.freeze()));
    }
}

/// Allocates, freezes and drops a buffer of `arrow_buffer`.
fn arrow_buffer_pair(size: usize) -> impl FnMut() {
    move || {
        let buffer = arrow_buffer::MutableBuffer::new(black_box(size));
        drop(black_box(arrow_buffer::Buffer::from(buffer)));
    }
}

fn zeroed(allocator: &BufferAllocator) -> ArrowBuf {
    allocator.buffer_zeroed(4 * KIB).expect("it fits").freeze()
}

/// Prints the results, and counts the bars that were missed.
struct Report {
    missed: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    fn new() -> Self {
        println!("| case | measured (95 % interval) | bar | goal | |");
        println!("|---|---|---|---|---|");
        Self {
            missed: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn ratio(&mut self, name: &str, found: Estimate, bar: f64, goal: f64) {
        self.at_most(name, found, (bar, goal), " ×");
    }

    fn nanoseconds(&mut self, name: &str, found: Estimate, bar: f64, goal: f64) {
        self.at_most(name, found, (bar, goal), " ns");
    }

    fn bytes(&mut self, name: &str, found: Estimate, bar: f64, goal: f64) {
        self.at_most(name, found, (bar, goal), " B");
    }

    fn at_most(&mut self, name: &str, found: Estimate, (bar, goal): (f64, f64), unit: &str) {
        let verdict = (found.low <= bar, found.median <= goal);
        self.line(
            name,
            found,
            &format!("≤ {bar}{unit} | {goal}{unit}"),
            verdict,
        );
    }

    fn at_least(&mut self, name: &str, found: Estimate, bar: f64, goal: f64) {
        let verdict = (found.high >= bar, found.median >= goal);
        self.line(name, found, &format!("≥ {bar} × | {goal} ×"), verdict);
    }

    fn line(&mut self, name: &str, found: Estimate, asked: &str, verdict: (bool, bool)) {
        let word = match verdict {
            (_, true) => "goal",
            (true, false) => "bar",
            (false, false) => "**missed**",
        };
        if verdict == (false, false) {
            self.missed.push(name.to_owned());
        }
        println!("| {name} | {found} | {asked} | {word} |");
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("| {name} | {why} | | | skipped |");
    }

    /// Prints a figure without a bar.
    fn note(&mut self, name: &str, found: Estimate) {
        self.notes.push(format!("| {name} | {found} |"));
    }

    fn end(self) {
        println!("\n| in ns, if not said otherwise | median (95 % interval) |\n|---|---|");
        self.notes.iter().for_each(|note| println!("{note}"));
        if self.missed.is_empty() {
            println!("\nNo bar is missed.");
        } else {
            println!("\nMissed: {}.", self.missed.join("; "));
        }
    }
}

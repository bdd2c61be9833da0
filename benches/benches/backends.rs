//! Measures the four backends and the libraries below them, by size and under load.
//!
//! Prints tables in Markdown. A time is the minimum over all rounds, since other load on the machine only
//! adds to it.
//!
//! ```sh
//! cargo bench -p arrow-memory-benches --bench backends [-- --quick] > benches/results/backends.md
//! ```

use std::collections::VecDeque;
use std::fmt::Write;
use std::hint::black_box;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_benches::harness::{self, Group, Settings};
use arrow_memory_benches::raw;
use arrow_memory_benches::sources::{Block, NAMES, Source, manager, source};
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn main() {
    if let Some(name) = argument_after("--resident") {
        return print_resident(&name);
    }
    if let Some(name) = argument_after("--lists") {
        return print_lists(&name);
    }
    harness::start();
    raw::assert_global_is_system();
    let (settings, _) = Settings::from_arguments();
    let sources = NAMES.map(|name| (name, source(name)));
    let mut text = String::new();

    heading(&mut text, "Allocate and free, ns");
    let untouched = by_size(&mut text, &settings, &sources, false);
    neighbours(&mut text, &untouched);
    heading(&mut text, "Allocate, write to each page, free, ns");
    by_size(&mut text, &settings, &sources, true);
    heading(&mut text, "Under load");
    under_load(&mut text, &settings, &sources);
    drop(sources);
    heading(
        &mut text,
        "Resident memory after a mixed load on two threads, MiB",
    );
    resident(&mut text);
    heading(
        &mut text,
        "A fixed-size-list array of three 64-bit integers, again and again",
    );
    lists(&mut text, &settings);

    println!("{}\n{text}", about(&settings));
}

/// The machine, the date and the settings of this run.
fn about(settings: &Settings) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find(|line| line.starts_with("model name"));
    format!(
        "{} run, the best of its rounds; {}, {} cores, Linux {}, commit {}, {}.",
        if settings.quick { "A quick" } else { "A full" },
        model
            .and_then(|line| line.split(": ").nth(1))
            .unwrap_or("unknown"),
        thread::available_parallelism().map_or(1, usize::from),
        said("uname", &["-r"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("date", &["-u", "+%F"]),
    )
}

type Sources = [(&'static str, Box<dyn Source>); NAMES.len()];

fn heading(text: &mut String, title: &str) {
    let _ = write!(text, "\n### {title}\n\n");
}

fn header(text: &mut String, first: &str, columns: &[&str]) {
    let _ = writeln!(text, "| {first} | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(columns.len()));
}

fn row(text: &mut String, first: &str, values: impl IntoIterator<Item = f64>) {
    let _ = write!(text, "| {first} |");
    for value in values {
        let _ = match value {
            ..100.0 => write!(text, " {value:.1} |"),
            _ => write!(text, " {value:.0} |"),
        };
    }
    text.push('\n');
}

// ---- one size at a time -------------------------------------------------------------------

fn by_size(
    text: &mut String,
    settings: &Settings,
    sources: &Sources,
    touched: bool,
) -> Vec<(usize, Vec<f64>)> {
    let doublings = (6..=26).map(|shift| 1_usize << shift);
    // Of the sizes below 4 KiB only every other one is measured, since they hardly differ.
    let sizes = doublings.filter(|size| *size >= 4 * KIB || size.ilog2().is_multiple_of(2));
    header(text, "bytes", &NAMES);
    let mut table = Vec::new();
    for size in sizes {
        let mut group = Group::new();
        for (name, source) in sources {
            group.add(*name, move || {
                let mut block = Block::new(&**source, size);
                if touched {
                    block.touch(0);
                }
            });
        }
        let measured = group.measure(&Settings {
            // Blocks whose pages fault in again take milliseconds, so they get fewer rounds.
            rounds: (settings.rounds / 3).min(2 + 200 * MIB / size).max(3),
            ..*settings
        });
        let times: Vec<f64> = NAMES.map(|name| best(measured.samples(name))).to_vec();
        row(text, &spelled(size), times.iter().copied());
        table.push((size, times));
    }
    table
}

/// Adds the maximum ratio of the times of two neighbouring sizes, from 4 KiB to 4 MiB.
fn neighbours(text: &mut String, table: &[(usize, Vec<f64>)]) {
    let range = |(size, _): &&(usize, Vec<f64>)| (4 * KIB..=4 * MIB).contains(size);
    let times: Vec<_> = table.iter().filter(range).map(|(_, times)| times).collect();
    let steps = (0..NAMES.len()).map(|source| {
        let steps = times
            .windows(2)
            .map(|pair| pair[1][source] / pair[0][source]);
        steps.fold(0.0, f64::max)
    });
    row(text, "largest step from 4 KiB to 4 MiB, ×", steps);
}

fn best(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

fn spelled(size: usize) -> String {
    match size {
        MIB.. => format!("{} MiB", size / MIB),
        KIB.. => format!("{} KiB", size / KIB),
        _ => format!("{size} B"),
    }
}

// ---- under load ---------------------------------------------------------------------------

fn under_load(text: &mut String, settings: &Settings, sources: &Sources) {
    header(text, "", &NAMES);
    let rounds = if settings.quick { 3 } else { 9 };
    let mut load = |what: &str, run: &dyn Fn(&dyn Source) -> f64| {
        let mut samples = vec![Vec::new(); NAMES.len()];
        for round in 0..rounds {
            for turn in 0..NAMES.len() {
                let at = (turn + round) % NAMES.len();
                samples[at].push(run(&*sources[at].1));
            }
        }
        row(text, what, samples.iter().map(|samples| best(samples)));
    };
    load("mixed, 64 B to 64 KiB, ns a block", &|source| {
        mixed(source, 1, 10, 20_000)
    });
    load("mixed, 64 B to 4 MiB, ns a block", &|source| {
        mixed(source, 1, 16, 4_000)
    });
    load("the same on two threads each", &|source| {
        mixed(source, 2, 16, 4_000)
    });
    for size in [4 * KIB, 64 * KIB, MIB] {
        let what = format!("producer, consumer: {}, ns a block", spelled(size));
        load(&what, &|source| handed_over(source, size));
    }
    load("growth by doubling to 1 GiB, ms", &doubling);
}

/// Holds 100 blocks of up to `64 << bits` bytes, each order of magnitude equally likely. Each step replaces a
/// random one of them by a new block, and writes to its pages.
fn mixed(source: &dyn Source, threads: u64, bits: u32, steps: u32) -> f64 {
    let work = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held: Vec<Block<'_>> = Vec::new();
        for _ in 0..steps {
            let smallest = 64 << random.u32(..bits);
            let mut block = Block::new(source, random.usize(smallest..2 * smallest));
            block.touch(0);
            if held.len() < 100 {
                held.push(block);
            } else {
                let at = random.usize(..held.len());
                held[at] = block;
            }
        }
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 1..threads {
            scope.spawn(move || work(0x9E37_79B9 + thread));
        }
        work(0x9E37_79B9);
    });
    begun.elapsed().as_nanos() as f64 / f64::from(steps)
}

/// One thread makes blocks, 64 at a time, and another thread frees them.
fn handed_over(source: &dyn Source, size: usize) -> f64 {
    const BATCH: usize = 64;
    const BATCHES: usize = 60;
    let begun = Instant::now();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<Vec<Block<'_>>>(2);
        scope.spawn(move || receiver.into_iter().for_each(drop));
        for _ in 0..BATCHES {
            let batch = (0..BATCH).map(|_| Block::new(source, size)).collect();
            sender.send(batch).expect("there is a consumer");
        }
    });
    begun.elapsed().as_nanos() as f64 / (BATCH * BATCHES) as f64
}

/// Grows one block from 64 KiB to 1 GiB, and writes to its new pages after each step.
fn doubling(source: &dyn Source) -> f64 {
    let begun = Instant::now();
    let mut size = 64 * KIB;
    let mut block = Block::new(source, size);
    block.touch(0);
    while size < 1024 * MIB {
        block.grow(2 * size);
        block.touch(size);
        size *= 2;
    }
    drop(block);
    begun.elapsed().as_secs_f64() * 1e3
}

// ---- resident memory ----------------------------------------------------------------------

/// Runs each source in a process of its own, since a source would reuse memory that another one freed.
fn resident(text: &mut String) {
    header(text, "", &NAMES);
    let lines = NAMES.map(|name| numbers(&["--resident", name]));
    for (at, what) in [
        "while 200 blocks are held",
        "when all have come back",
        "two seconds later",
        "after `release_unused`",
    ]
    .iter()
    .enumerate()
    {
        row(text, what, lines.iter().map(|line| line[at]));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what allocators give back after a while is what is measured"
)]
fn print_resident(name: &str) {
    let managed = (!name.starts_with("raw")).then(|| manager(name));
    let own;
    let source: &dyn Source = match &managed {
        Some(manager) => {
            own = arrow_memory_benches::sources::over(manager);
            &*own
        }
        None => {
            own = source(name);
            &*own
        }
    };
    let before = memory();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        // Both threads hold their blocks until memory was measured.
        let threads = [1_u64, 2].map(|thread| {
            let (ready, (go, wait)) = (sender.clone(), mpsc::channel::<()>());
            scope.spawn(move || {
                let mut held = some_mixed(source, thread);
                let _ = ready.send(());
                let _ = wait.recv();
                held.clear();
                let _ = ready.send(());
                let _ = wait.recv();
            });
            go
        });
        let all = |go: bool| {
            if go {
                threads.iter().for_each(|go| go.send(()).expect("it waits"));
            }
            (0..2).for_each(|_| receiver.recv().expect("it answers"));
            memory() - before
        };
        print!("{} ", all(false));
        print!("{} ", all(true));
        thread::sleep(Duration::from_secs(2));
        // Some allocators return memory to the system only while they are used.
        for _ in 0..1000 {
            drop(Block::new(source, 100 * KIB));
        }
        print!("{} ", memory() - before);
        if let Some(manager) = &managed {
            manager.release_unused();
        }
        println!("{}", memory() - before);
        threads.iter().for_each(|go| go.send(()).expect("it waits"));
    });
}

fn some_mixed(source: &dyn Source, seed: u64) -> VecDeque<Block<'_>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = VecDeque::new();
    for _ in 0..2000 {
        let smallest = 64 << random.u32(..16);
        let mut block = Block::new(source, random.usize(smallest..2 * smallest));
        block.touch(0);
        if held.len() == 100 {
            held.swap_remove_back(random.usize(..100));
        }
        held.push_back(block);
    }
    held
}

/// Resident memory of this process, in MiB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

// ---- the loop of the arena ----------------------------------------------------------------

/// Only trees can make lists, so the libraries are left out.
fn lists(text: &mut String, settings: &Settings) {
    let names = ["system", "jemalloc", "mimalloc", "arena"];
    header(text, "", &names);
    let arrays = if settings.quick { "100000" } else { "1000000" };
    let lines = names.map(|name| numbers(&["--lists", name, arrays]));
    for (at, what) in [
        "allocated at the end, bytes",
        "total, MB",
        "resident, MiB more",
        "ns for each array",
    ]
    .iter()
    .enumerate()
    {
        row(text, what, lines.iter().map(|line| line[at]));
    }
}

fn print_lists(name: &str) {
    const PIPELINE: usize = 16;
    harness::start();
    let arrays: u64 = std::env::args()
        .next_back()
        .and_then(|arrays| arrays.parse().ok())
        .unwrap_or(1000);
    let manager = manager(name);
    let root = RootAllocator::builder().allocation_manager(manager.clone());
    let root = root.build().expect("a manager is given");
    let mut alive: VecDeque<[ArrowBuf; 3]> = VecDeque::with_capacity(PIPELINE);
    let (total, resident) = (manager.stats().total_bytes.unwrap_or(0), memory());
    let begun = Instant::now();
    for row in 0..arrays {
        if alive.len() == PIPELINE {
            alive.pop_front();
        }
        alive.push_back(list(&root, row));
    }
    let time = begun.elapsed().as_nanos() as f64 / arrays as f64;
    let resident = memory() - resident;
    alive.clear();
    let total = manager.stats().total_bytes.unwrap_or(0) - total;
    let allocated = root.allocated_memory();
    println!("{allocated} {} {resident} {time}", total as f64 / 1e6);
}

/// The buffers of an array with one list: its values, their validity, and its own.
fn list(allocator: &BufferAllocator, row: u64) -> [ArrowBuf; 3] {
    let filled = |size, bytes: &[u8]| {
        let mut buffer = allocator.buffer(size).expect("it fits");
        buffer.extend_from_slice(bytes).expect("it fits");
        black_box(buffer.freeze())
    };
    let mut values = allocator.buffer(24).expect("it fits");
    for value in row..row + 3 {
        let appended = values.extend_from_slice(&value.to_le_bytes());
        appended.expect("there is room");
    }
    [values.freeze(), filled(1, &[0b111]), filled(1, &[1])]
}

// ---- processes ----------------------------------------------------------------------------

/// Runs this program with these arguments, and returns the numbers that it prints.
fn numbers(arguments: &[&str]) -> Vec<f64> {
    let program = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("a program can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Result<_, _> = text.split_whitespace().map(str::parse).collect();
    numbers.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn argument_after(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    arguments.next()
}

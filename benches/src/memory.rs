//! Resident memory, and what a live buffer costs of it.
//!
//! Each case runs in a process of its own, which the benchmark starts: what was freed before would
//! be used again and not show.

use std::hint::black_box;
use std::process::Command;

use crate::trees;

/// How many buffers are alive at once, or children made in a row.
const COUNT: usize = 1_000_000;

/// The argument that makes a benchmark run one case and print a number.
const ARGUMENT: &str = "--memory";

/// If the arguments ask for a case of this module, runs it; the process ends then.
pub fn run_if_asked() {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    if arguments.next().is_none() {
        return;
    }
    let answer = match arguments.next().as_deref() {
        Some("ours") => ours(),
        Some("arrow_buffer") => arrow_buffer(),
        Some("raw") => raw(),
        Some("children") => children(),
        other => panic!("no such case: {other:?}"),
    };
    println!("{answer}");
    std::process::exit(0);
}

/// The bytes that a case found, in a process of its own.
///
/// # Panics
///
/// If it cannot be run.
pub fn measure(case: &str) -> f64 {
    let program = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new(program)
        .args([ARGUMENT, case])
        .output()
        .expect("a program can be run again");
    let answer = String::from_utf8_lossy(&output.stdout).trim().parse();
    answer.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn ours() -> f64 {
    let allocator = trees::at_depth("mimalloc", 3);
    bookkeeping(|| allocator.buffer(64).expect("it fits").freeze())
}

fn arrow_buffer() -> f64 {
    bookkeeping(|| arrow_buffer::Buffer::from(arrow_buffer::MutableBuffer::new(64)))
}

fn raw() -> f64 {
    bookkeeping(|| crate::raw::Block::<crate::raw::Mimalloc>::new(64))
}

/// Bytes for each live buffer of 64 bytes, beyond those 64; the handle counts.
fn bookkeeping<T>(mut make: impl FnMut() -> T) -> f64 {
    // The array of handles is resident beforehand.
    let mut held: Vec<Option<T>> = Vec::with_capacity(COUNT);
    held.resize_with(COUNT, || None);
    black_box(&mut held);
    let before = resident();
    for place in &mut held {
        *place = Some(make());
    }
    let after = resident();
    black_box(&held);
    (after - before) as f64 / COUNT as f64 - 64.0 + size_of::<T>() as f64
}

/// Bytes that are resident after many children came and went, more than before.
fn children() -> f64 {
    let parent = trees::at_depth("mimalloc", 3);
    let one = || {
        let child = parent.new_child_allocator("child", 0, usize::MAX);
        child
            .expect("it is unlimited")
            .close()
            .expect("it is empty");
    };
    (0..20_000).for_each(|_| one());
    // Looking takes memory, too, the first time.
    resident();
    let before = resident();
    (0..COUNT).for_each(|_| one());
    resident() as f64 - before as f64
}

/// The bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("this is Linux");
    let line = text.lines().find(|line| line.starts_with("Rss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
        * 1024
}

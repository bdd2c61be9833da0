//! Measures resident memory for each live buffer.
//!
//! Each case runs in a process of its own, which the benchmark starts: memory that an earlier case freed
//! would be used again and not be seen.

use std::hint::black_box;
use std::process::Command;

use crate::trees;

/// The number of buffers that are alive at once, or of children that are made one after another.
const COUNT: usize = 1_000_000;

/// The argument with which a benchmark runs one case and prints a number.
const ARGUMENT: &str = "--memory";

/// If the arguments select a case of this module, runs it and ends the process.
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

/// Runs a case in a process of its own, and returns the bytes that it measured.
///
/// # Panics
///
/// If the process cannot be run.
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

/// Bytes for each live buffer of 64 bytes, without these 64 and with its handle.
fn bookkeeping<T>(mut make: impl FnMut() -> T) -> f64 {
    // The array of handles is made resident before the first measurement.
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

/// The growth of resident memory in bytes after many children were made and closed.
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
    // The first call itself makes memory resident.
    resident();
    let before = resident();
    (0..COUNT).for_each(|_| one());
    resident() as f64 - before as f64
}

/// The resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("this is Linux");
    let line = text.lines().find(|line| line.starts_with("Rss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
        * 1024
}

//! Throughput of several threads at once.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use arrow_memory_core::BufferAllocator;

use crate::raw::{Block, Mimalloc};
use crate::trees;

/// The operation of the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Allocates and frees raw blocks of mimalloc.
    Raw,
    /// Allocates and frees buffers of `arrow_buffer`, over the global allocator.
    ArrowBuffer,
    /// Each thread uses its own child of one root.
    OwnChild,
    /// All threads share one allocator.
    Shared,
}

impl Case {
    /// All cases.
    pub const ALL: [Case; 4] = [Case::Raw, Case::ArrowBuffer, Case::OwnChild, Case::Shared];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Case::Raw => "raw mimalloc",
            Case::ArrowBuffer => "arrow_buffer",
            Case::OwnChild => "own child",
            Case::Shared => "shared allocator",
        }
    }
}

/// The size of an allocation in bytes.
const SIZE: usize = 4096;

/// Allocators for the threads of a case.
#[derive(Debug)]
pub struct Stage {
    case: Case,
    allocators: Vec<BufferAllocator>,
}

impl Stage {
    /// Allocators for up to `threads` threads, over mimalloc.
    pub fn new(case: Case, threads: usize) -> Self {
        let parent = trees::at_depth("mimalloc", 2);
        let shared = trees::below(&parent, 1);
        let allocators = (0..threads)
            .map(|_| match case {
                Case::OwnChild => trees::below(&parent, 1),
                _ => shared.clone(),
            })
            .collect();
        Self { case, allocators }
    }

    /// Runs the operation on this many threads for about `length`. Returns the number of allocations, each
    /// with its release, in a second on all threads together.
    pub fn throughput(&self, threads: usize, length: Duration) -> f64 {
        let barrier = Barrier::new(threads);
        let counts = std::thread::scope(|scope| {
            let started: Vec<_> = self.allocators[..threads]
                .iter()
                .map(|allocator| {
                    scope.spawn(|| {
                        self.work(allocator, Duration::from_millis(2));
                        barrier.wait();
                        self.work(allocator, length)
                    })
                })
                .collect();
            started
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .collect::<Vec<f64>>()
        });
        counts.iter().sum()
    }

    /// The number of operations of one thread in a second.
    fn work(&self, allocator: &BufferAllocator, length: Duration) -> f64 {
        match self.case {
            Case::Raw => rate(length, || drop(black_box(Block::<Mimalloc>::new(SIZE)))),
            Case::ArrowBuffer => rate(length, || {
                let buffer = arrow_buffer::MutableBuffer::new(SIZE);
                drop(black_box(arrow_buffer::Buffer::from(buffer)));
            }),
            Case::OwnChild | Case::Shared => rate(length, || {
                let buffer = allocator.buffer(SIZE).expect("it fits");
                drop(black_box(buffer.freeze()));
            }),
        }
    }
}

/// Repeats `operation` for about `length`. Returns how often it ran in a second.
fn rate(length: Duration, mut operation: impl FnMut()) -> f64 {
    let (begun, mut times) = (Instant::now(), 0_u64);
    loop {
        for _ in 0..256 {
            operation();
        }
        times += 256;
        let taken = begun.elapsed();
        if taken >= length {
            return times as f64 / taken.as_secs_f64();
        }
    }
}

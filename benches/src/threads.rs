//! Throughput of several threads at once.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use arrow_memory_core::BufferAllocator;

use crate::raw::{Block, Mimalloc};
use crate::trees;

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Raw blocks of mimalloc.
    Raw,
    /// `arrow_buffer` over the global allocator.
    ArrowBuffer,
    /// Each thread has a child of one root.
    OwnChild,
    /// All share one allocator.
    Shared,
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 4] = [Case::Raw, Case::ArrowBuffer, Case::OwnChild, Case::Shared];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Case::Raw => "raw mimalloc",
            Case::ArrowBuffer => "arrow_buffer",
            Case::OwnChild => "own child",
            Case::Shared => "shared allocator",
        }
    }
}

/// The size of what is allocated, in bytes.
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

    /// Allocations, each with its release, in a second, of `threads` threads together, which run
    /// for about so long.
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

    /// Operations in a second of one thread.
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

/// How often in a second `operation` is done, over so long a time.
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

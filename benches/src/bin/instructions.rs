//! The hottest operations, each in a function of its own, for a run under callgrind.
//!
//! `benches/instructions.py` runs this twice, with different numbers of rounds, and takes the difference of
//! each function's cost, so work that happens only once is not counted.

use std::hint::black_box;

use arrow_memory_benches::raw::{Block, Mimalloc};
use arrow_memory_benches::trees::{at_depth, below, heard, root};
use arrow_memory_benches::{harness, raw};
use arrow_memory_core::{AllocationReservation, ArrowBuf, BufferAllocator};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of times that each operation runs while it is counted.
const TIMES: usize = 1000;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let root = root("mimalloc");
    let depth_1 = below(&root, 0);
    let depth_3 = below(&root, 2);
    let depth_6 = below(&root, 5);
    let system = at_depth("system", 3);
    let jemalloc = at_depth("jemalloc", 3);
    let heard = below(&heard("mimalloc"), 2);

    for (allocator, size) in [(&depth_3, 64), (&depth_3, 4096), (&heard, 4096)] {
        allocate_some(allocator, size);
    }
    for allocator in [&depth_1, &depth_6, &system, &jemalloc] {
        allocate_some(allocator, 4096);
    }
    let rounds = std::env::args()
        .nth(1)
        .and_then(|rounds| rounds.parse().ok());
    for _ in 0..rounds.unwrap_or(1) {
        op_allocate_4k_depth_1(&depth_1);
        op_allocate_4k_depth_3(&depth_3);
        op_allocate_4k_depth_6(&depth_6);
        op_allocate_64(&depth_3);
        op_allocate_4k_listener(&heard);
        op_allocate_4k_system(&system);
        op_allocate_4k_jemalloc(&jemalloc);
        let buffer = depth_3.buffer_zeroed(4096).map(|buffer| buffer.freeze());
        let buffer = buffer.expect("it fits");
        op_clone(&buffer);
        op_slice(&buffer);
        op_reservation(&mut depth_3.new_reservation());
        op_external(&depth_3);
        let (left, right) = (below(&depth_1, 1), below(&depth_1, 1));
        allocate_some(&left, 4096);
        allocate_some(&right, 4096);
        let moved = left.buffer_zeroed(4096).map(|buffer| buffer.freeze());
        op_transfer(moved.expect("it fits"), &left, &right);
        let (left, right) = (below(&depth_1, 1), below(&depth_1, 1));
        let moved = left.buffer_zeroed(4096).map(|buffer| buffer.freeze());
        op_transfer_new(moved.expect("it fits"), &left, &right);
        op_child(&depth_3);
        op_append(&depth_3);
        ref_raw_4k();
        ref_raw_64();
        ref_arrow_buffer_4k();
        let theirs = arrow_buffer::MutableBuffer::from_len_zeroed(4096).into();
        ref_arrow_buffer_clone(&theirs);
        ref_arrow_buffer_slice(&theirs);
    }
}

fn allocate_some(allocator: &BufferAllocator, size: usize) {
    for _ in 0..TIMES {
        drop(black_box(allocator.buffer(size).expect("it fits").freeze()));
    }
}

macro_rules! allocations {
    ($($name:ident $number:literal $size:literal)*) => {$(
        #[inline(never)]
        fn $name(allocator: &BufferAllocator) {
            // The compiler would merge identical functions into one.
            black_box($number);
            for _ in 0..TIMES {
                let buffer = allocator.buffer(black_box($size)).expect("it fits");
                black_box(buffer.freeze());
            }
        }
    )*};
}

allocations! {
    op_allocate_4k_depth_1 0 4096
    op_allocate_4k_depth_3 1 4096
    op_allocate_4k_depth_6 2 4096
    op_allocate_64 3 64
    op_allocate_4k_listener 4 4096
    op_allocate_4k_system 5 4096
    op_allocate_4k_jemalloc 6 4096
}

#[inline(never)]
fn op_clone(buffer: &ArrowBuf) {
    for _ in 0..TIMES {
        black_box(buffer.clone());
    }
}

#[inline(never)]
fn op_slice(buffer: &ArrowBuf) {
    for _ in 0..TIMES {
        black_box(buffer.slice(black_box(64)..black_box(128)));
    }
}

#[inline(never)]
fn op_reservation(reservation: &mut AllocationReservation) {
    for _ in 0..TIMES {
        reservation.add(black_box(4096)).expect("it fits");
        reservation.shrink(black_box(4096));
    }
}

#[inline(never)]
fn op_external(allocator: &BufferAllocator) {
    for _ in 0..TIMES {
        allocator.allocate_bytes(black_box(4096)).expect("it fits");
        allocator.release_bytes(black_box(4096));
    }
}

/// Transfers a buffer to a sibling and back, and drops the old handle each time.
#[inline(never)]
fn op_transfer(mut buffer: ArrowBuf, left: &BufferAllocator, right: &BufferAllocator) {
    for _ in 0..TIMES {
        for target in [right, left] {
            let moved = buffer.transfer_ownership(target).expect("one tree");
            buffer = moved.buffer;
        }
    }
    black_box(buffer);
}

/// Transfers a buffer to a sibling that never had one, and so has no credit, and back.
#[inline(never)]
fn op_transfer_new(mut buffer: ArrowBuf, left: &BufferAllocator, right: &BufferAllocator) {
    // The compiler would merge identical functions into one.
    black_box(7);
    for _ in 0..TIMES {
        for target in [right, left] {
            let moved = buffer.transfer_ownership(target).expect("one tree");
            buffer = moved.buffer;
        }
    }
    black_box(buffer);
}

#[inline(never)]
fn op_child(parent: &BufferAllocator) {
    for _ in 0..TIMES {
        let child = parent.new_child_allocator(black_box("child"), 0, usize::MAX);
        child.expect("unlimited").close().expect("nothing is left");
    }
}

#[inline(never)]
fn op_append(allocator: &BufferAllocator) {
    let mut buffer = allocator.buffer(8 * TIMES).expect("it fits");
    for number in 0..TIMES as u64 {
        let appended = buffer.extend_from_slice(&black_box(number).to_ne_bytes());
        appended.expect("there is room");
    }
    black_box(buffer);
}

#[inline(never)]
fn ref_raw_4k() {
    for _ in 0..TIMES {
        black_box(Block::<Mimalloc>::new(black_box(4096)));
    }
}

#[inline(never)]
fn ref_raw_64() {
    for _ in 0..TIMES {
        black_box(Block::<Mimalloc>::new(black_box(64)));
    }
}

#[inline(never)]
fn ref_arrow_buffer_4k() {
    for _ in 0..TIMES {
        let buffer = arrow_buffer::MutableBuffer::new(black_box(4096));
        black_box(arrow_buffer::Buffer::from(buffer));
    }
}

#[inline(never)]
fn ref_arrow_buffer_clone(buffer: &arrow_buffer::Buffer) {
    for _ in 0..TIMES {
        black_box(buffer.clone());
    }
}

#[inline(never)]
fn ref_arrow_buffer_slice(buffer: &arrow_buffer::Buffer) {
    for _ in 0..TIMES {
        black_box(buffer.slice_with_length(black_box(64), black_box(64)));
    }
}

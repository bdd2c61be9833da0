//! The measurements without a bar: sizes, touched and untouched, depths, builders, external bytes.
//!
//! Prints a line for each cell, in the format of the harnesses of other libraries: `peer TAB case TAB params
//! TAB unit TAB v1,v2,…`, with one value in ns for each round.
//!
//!     cargo bench -p arrow-memory-benches --bench suite -- [--quick] [filter]

use std::hint::black_box;

use arrow_memory_benches::harness::{self, Group, Settings};
use arrow_memory_benches::raw::{
    self, Block, Jemalloc, Library, Malloc, Mimalloc, System, touch, touch_arrow,
};
use arrow_memory_benches::{batch, pools, trees};
use arrow_memory_core::{
    AllocError, ArrowBuf, BooleanBufferBuilder, BufferAllocator, BufferBuilder, TypedBufferBuilder,
};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1024;

const SIZES: [(usize, &str); 6] = [
    (64, "64 B"),
    (KIB, "1 KiB"),
    (4 * KIB, "4 KiB"),
    (64 * KIB, "64 KiB"),
    (KIB * KIB, "1 MiB"),
    (16 * KIB * KIB, "16 MiB"),
];

const BACKENDS: [&str; 3] = ["system", "mimalloc", "jemalloc"];

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let (settings, filter) = Settings::from_arguments();
    let suite = Suite { settings, filter };
    suite.sizes("untouched", |_| {});
    suite.sizes("touched", touch);
    suite.ways();
    suite.batches();
    suite.depths();
    suite.builders();
    suite.charges();
    suite.children();
}

struct Suite {
    settings: Settings,
    filter: String,
}

impl Suite {
    /// Allocates and frees a buffer, for each size and peer.
    fn sizes(&self, case: &str, touch: fn(&mut [std::mem::MaybeUninit<u8>])) {
        let allocators = BACKENDS.map(|name| (name, trees::at_depth(name, 3)));
        for (size, label) in SIZES {
            let mut group = Group::new();
            add_raw::<System>(&mut group, size, touch);
            add_raw::<Malloc>(&mut group, size, touch);
            add_raw::<Mimalloc>(&mut group, size, touch);
            add_raw::<Jemalloc>(&mut group, size, touch);
            group.add("Vec<u8> over mimalloc", move || {
                let mut bytes: Vec<u8> = Vec::with_capacity(black_box(size));
                touch(bytes.spare_capacity_mut());
                black_box(bytes);
            });
            group.add("bytes over mimalloc", move || {
                let mut bytes = bytes::BytesMut::with_capacity(black_box(size));
                touch(bytes.spare_capacity_mut());
                black_box(bytes.freeze());
            });
            group.add("arrow_buffer over mimalloc", move || {
                let mut buffer = arrow_buffer::MutableBuffer::with_capacity(black_box(size));
                if case == "touched" {
                    touch_arrow(&mut buffer);
                }
                black_box(arrow_buffer::Buffer::from(buffer));
            });
            for (name, allocator) in &allocators {
                group.add(format!("ours over {name}"), move || {
                    let mut buffer = allocator.buffer(black_box(size)).expect("it fits");
                    touch(buffer.spare_capacity_mut());
                    black_box(buffer.freeze());
                });
            }
            self.print(&format!("allocate + free, {case}"), label, group);
        }
    }

    /// Ways of making a buffer that take a program more than one line.
    fn ways(&self) {
        let ours = &trees::at_depth("mimalloc", 3);
        for (size, label) in [(64, "64 B"), (4 * KIB, "4 KiB")] {
            let bytes: &[u8] = &vec![7; size];
            let mut group = Group::new();
            group.add("ours, returned by a function", || {
                black_box(returned(ours, black_box(size)).expect("it fits"));
            });
            group.add("arrow_buffer, returned by a function", || {
                black_box(arrow_returned(black_box(size)));
            });
            group.add("ours, a copy of a slice", || {
                black_box(ours.buffer_from_slice(black_box(bytes)).expect("it fits"));
            });
            group.add("arrow_buffer, a copy of a slice", || {
                black_box(arrow_buffer::Buffer::from(black_box(bytes)));
            });
            group.add("ours, zeroed", || {
                black_box(
                    ours.buffer_zeroed(black_box(size))
                        .expect("it fits")
                        .freeze(),
                );
            });
            group.add("arrow_buffer, zeroed", || {
                let zeroed = arrow_buffer::MutableBuffer::from_len_zeroed(black_box(size));
                black_box(arrow_buffer::Buffer::from(zeroed));
            });
            group.add("ours, written number by number", || {
                let mut buffer = ours.buffer(black_box(size)).expect("it fits");
                for number in 0..black_box(size as u64) / 8 {
                    buffer
                        .extend_from_slice(&number.to_ne_bytes())
                        .expect("it fits");
                }
                black_box(buffer.freeze());
            });
            group.add("arrow_buffer, written number by number", || {
                let mut buffer = arrow_buffer::MutableBuffer::new(black_box(size));
                for number in 0..black_box(size as u64) / 8 {
                    buffer.extend_from_slice(&number.to_ne_bytes());
                }
                black_box(arrow_buffer::Buffer::from(buffer));
            });
            self.print("ways to make and drop a buffer, mimalloc", label, group);
        }
    }

    fn batches(&self) {
        let allocators = BACKENDS.map(|name| (name, trees::at_depth(name, 3)));
        let mut group = Group::new();
        group.add_many(
            "raw system",
            batch::COUNT,
            batch::operation(Block::<System>::new),
        );
        group.add_many(
            "raw mimalloc",
            batch::COUNT,
            batch::operation(Block::<Mimalloc>::new),
        );
        group.add_many(
            "raw jemalloc",
            batch::COUNT,
            batch::operation(Block::<Jemalloc>::new),
        );
        let theirs = batch::operation(|size| {
            arrow_buffer::Buffer::from(arrow_buffer::MutableBuffer::new(size))
        });
        group.add_many("arrow_buffer over mimalloc", batch::COUNT, theirs);
        for (name, allocator) in &allocators {
            let ours = batch::operation(|size| allocator.buffer(size).expect("it fits").freeze());
            group.add_many(format!("ours over {name}"), batch::COUNT, ours);
        }
        self.print("batch of 1,000 mixed, shuffled frees", "each", group);
    }

    fn depths(&self) {
        for backend in BACKENDS {
            let allocators =
                [1, 2, 3, 4, 6, 12].map(|depth| (depth, trees::at_depth(backend, depth)));
            let mut group = Group::new();
            for (depth, allocator) in &allocators {
                group.add(format!("depth {depth}"), move || {
                    black_box(
                        allocator
                            .buffer(black_box(4 * KIB))
                            .expect("it fits")
                            .freeze(),
                    );
                });
            }
            self.print("allocate + free by depth, 4 KiB", backend, group);
        }
    }

    fn builders(&self) {
        const ITEMS: usize = 1000;
        let allocator = trees::at_depth("mimalloc", 3);
        let mut bytes = BufferBuilder::new(&allocator);
        let mut numbers = TypedBufferBuilder::<i64>::new(&allocator);
        let mut flags = BooleanBufferBuilder::new(&allocator);
        let mut group = Group::new();
        group.add_many("ours, u8 slices of 8", ITEMS, || {
            for item in 0..ITEMS as u64 {
                bytes
                    .append_slice(&black_box(item).to_ne_bytes())
                    .expect("it fits");
            }
            black_box(bytes.finish());
        });
        group.add_many("ours, i64", ITEMS, || {
            for item in 0..ITEMS as i64 {
                numbers.append(black_box(item)).expect("it fits");
            }
            black_box(numbers.finish());
        });
        group.add_many("arrow_buffer, i64", ITEMS, || {
            let mut builder = arrow_buffer::BufferBuilder::<i64>::new(0);
            for item in 0..ITEMS as i64 {
                builder.append(black_box(item));
            }
            black_box(builder.finish());
        });
        group.add_many("Vec<i64>", ITEMS, || {
            let mut numbers = Vec::new();
            for item in 0..ITEMS as i64 {
                numbers.push(black_box(item));
            }
            black_box(numbers);
        });
        group.add_many("ours, bool", ITEMS, || {
            for item in 0..ITEMS {
                flags.append(black_box(item % 3 == 0)).expect("it fits");
            }
            black_box(flags.finish());
        });
        group.add_many("arrow_buffer, bool", ITEMS, || {
            let mut builder = arrow_buffer::BooleanBufferBuilder::new(0);
            for item in 0..ITEMS {
                builder.append(black_box(item % 3 == 0));
            }
            black_box(builder.finish());
        });
        self.print("builders, 1,000 appended and finished", "each", group);
    }

    fn charges(&self) {
        for depth in [1, 3, 6] {
            let allocator = trees::at_depth("mimalloc", depth);
            let mut reservation = allocator.new_reservation();
            let mut group = Group::new();
            group.add("AllocationReservation", || {
                reservation.add(black_box(4 * KIB)).expect("it fits");
                reservation.shrink(black_box(4 * KIB));
            });
            group.add("allocate_bytes", || {
                allocator
                    .allocate_bytes(black_box(4 * KIB))
                    .expect("it fits");
                allocator.release_bytes(black_box(4 * KIB));
            });
            pools::add_greedy(&mut group, "DataFusion GreedyMemoryPool");
            self.print("accounting only, 4 KiB", &format!("depth {depth}"), group);
        }
    }

    fn children(&self) {
        for depth in [1, 3, 6] {
            let parent = trees::at_depth("mimalloc", depth);
            let mut group = Group::new();
            group.add("created + closed", || close(child(&parent, 0)));
            group.add("created + closed, 1 MiB reserved", || {
                close(child(&parent, KIB * KIB))
            });
            group.add("created, 4 KiB allocated and freed, closed", || {
                let child = child(&parent, 0);
                drop(black_box(child.buffer(4 * KIB).expect("it fits").freeze()));
                close(child);
            });
            self.print("children", &format!("of depth {depth}"), group);
        }
    }

    fn print(&self, case: &str, parameters: &str, group: Group<'_>) {
        if !format!("{case} {parameters}").contains(&self.filter) {
            return;
        }
        let measured = group.measure(&self.settings);
        for name in measured.names() {
            let samples = measured
                .samples(name)
                .iter()
                .map(|time| format!("{time:.2}"));
            let samples: Vec<_> = samples.collect();
            println!("{name}\t{case}\t{parameters}\tns\t{}", samples.join(","));
        }
    }
}

fn add_raw<L: Library>(
    group: &mut Group<'_>,
    size: usize,
    touch: fn(&mut [std::mem::MaybeUninit<u8>]),
) {
    group.add(L::NAME, move || {
        let mut block = Block::<L>::new(black_box(size));
        touch(block.bytes());
        black_box(block);
    });
}

/// A typical function that makes a buffer, called and not inlined.
#[inline(never)]
fn returned(allocator: &BufferAllocator, size: usize) -> Result<ArrowBuf, AllocError> {
    let mut buffer = allocator.buffer(size)?;
    buffer.extend_from_slice(b"12345678")?;
    Ok(buffer.freeze())
}

#[inline(never)]
fn arrow_returned(size: usize) -> arrow_buffer::Buffer {
    let mut buffer = arrow_buffer::MutableBuffer::new(size);
    buffer.extend_from_slice(b"12345678");
    buffer.into()
}

fn child(parent: &BufferAllocator, reservation: usize) -> BufferAllocator {
    let child = parent.new_child_allocator(black_box("child"), reservation, usize::MAX);
    child.expect("it is unlimited")
}

fn close(child: BufferAllocator) {
    child.close().expect("it is empty");
}

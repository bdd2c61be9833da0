//! Measures the adoption of arrow-rs' arrays by an allocator, hand-overs from one allocator to another, and our builders
//! against arrow-rs'.
//!
//!     cargo bench -p arrow-memory-benches --bench adopt -- [--quick] [adopt|hand-over|builders]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_memory_arrow::builder::{Int64Builder, StringBuilder};
use arrow_memory_arrow::deps::arrow_array::builder as theirs;
use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_memory_arrow::{Accounted, HandOver, Kept, Shares};
use arrow_memory_benches::harness::{self, Estimate, Group, Settings};
use arrow_memory_benches::{raw, trees};
use arrow_memory_core::BufferAllocator;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COLUMNS: usize = 1000;
const ITEMS: usize = 8192;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let (settings, filter) = Settings::from_arguments();
    let allocator = trees::at_depth("mimalloc", 3);
    if "adopt".contains(&filter) {
        adoptions(&allocator, &settings);
    }
    if "hand-over".contains(&filter) {
        hand_overs(&allocator, &settings);
    }
    if "builders".contains(&filter) {
        builders(&allocator, &settings);
    }
}

fn adoptions(allocator: &BufferAllocator, settings: &Settings) {
    println!("| 1,000 columns, mimalloc, ns for each buffer | adopt | drop | again | transfer | |");
    println!("|---|---|---|---|---|---|");
    for (name, buffers, column) in columns() {
        adoption(name, buffers, &batch(column), allocator, settings);
    }
}

/// A name, the number of buffers, and what makes a column.
type Column = (&'static str, usize, fn() -> ArrayRef);

/// The columns that are measured.
fn columns() -> [Column; 3] {
    [
        ("int64", 1, || {
            Arc::new(Int64Array::from_iter_values(0..100))
        }),
        ("int64 with nulls", 2, || {
            let values = (0..100).map(|n| (n % 3 > 0).then_some(n));
            Arc::new(values.collect::<Int64Array>())
        }),
        ("strings", 2, || {
            let texts = (0..100).map(|n| n.to_string());
            Arc::new(StringArray::from_iter_values(texts))
        }),
    ]
}

/// Times hand-overs, with the drop of the batch that was given up: of memory that is new, of memory that moves from one
/// sibling to another, where nothing else changes and where the giver has a reservation; and of memory that the giver has,
/// too, and that the receiver shared before.
fn hand_overs(allocator: &BufferAllocator, settings: &Settings) {
    println!(
        "\n| 1,000 columns, ns for each buffer | new (bar 120) | moves (bar 150) | moves, below a reservation | shared | |"
    );
    println!("|---|---|---|---|---|---|");
    let operator = |name| allocator.child(name).build().expect("it is unlimited");
    let (scan, filter, sort) = (operator("scan"), operator("filter"), operator("sort"));
    let kept = Kept::new();
    for (name, buffers, column) in columns() {
        let buffers = (buffers * COLUMNS) as f64;
        let (mut new, mut moves, mut reserved) = (Vec::new(), Vec::new(), Vec::new());
        let mut shared = Vec::new();
        let timed = |times: &mut Vec<f64>, batch: RecordBatch, by: &HandOver<'_>| {
            let begun = Instant::now();
            let handed = black_box(batch.hand_over(by).expect("it fits").value);
            times.push(begun.elapsed().as_nanos() as f64 / buffers);
            handed
        };
        for _ in 0..settings.rounds * 3 {
            let by = HandOver::new(&scan, &filter).kept(&kept);
            let handed = timed(&mut new, batch(column), &by);
            let by = HandOver::new(&filter, &sort).kept(&kept);
            let handed = timed(&mut moves, handed, &by);
            sort.raise_reservation(1000).expect("it fits");
            let by = HandOver::new(&sort, &scan).kept(&kept);
            drop(timed(&mut reserved, handed, &by));
            sort.lower_reservation(1000);
            let shares = Shares::new();
            let by = HandOver::new(&scan, &filter).kept(&kept).shares(&shares);
            let build_side = batch(column).adopt(&scan).expect("it fits");
            let part = || build_side.slice(1, 10);
            drop(part().hand_over(&by).expect("it fits"));
            drop(timed(&mut shared, part(), &by));
            drop((build_side, shares));
            assert_eq!(allocator.allocated_memory(), 0);
        }
        let [new, moves, reserved, shared] = [new, moves, reserved, shared].map(Estimate::of);
        let verdict = if new.low <= 120.0 && moves.low <= 150.0 {
            "bars"
        } else {
            "**missed**"
        };
        println!("| {name} | {new} | {moves} | {reserved} | {shared} | {verdict} |");
    }
}

fn batch(column: impl Fn() -> ArrayRef) -> RecordBatch {
    let columns = (0..COLUMNS).map(|index| (format!("c{index}"), column()));
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// Times each step by itself: adopts a batch, adopts it again, transfers it, and drops it.
fn adoption(
    name: &str,
    buffers: usize,
    batch: &RecordBatch,
    allocator: &BufferAllocator,
    settings: &Settings,
) {
    let other = allocator.child("other").build().expect("it is unlimited");
    let buffers = (buffers * COLUMNS) as f64;
    let (mut adopt, mut release) = (Vec::new(), Vec::new());
    let (mut again, mut transfer) = (Vec::new(), Vec::new());
    let timed = |times: &mut Vec<f64>, operation: &mut dyn FnMut() -> RecordBatch| {
        let begun = Instant::now();
        let result = black_box(operation());
        times.push(begun.elapsed().as_nanos() as f64 / buffers);
        result
    };
    for _ in 0..settings.rounds * 3 {
        let adopted = timed(&mut adopt, &mut || {
            batch.clone().adopt(allocator).expect("it fits")
        });
        drop(timed(&mut again, &mut || {
            adopted.clone().adopt(allocator).expect("it fits")
        }));
        let moved = timed(&mut transfer, &mut || {
            adopted.try_transfer_ownership(&other).expect("it fits")
        });
        assert_eq!(allocator.allocated_memory(), other.allocated_memory());
        drop((adopted, moved));
        // Times the drop of an adopted batch, not of a transferred one.
        let adopted = batch.clone().adopt(allocator).expect("it fits");
        let begun = Instant::now();
        drop(adopted);
        release.push(begun.elapsed().as_nanos() as f64 / buffers);
        assert_eq!(allocator.allocated_memory(), 0);
    }
    let adopt = Estimate::of(adopt);
    let verdict = if adopt.low <= 200.0 {
        "bar"
    } else {
        "**missed**"
    };
    let [release, again, transfer] = [release, again, transfer].map(Estimate::of);
    println!(
        "| {name} (bar for adopt: 200) | {adopt} | {release} | {again} | {transfer} | {verdict} |"
    );
}

fn builders(allocator: &BufferAllocator, settings: &Settings) {
    println!(
        "\n| ns for each value, 8,192 in an array | ours | arrow-rs | ratio (95 % interval) | bar | |"
    );
    println!("|---|---|---|---|---|---|");
    compare(
        "int64 `append`",
        settings,
        || {
            let mut builder = Int64Builder::new(allocator);
            for value in 0..ITEMS as i64 {
                builder.append(black_box(value)).expect("it fits");
            }
            black_box(builder.finish());
        },
        || {
            let mut builder = theirs::Int64Builder::new();
            for value in 0..ITEMS as i64 {
                builder.append_value(black_box(value));
            }
            black_box(builder.finish());
        },
    );
    compare(
        "int64 `append_option`, a tenth null",
        settings,
        || {
            let mut builder = Int64Builder::new(allocator);
            for value in 0..ITEMS as i64 {
                let value = black_box(value);
                let value = (value % 10 != 0).then_some(value);
                builder.append_option(value).expect("it fits");
            }
            black_box(builder.finish());
        },
        || {
            let mut builder = theirs::Int64Builder::new();
            for value in 0..ITEMS as i64 {
                let value = black_box(value);
                builder.append_option((value % 10 != 0).then_some(value));
            }
            black_box(builder.finish());
        },
    );
    let values: Vec<i64> = (0..ITEMS as i64).collect();
    compare(
        "int64 `append_slice` of 1,024",
        settings,
        || {
            let mut builder = Int64Builder::new(allocator);
            for chunk in values.chunks(1024) {
                builder.append_slice(black_box(chunk)).expect("it fits");
            }
            black_box(builder.finish());
        },
        || {
            let mut builder = theirs::Int64Builder::new();
            for chunk in values.chunks(1024) {
                builder.append_slice(black_box(chunk));
            }
            black_box(builder.finish());
        },
    );
    let texts: Vec<String> = (0..1000).map(|n| format!("text {}", n * 7919)).collect();
    let text = |index: usize| black_box(&*texts[index % 1000]);
    compare(
        "string `append`",
        settings,
        || {
            let mut builder = StringBuilder::new(allocator);
            for index in 0..ITEMS {
                builder.append(text(index)).expect("it fits");
            }
            black_box(builder.finish());
        },
        || {
            let mut builder = theirs::StringBuilder::new();
            for index in 0..ITEMS {
                builder.append_value(text(index));
            }
            black_box(builder.finish());
        },
    );
    compare(
        "string `append_option`, a tenth null",
        settings,
        || {
            let mut builder = StringBuilder::new(allocator);
            for index in 0..ITEMS {
                let text = (index % 10 != 0).then(|| text(index));
                builder.append_option(text).expect("it fits");
            }
            black_box(builder.finish());
        },
        || {
            let mut builder = theirs::StringBuilder::new();
            for index in 0..ITEMS {
                builder.append_option((index % 10 != 0).then(|| text(index)));
            }
            black_box(builder.finish());
        },
    );
}

fn compare(name: &str, settings: &Settings, ours: impl FnMut(), arrow: impl FnMut()) {
    let mut group = Group::new();
    group.add_many("ours", ITEMS, ours);
    group.add_many("arrow-rs", ITEMS, arrow);
    let measured = group.measure(settings);
    let ratio = measured.ratio("ours", "arrow-rs");
    let verdict = if ratio.low <= 1.1 {
        "bar"
    } else {
        "**missed**"
    };
    let (ours, arrow) = (measured.time("ours"), measured.time("arrow-rs"));
    println!("| {name} | {ours} | {arrow} | {ratio} | ≤ 1.1 × | {verdict} |");
}

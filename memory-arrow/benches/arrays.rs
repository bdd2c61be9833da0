//! Builders side by side with arrow-rs' own, and what an adoption costs.
//!
//! `cargo bench -p arrow-memory-arrow`. Prints nanoseconds per item, best of several runs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::builder::{Int64Builder, StringBuilder};
use arrow_memory_arrow::deps::arrow_array::{self, ArrayRef, Int64Array, RecordBatch};
use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

fn main() {
    let root = RootAllocator::unlimited();
    compare(
        "int64 append",
        ITEMS,
        || {
            let mut builder = Int64Builder::new(&root);
            for value in 0..ITEMS as i64 {
                builder.append(black_box(value)).expect("no limit");
            }
            black_box(builder.finish().expect("no limit"));
        },
        || {
            let mut builder = arrow_array::builder::Int64Builder::new();
            for value in 0..ITEMS as i64 {
                builder.append_value(black_box(value));
            }
            black_box(builder.finish());
        },
    );
    compare(
        "int64 append, a tenth null",
        ITEMS,
        || {
            let mut builder = Int64Builder::new(&root);
            for value in 0..ITEMS as i64 {
                let value = black_box(value);
                builder
                    .append_option((value % 10 != 0).then_some(value))
                    .expect("no limit");
            }
            black_box(builder.finish().expect("no limit"));
        },
        || {
            let mut builder = arrow_array::builder::Int64Builder::new();
            for value in 0..ITEMS as i64 {
                let value = black_box(value);
                builder.append_option((value % 10 != 0).then_some(value));
            }
            black_box(builder.finish());
        },
    );
    let texts: Vec<String> = (0..1000).map(|n| format!("text {}", n * 7919)).collect();
    compare(
        "string append",
        ITEMS,
        || {
            let mut builder = StringBuilder::new(&root);
            for index in 0..ITEMS {
                builder
                    .append(black_box(&*texts[index % 1000]))
                    .expect("no limit");
            }
            black_box(builder.finish().expect("no limit"));
        },
        || {
            let mut builder = arrow_array::builder::StringBuilder::new();
            for index in 0..ITEMS {
                builder.append_value(black_box(&*texts[index % 1000]));
            }
            black_box(builder.finish());
        },
    );
    let slice: Vec<i64> = (0..ITEMS as i64).collect();
    compare(
        "int64 append_slice of 1000",
        ITEMS,
        || {
            let mut builder = Int64Builder::new(&root);
            for chunk in slice.chunks(1000) {
                builder.append_slice(black_box(chunk)).expect("no limit");
            }
            black_box(builder.finish().expect("no limit"));
        },
        || {
            let mut builder = arrow_array::builder::Int64Builder::new();
            for chunk in slice.chunks(1000) {
                builder.append_slice(black_box(chunk));
            }
            black_box(builder.finish());
        },
    );
    adoption(&root);
}

/// The cost of adopting, and of letting go of, a batch of 1,000 columns.
fn adoption(root: &RootAllocator) {
    let columns = (0..1000).map(|index| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![index; 100]));
        (format!("c{index}"), column)
    });
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let (mut adopt, mut release) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS * 10 {
        let start = Instant::now();
        let adopted = black_box(batch.adopt(root).expect("no limit"));
        adopt = adopt.min(start.elapsed());
        let start = Instant::now();
        drop(adopted);
        release = release.min(start.elapsed());
    }
    println!(
        "adopt 1000 columns: {:.1} ns/buffer, release {:.1}",
        adopt.as_nanos() as f64 / 1000.0,
        release.as_nanos() as f64 / 1000.0
    );
}

fn compare(name: &str, items: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let (mut mine, mut arrow) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        mine = mine.min(time(&mut ours));
        arrow = arrow.min(time(&mut theirs));
    }
    let each = |time: Duration| time.as_secs_f64() * 1e9 / items as f64;
    println!(
        "{name}: {:.2} ns, arrow-rs {:.2} ns, ratio {:.2}",
        each(mine),
        each(arrow),
        mine.as_secs_f64() / arrow.as_secs_f64()
    );
}

fn time(run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

const ITEMS: usize = 64 << 10;
const RUNS: usize = 200;

//! A real workload: decodes TPC-H `lineitem` from Parquet in memory, with and without accounting.
//!
//!     cargo bench -p arrow-memory-benches --features tpch --bench lineitem -- [--quick]
//!
//! `benches/instructions.py --lineitem` runs this with `--once` under callgrind.

use std::hint::black_box;

use arrow_memory_arrow::BatchLimit;
use arrow_memory_arrow::deps::parquet::arrow::ArrowWriter;
use arrow_memory_arrow::deps::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_memory_arrow::parquet::ParquetReader;
use arrow_memory_benches::harness::{self, Group, Settings};
use arrow_memory_benches::{raw, trees};
use arrow_memory_core::BufferAllocator;
use bytes::Bytes;
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of rows in a batch.
const BATCH: usize = 8192;

fn main() {
    harness::start();
    raw::assert_global_is_mimalloc();
    let allocator = trees::at_depth("mimalloc", 3);
    if std::env::args().any(|argument| argument == "--once") {
        let file = lineitem(0.01);
        // Two rounds, so that work that happens only once counts for less.
        for _ in 0..2 {
            op_decode(&file);
            op_decode_accounted(&file, &allocator);
        }
        return;
    }
    let (settings, _) = Settings::from_arguments();
    let file = lineitem(if settings.quick { 0.01 } else { 0.1 });
    let rows = op_decode(&file);
    assert_eq!(rows, op_decode_accounted(&file, &allocator));
    assert_eq!(allocator.allocated_memory(), 0);
    assert!(
        allocator.peak_memory_allocation() > 0,
        "the batches were charged"
    );

    let mut group = Group::new();
    group.add_many("without", rows, || {
        op_decode(&file);
    });
    group.add_many("with", rows, || {
        op_decode_accounted(&file, &allocator);
    });
    let measured = group.measure(&settings);
    println!("| decode lineitem, {rows} rows | median (95 % interval) |\n|---|---|");
    println!(
        "| without accounting, ns for a row | {} |",
        measured.time("without")
    );
    println!(
        "| with accounting, ns for a row | {} |",
        measured.time("with")
    );
    println!("| ratio | {} |", measured.ratio("with", "without"));
}

#[inline(never)]
fn op_decode(file: &Bytes) -> usize {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).expect("it is Parquet");
    let reader = reader
        .with_batch_size(BATCH)
        .build()
        .expect("it is Parquet");
    reader
        .map(|batch| black_box(batch.expect("it is whole")).num_rows())
        .sum()
}

#[inline(never)]
fn op_decode_accounted(file: &Bytes, allocator: &BufferAllocator) -> usize {
    let reader = ParquetReader::new(file.clone(), BatchLimit::Rows(BATCH), allocator);
    reader
        .expect("it is Parquet")
        .map(|batch| black_box(batch.expect("it fits")).num_rows())
        .sum()
}

fn lineitem(scale: f64) -> Bytes {
    let rows = LineItemArrow::new(LineItemGenerator::new(scale, 1, 1));
    let writer = ArrowWriter::try_new(Vec::new(), LineItemArrow::schema_ref(), None);
    let mut writer = writer.expect("the schema is usual");
    for batch in rows {
        let batch = batch.expect("the columns are equally long");
        writer.write(&batch).expect("a vector takes everything");
    }
    Bytes::from(writer.into_inner().expect("a vector takes everything"))
}

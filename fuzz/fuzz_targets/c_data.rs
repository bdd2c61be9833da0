//! Imports arrays over the C Data Interface after changing their numbers, pointers, formats and values. Each
//! change is detectable, or refers to bytes that exist. The import returns an array or an error, and releases
//! the source once.
#![no_main]
#![expect(unsafe_code, reason = "changes C structures and imports them")]

use arrow_memory_arrow::deps::arrow_array::{Array, new_null_array};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, IntervalUnit, UnionMode};
use arrow_memory_arrow::{Accounted, FFI_ArrowArray, FFI_ArrowSchema, export_array, import_array};
use arrow_memory_core::RootAllocator;
use arrow_memory_fuzz::raw::{RawArray, RawSchema, change, unknown_format};
use arrow_memory_fuzz::{Input, let_arrow_panic};
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

const ROWS: usize = 8;

fuzz_target!(|bytes: &[u8]| {
    let_arrow_panic();
    let mut input = Input(bytes);
    let data_type = data_type(&mut input, 3);
    let (held, into) = (RootAllocator::unlimited(), RootAllocator::new(1 << 20));
    // All values are null, so all offsets, ids and keys are 0.
    let array = new_null_array(&data_type, ROWS)
        .adopt(&held)
        .expect("no limit");
    let (mut c_array, mut c_schema) = export_array(&array).expect("types have formats");
    drop(array);

    // SAFETY: both types have the same layout.
    let raw = unsafe { &mut *std::ptr::from_mut(&mut c_array).cast::<RawArray>() };
    for _ in 0..1 + input.byte() % 3 {
        change(raw, &mut input);
    }
    // SAFETY: both types have the same layout.
    let schema = unsafe { &mut *std::ptr::from_mut(&mut c_schema).cast::<RawSchema>() };
    let before = schema.format;
    let format = unknown_format(&mut input);
    if input.byte() % 8 == 0 {
        schema.format = format.as_ptr();
    }

    // SAFETY: each change is detectable, or refers to bytes that exist.
    let imported = unsafe { import_array(c_array, &c_schema, &into) };
    // SAFETY: both types have the same layout. The release needs the original format.
    unsafe { &mut *std::ptr::from_mut(&mut c_schema).cast::<RawSchema>() }.format = before;
    if let Ok(array) = &imported {
        array
            .to_data()
            .validate_full()
            .expect("what was imported is valid");
    }
    drop(imported);
    assert_eq!((held.allocated_memory(), into.allocated_memory()), (0, 0));
});

fn data_type(input: &mut Input<'_>, depth: usize) -> DataType {
    let choice = input.byte() % if depth == 0 { 14 } else { 24 };
    let item = |input: &mut Input<'_>| {
        std::sync::Arc::new(Field::new("item", data_type(input, depth - 1), true))
    };
    match choice {
        0 => DataType::Int8,
        1 => DataType::Int64,
        2 => DataType::Boolean,
        3 => DataType::Utf8,
        4 => DataType::LargeBinary,
        5 => DataType::Utf8View,
        6 => DataType::FixedSizeBinary(3),
        7 => DataType::Decimal256(40, 2),
        8 => DataType::Float16,
        9 => DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        10 => DataType::BinaryView,
        11 => DataType::Dictionary(Box::new(DataType::Int64), Box::new(DataType::Float64)),
        12 => DataType::Null,
        13 => DataType::Interval(IntervalUnit::MonthDayNano),
        14 => DataType::List(item(input)),
        15 => DataType::LargeList(item(input)),
        16 => DataType::FixedSizeList(item(input), 2),
        17 => DataType::Struct(vec![item(input)].into()),
        18 => DataType::ListView(item(input)),
        19 => DataType::LargeListView(item(input)),
        20 => {
            let ends = Field::new("run_ends", DataType::Int32, false);
            DataType::RunEndEncoded(ends.into(), item(input))
        }
        21 => {
            let key = Field::new("key", DataType::Utf8, false);
            let entries = DataType::Struct(vec![key.into(), item(input)].into());
            DataType::Map(Field::new("entries", entries, false).into(), false)
        }
        22 | 23 => {
            let fields = [item(input), item(input)].into_iter().enumerate();
            let fields = fields.map(|(id, field)| (id as i8, field)).collect();
            let mode = [UnionMode::Dense, UnionMode::Sparse][usize::from(choice) % 2];
            DataType::Union(fields, mode)
        }
        _ => DataType::Struct(vec![item(input), item(input)].into()),
    }
}

// The two types are cast into each other.
const _: () = assert!(size_of::<RawArray>() == size_of::<FFI_ArrowArray>());
const _: () = assert!(size_of::<RawSchema>() <= size_of::<FFI_ArrowSchema>());

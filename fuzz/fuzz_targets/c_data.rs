//! Imports arrays over the C Data Interface after changing their numbers, pointers, formats and values. Each
//! change is detectable, or refers to bytes that exist. The import returns an array or an error, and releases
//! the source once.
#![no_main]

use std::ffi::{CString, c_char, c_void};

use arrow_memory_arrow::deps::arrow_array::{Array, new_null_array};
use arrow_memory_arrow::deps::arrow_schema::{DataType, Field, IntervalUnit, UnionMode};
use arrow_memory_arrow::{Accounted, FFI_ArrowArray, FFI_ArrowSchema, export_array, import_array};
use arrow_memory_core::RootAllocator;
use arrow_memory_fuzz::let_arrow_panic;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

/// `struct ArrowArray`.
#[repr(C)]
struct RawArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut RawArray,
    dictionary: *mut RawArray,
    release: Option<unsafe extern "C" fn(*mut RawArray)>,
    private_data: *mut c_void,
}

/// The first fields of `struct ArrowSchema`.
#[repr(C)]
struct RawSchema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
}

/// The unread rest of the input.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// A number that few arrays have, or none.
    fn number(&mut self) -> i64 {
        match self.byte() % 8 {
            0 => -1,
            1 => i64::MIN,
            2 => i64::MAX,
            3 => i64::MAX / 2,
            4 => -i64::from(self.byte()),
            5 => 1 << 62,
            6 => i64::from(self.byte()) << 56,
            _ => i64::from(self.byte() % 3),
        }
    }
}

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
    // No such format exists, so no other width is read.
    let format = CString::new(format!(
        "{}?",
        char::from(input.byte() % 128).escape_default()
    ));
    if input.byte() % 8 == 0
        && let Ok(format) = &format
    {
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

fn change(array: &mut RawArray, input: &mut Input<'_>) {
    let choice = input.byte() % 10;
    if choice >= 7 && array.n_children > 0 && array.n_children < 16 {
        let index = usize::from(input.byte()) % array.n_children as usize;
        // SAFETY: the children exist as long as their number is the original one; a changed number is outside
        // of the range above, or smaller.
        let child = unsafe { *array.children.add(index) };
        // SAFETY: the child exists for the same reason, and no other reference to it is in use.
        if let Some(child) = unsafe { child.as_mut() } {
            change(child, input);
        }
        return;
    }
    match choice {
        0 => array.length = input.number().min(-1),
        // The first rows, or fewer than there are.
        1 => array.length = i64::from(input.byte()).min(array.length),
        2 if array.offset == 0 && array.length > 0 => {
            array.offset = i64::from(input.byte()) % array.length;
            array.length -= array.offset;
        }
        2 => array.offset = -1 - i64::from(input.byte()),
        3 => array.null_count = input.number(),
        4 => array.n_buffers = wrong(array.n_buffers, input),
        5 => array.n_children = wrong(array.n_children, input),
        _ if array.n_buffers > 0 && array.n_buffers < 8 && !array.buffers.is_null() => {
            let index = usize::from(input.byte()) % array.n_buffers as usize;
            // SAFETY: the buffers exist as long as their number is the original one, or smaller.
            unsafe { *array.buffers.add(index) = std::ptr::null() };
        }
        _ => array.buffers = std::ptr::null_mut(),
    }
}

/// A number other than `right`: negative, smaller by one, or absurdly large. None of them makes the importer
/// read pointers that do not exist.
fn wrong(right: i64, input: &mut Input<'_>) -> i64 {
    match input.byte() % 4 {
        0 => -1,
        1 => i64::MAX,
        2 => right.saturating_sub(1),
        _ => i64::MIN,
    }
}

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

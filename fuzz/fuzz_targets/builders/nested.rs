//! Builders of dictionaries, lists and structs.

use std::sync::Arc;

use arrow_memory_arrow::builder::{
    BytesDictionaryBuilder, FixedSizeListBuilder, Int32Builder, ListBuilder,
    PrimitiveDictionaryBuilder, StringBuilder, StructBuilder,
};
use arrow_memory_core::BufferAllocator;
use arrow_memory_fuzz::Input;
use arrow_memory_fuzz::deps::arrow_array::types::{Int8Type, Int32Type, Int64Type, Utf8Type};
use arrow_memory_fuzz::deps::arrow_array::*;
use arrow_memory_fuzz::deps::arrow_buffer::NullBuffer;
use arrow_memory_fuzz::deps::arrow_schema::{DataType, Field};

use super::arrays::{Column, column};
use crate::Subject;

/// The size of fixed-size lists.
const SIZE: usize = 2;

pub fn subject(kind: u8, allocator: &BufferAllocator) -> Box<dyn Subject> {
    match kind {
        12 => column::<_, String>(BytesDictionaryBuilder::<Int8Type, Utf8Type>::new(allocator)),
        13 => column::<_, i64>(PrimitiveDictionaryBuilder::<Int8Type, Int64Type>::new(
            allocator,
        )),
        14 => Box::new(Lists::new(allocator)),
        _ => Box::new(Structs::new(allocator)),
    }
}

/// A dictionary has at most 128 values, since a key is an `i8`.
impl Subject for Column<BytesDictionaryBuilder<Int8Type, Utf8Type>, String> {
    fn step(&mut self, input: &mut Input<'_>) {
        if input.byte() % 4 > 0 {
            let value = "v".repeat(input.below(150));
            if self.builder.append(&value).is_ok() {
                self.rows.push(Some(value));
            }
            return;
        }
        let n = input.size();
        if self.builder.append_nulls(n).is_ok() {
            self.rows.resize(self.rows.len() + n, None);
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.len(), self.rows.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let rows = std::mem::take(&mut self.rows);
        let rows = rows.iter().map(Option::as_deref);
        let expected = DictionaryArray::<Int8Type>::from_iter(rows);
        Some((Arc::new(self.builder.finish()), Arc::new(expected)))
    }
}

impl Subject for Column<PrimitiveDictionaryBuilder<Int8Type, Int64Type>, i64> {
    fn step(&mut self, input: &mut Input<'_>) {
        if input.byte() % 4 > 0 {
            let value = i64::from(input.byte());
            if self.builder.append(value).is_ok() {
                self.rows.push(Some(value));
            }
            return;
        }
        let n = input.size();
        if self.builder.append_nulls(n).is_ok() {
            self.rows.resize(self.rows.len() + n, None);
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.len(), self.rows.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let mut expected = builder::PrimitiveDictionaryBuilder::<Int8Type, Int64Type>::new();
        for row in std::mem::take(&mut self.rows) {
            match row {
                Some(value) => {
                    let _: i8 = expected.append(value).expect("as many values as keys");
                }
                None => expected.append_null(),
            }
        }
        Some((Arc::new(self.builder.finish()), Arc::new(expected.finish())))
    }
}

/// Lists of numbers, and beside them lists of two strings each.
struct Lists {
    lists: ListBuilder<Int32Builder>,
    /// The values since the last list.
    values: Vec<Option<i32>>,
    rows: Vec<Option<Vec<Option<i32>>>>,
    pairs: FixedSizeListBuilder<StringBuilder>,
    /// The number of strings, and for each pair whether it is there.
    strings: usize,
    valid: Vec<bool>,
}

impl Lists {
    fn new(allocator: &BufferAllocator) -> Self {
        let strings = StringBuilder::new(allocator);
        let pairs = FixedSizeListBuilder::new(allocator, strings, SIZE as i32);
        Self {
            lists: ListBuilder::new(allocator, Int32Builder::new(allocator)),
            values: Vec::new(),
            rows: Vec::new(),
            pairs: pairs.expect("the size is not negative"),
            strings: 0,
            valid: Vec::new(),
        }
    }
}

impl Subject for Lists {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 | 1 => {
                let values = vec![i32::from(input.byte()); input.below(20)];
                if self.lists.values().append_slice(&values).is_ok() {
                    self.values.extend(values.into_iter().map(Some));
                }
            }
            2 => {
                if self.lists.values().append_null().is_ok() {
                    self.values.push(None);
                }
            }
            3 => {
                if self.lists.append().is_ok() {
                    self.rows.push(Some(std::mem::take(&mut self.values)));
                }
            }
            4 => {
                let n = input.size();
                if self.lists.append_nulls(n).is_ok() {
                    // They are the values of the first null list.
                    if n > 0 {
                        self.values.clear();
                    }
                    self.rows.resize(self.rows.len() + n, None);
                }
            }
            5 => {
                if self.pairs.values().append("a string").is_ok() {
                    self.strings += 1;
                }
            }
            6 => {
                let complete = self.strings == SIZE * (self.valid.len() + 1);
                let appended = self.pairs.append().is_ok();
                assert!(complete || !appended);
                if appended {
                    self.valid.push(true);
                }
            }
            _ => {
                let n = input.size();
                if self.pairs.append_nulls(n).is_ok() {
                    self.strings += SIZE * n;
                    self.valid.resize(self.valid.len() + n, false);
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.lists.len(), self.rows.len());
        assert_eq!(self.pairs.len(), self.valid.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let complete = self.strings == SIZE * self.valid.len();
        let pairs = self.pairs.finish();
        assert_eq!(pairs.is_ok(), complete);
        if let Ok(pairs) = pairs {
            self.strings = 0;
            let valid = std::mem::take(&mut self.valid);
            assert_eq!(pairs.len(), valid.len());
            let is_valid = |(row, &valid): (usize, &bool)| pairs.is_valid(row) == valid;
            assert!(valid.iter().enumerate().all(is_valid));
            pairs.to_data().validate_full().expect("it is valid");
        }
        // An empty array of lists needs memory, which may be refused.
        let lists = self.lists.finish();
        assert!(lists.is_ok() || self.rows.is_empty());
        let lists = lists.ok()?;
        self.values.clear();
        let rows = std::mem::take(&mut self.rows);
        let expected = ListArray::from_iter_primitive::<Int32Type, _, _>(rows);
        Some((Arc::new(lists), Arc::new(expected)))
    }
}

/// Structs of a number and a string.
struct Structs {
    builder: StructBuilder,
    numbers: Vec<Option<i32>>,
    strings: Vec<Option<String>>,
    valid: Vec<bool>,
}

impl Structs {
    fn new(allocator: &BufferAllocator) -> Self {
        let number = Field::new("number", DataType::Int32, true);
        let string = Field::new("string", DataType::Utf8, true);
        let builder = StructBuilder::new(allocator, vec![number, string]);
        Self {
            builder: builder.expect("both types have builders"),
            numbers: Vec::new(),
            strings: Vec::new(),
            valid: Vec::new(),
        }
    }

    fn numbers(&mut self) -> &mut Int32Builder {
        self.builder.field(0).expect("it is one")
    }

    fn strings(&mut self) -> &mut StringBuilder {
        self.builder.field(1).expect("it is one")
    }

    /// Whether each field has as many values as there are structs.
    fn is_even(&self, structs: usize) -> bool {
        self.numbers.len() == structs && self.strings.len() == structs
    }
}

impl Subject for Structs {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => {
                let number = input.flag().then_some(7);
                if self.numbers().append_option(number).is_ok() {
                    self.numbers.push(number);
                }
            }
            1 => {
                let string = "s".repeat(input.below(80));
                if self.strings().append(&string).is_ok() {
                    self.strings.push(Some(string));
                }
            }
            2 => {
                let complete = self.is_even(self.valid.len() + 1);
                let appended = self.builder.append().is_ok();
                assert!(complete || !appended);
                if appended {
                    self.valid.push(true);
                }
            }
            _ => {
                let n = input.size();
                if self.builder.append_nulls(n).is_ok() {
                    self.valid.resize(self.valid.len() + n, false);
                }
                // Fields before one that was refused have their null values.
                let (numbers, strings) = (self.numbers().len(), self.strings().len());
                assert!(numbers >= self.numbers.len() && strings >= self.strings.len());
                self.numbers.resize(numbers, None);
                self.strings.resize(strings, None);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.len(), self.valid.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let found = self.builder.finish();
        assert_eq!(found.is_ok(), self.is_even(self.valid.len()));
        let found = found.ok()?;
        let numbers = Int32Array::from_iter(std::mem::take(&mut self.numbers));
        let strings = StringArray::from_iter(std::mem::take(&mut self.strings));
        let valid = std::mem::take(&mut self.valid);
        let rows = valid.len();
        let fields = found.fields().clone();
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(strings)];
        let nulls = Some(NullBuffer::from(valid));
        let expected = StructArray::try_new_with_length(fields, columns, nulls, rows);
        Some((Arc::new(found), Arc::new(expected.expect("it is valid"))))
    }
}

//! Random arrays of every type, nested.

use std::sync::Arc;

use super::deps::arrow_array::cast::AsArray;
use super::deps::arrow_array::types::*;
use super::deps::arrow_array::*;
use super::deps::arrow_buffer::{
    ArrowNativeType, BooleanBuffer, Buffer, IntervalDayTime, IntervalMonthDayNano, NullBuffer,
    OffsetBuffer, ScalarBuffer, i256,
};
use super::deps::arrow_schema::{DataType, Field, Fields, Schema, UnionFields};

/// A generator that is the same for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Small seeds would begin alike.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn nulls(&mut self, len: usize) -> Option<NullBuffer> {
        (self.below(2) == 0).then(|| {
            let bits: Vec<bool> = (0..len).map(|_| self.below(3) > 0).collect();
            NullBuffer::new(BooleanBuffer::from(bits))
        })
    }

    fn primitive<T: ArrowPrimitiveType>(
        &mut self,
        len: usize,
        make: impl Fn(u64) -> T::Native,
    ) -> ArrayRef {
        let values: Vec<T::Native> = (0..len).map(|_| make(self.next())).collect();
        Arc::new(PrimitiveArray::<T>::new(
            ScalarBuffer::from(values),
            self.nulls(len),
        ))
    }

    fn text(&mut self) -> String {
        let len = self.below(30);
        (0..len)
            .map(|_| char::from(b'a' + self.below(26) as u8))
            .collect()
    }

    fn texts(&mut self, len: usize) -> Vec<Option<String>> {
        (0..len)
            .map(|_| (self.below(4) > 0).then(|| self.text()))
            .collect()
    }

    fn lengths(&mut self, len: usize) -> Vec<usize> {
        (0..len).map(|_| self.below(4)).collect()
    }
}

/// How many kinds [`random_array`] knows.
pub(super) const KINDS: usize = 44;

fn item(array: &ArrayRef) -> Arc<Field> {
    Arc::new(Field::new("item", array.data_type().clone(), true))
}

/// Makes the children of a nested array: of so many rows, of a random kind.
type Child<'a> = &'a dyn Fn(&mut Random, usize) -> ArrayRef;

/// An array of `len` rows of kind `kind`, whose children are of random kinds.
pub(super) fn random_array(random: &mut Random, kind: usize, len: usize, depth: usize) -> ArrayRef {
    let child = |random: &mut Random, len: usize| {
        let kinds = if depth == 0 { 30 } else { KINDS };
        let kind = random.below(kinds);
        random_array(random, kind, len, depth.saturating_sub(1))
    };
    match kind {
        0..=10 | 20 | 21 | 30 | 31 => numbers(random, kind, len),
        11..=19 => times(random, kind, len),
        32..=34 | 37 | 41 | 42 => lists(random, kind, len, &child),
        35 | 36 | 40 => composed(random, kind, len, &child),
        38 | 39 => unions(random, kind, len, &child),
        _ => bytes(random, kind, len),
    }
}

/// Integers, floats and decimals.
fn numbers(random: &mut Random, kind: usize, len: usize) -> ArrayRef {
    match kind {
        0 => random.primitive::<Int8Type>(len, |n| n as i8),
        1 => random.primitive::<Int16Type>(len, |n| n as i16),
        2 => random.primitive::<Int32Type>(len, |n| n as i32),
        3 => random.primitive::<Int64Type>(len, |n| n as i64),
        4 => random.primitive::<UInt8Type>(len, |n| n as u8),
        5 => random.primitive::<UInt16Type>(len, |n| n as u16),
        6 => random.primitive::<UInt32Type>(len, |n| n as u32),
        7 => random.primitive::<UInt64Type>(len, |n| n),
        8 => random.primitive::<Float16Type>(len, |n| {
            <Float16Type as ArrowPrimitiveType>::Native::from_bits(n as u16 & 0x3FFF)
        }),
        9 => random.primitive::<Float32Type>(len, |n| n as f32),
        10 => random.primitive::<Float64Type>(len, |n| n as f64),
        20 => random.primitive::<Decimal128Type>(len, |n| i128::from(n as i32)),
        21 => random.primitive::<Decimal256Type>(len, |n| i256::from_i128(i128::from(n as i32))),
        30 => random.primitive::<Decimal32Type>(len, |n| (n % 1000) as i32),
        _ => random.primitive::<Decimal64Type>(len, |n| (n % 1000) as i64),
    }
}

/// Dates, times, timestamps, durations and intervals.
fn times(random: &mut Random, kind: usize, len: usize) -> ArrayRef {
    match kind {
        11 => random.primitive::<Date32Type>(len, |n| n as i32),
        12 => random.primitive::<Date64Type>(len, |n| n as i64),
        13 => match random.below(2) {
            0 => random.primitive::<Time32SecondType>(len, |n| (n % 86400) as i32),
            _ => random.primitive::<Time32MillisecondType>(len, |n| (n % 86400) as i32),
        },
        14 => match random.below(2) {
            0 => random.primitive::<Time64MicrosecondType>(len, |n| (n % 86400) as i64),
            _ => random.primitive::<Time64NanosecondType>(len, |n| (n % 86400) as i64),
        },
        15 => match random.below(4) {
            0 => random.primitive::<TimestampSecondType>(len, |n| n as i64),
            1 => random.primitive::<TimestampMillisecondType>(len, |n| n as i64),
            2 => random.primitive::<TimestampMicrosecondType>(len, |n| n as i64),
            _ => {
                let array = random.primitive::<TimestampNanosecondType>(len, |n| n as i64);
                let array = array.as_primitive::<TimestampNanosecondType>().clone();
                Arc::new(array.with_timezone("+02:00"))
            }
        },
        16 => match random.below(4) {
            0 => random.primitive::<DurationSecondType>(len, |n| n as i64),
            1 => random.primitive::<DurationMillisecondType>(len, |n| n as i64),
            2 => random.primitive::<DurationMicrosecondType>(len, |n| n as i64),
            _ => random.primitive::<DurationNanosecondType>(len, |n| n as i64),
        },
        17 => random.primitive::<IntervalYearMonthType>(len, |n| n as i32),
        18 => random.primitive::<IntervalDayTimeType>(len, |n| {
            IntervalDayTime::new(n as i32, (n >> 32) as i32)
        }),
        _ => random.primitive::<IntervalMonthDayNanoType>(len, |n| {
            IntervalMonthDayNano::new(n as i32, (n >> 32) as i32, n as i64)
        }),
    }
}

/// Strings, binaries, booleans and nulls.
fn bytes(random: &mut Random, kind: usize, len: usize) -> ArrayRef {
    match kind {
        22 => Arc::new(StringArray::from(random.texts(len))),
        23 => Arc::new(LargeStringArray::from(random.texts(len))),
        24 => Arc::new(StringViewArray::from_iter(random.texts(len))),
        25 => {
            let texts = random.texts(len);
            Arc::new(BinaryArray::from_iter(texts))
        }
        26 => {
            let texts = random.texts(len);
            Arc::new(BinaryViewArray::from_iter(texts))
        }
        27 => {
            let bits: Vec<bool> = (0..len).map(|_| random.below(2) == 0).collect();
            Arc::new(BooleanArray::new(
                BooleanBuffer::from(bits),
                random.nulls(len),
            ))
        }
        28 => {
            let width = 1 + random.below(20);
            let bytes: Vec<u8> = (0..len * width).map(|_| random.next() as u8).collect();
            let nulls = random.nulls(len);
            Arc::new(FixedSizeBinaryArray::new(
                width as i32,
                Buffer::from_vec(bytes),
                nulls,
            ))
        }
        29 => Arc::new(NullArray::new(len)),
        _ => {
            let texts = random.texts(len);
            Arc::new(LargeBinaryArray::from_iter(texts))
        }
    }
}

/// Lists and maps.
fn lists(random: &mut Random, kind: usize, len: usize, child: Child<'_>) -> ArrayRef {
    match kind {
        32 => {
            let lengths = random.lengths(len);
            let values = child(random, lengths.iter().sum());
            let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
            Arc::new(ListArray::new(
                item(&values),
                offsets,
                values,
                random.nulls(len),
            ))
        }
        33 => {
            let lengths = random.lengths(len);
            let values = child(random, lengths.iter().sum());
            let offsets = OffsetBuffer::<i64>::from_lengths(lengths);
            Arc::new(LargeListArray::new(
                item(&values),
                offsets,
                values,
                random.nulls(len),
            ))
        }
        34 => {
            let size = 1 + random.below(3);
            let values = child(random, len * size);
            Arc::new(FixedSizeListArray::new(
                item(&values),
                size as i32,
                values,
                random.nulls(len),
            ))
        }
        37 => {
            let lengths = random.lengths(len);
            let total = lengths.iter().sum();
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
                (0..total).map(|index| format!("key {index}")),
            ));
            let values = child(random, total);
            let fields: Fields = vec![
                Field::new("keys", DataType::Utf8, false),
                Field::new("values", values.data_type().clone(), true),
            ]
            .into();
            let entries = StructArray::new(fields.clone(), vec![keys, values], None);
            Arc::new(MapArray::new(
                Arc::new(Field::new("entries", DataType::Struct(fields), false)),
                OffsetBuffer::from_lengths(lengths),
                entries,
                random.nulls(len),
                false,
            ))
        }
        41 => list_view::<i32>(random, len, child),
        _ => list_view::<i64>(random, len, child),
    }
}

/// Structs, dictionaries and runs.
fn composed(random: &mut Random, kind: usize, len: usize, child: Child<'_>) -> ArrayRef {
    match kind {
        35 => {
            let columns: Vec<ArrayRef> = (0..1 + random.below(3))
                .map(|_| child(random, len))
                .collect();
            let fields: Fields = columns
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    Field::new(format!("f{index}"), column.data_type().clone(), true)
                })
                .collect();
            Arc::new(StructArray::new(fields, columns, random.nulls(len)))
        }
        36 => {
            let values = 1 + random.below(5);
            let values = child(random, values);
            match random.below(8) {
                0 => dictionary::<Int8Type>(random, len, values),
                1 => dictionary::<Int16Type>(random, len, values),
                2 => dictionary::<Int32Type>(random, len, values),
                3 => dictionary::<Int64Type>(random, len, values),
                4 => dictionary::<UInt8Type>(random, len, values),
                5 => dictionary::<UInt16Type>(random, len, values),
                6 => dictionary::<UInt32Type>(random, len, values),
                _ => dictionary::<UInt64Type>(random, len, values),
            }
        }
        _ => {
            let mut ends = Vec::new();
            let mut end = 0;
            while end < len {
                end = (end + 1 + random.below(3)).min(len);
                ends.push(end);
            }
            let values = child(random, ends.len());
            match random.below(3) {
                0 => runs::<Int16Type>(&ends, &values),
                1 => runs::<Int32Type>(&ends, &values),
                _ => runs::<Int64Type>(&ends, &values),
            }
        }
    }
}

/// Unions, sparse and dense.
fn unions(random: &mut Random, kind: usize, len: usize, child: Child<'_>) -> ArrayRef {
    match kind {
        38 => {
            let columns: Vec<ArrayRef> = (0..2).map(|_| child(random, len)).collect();
            let ids: Vec<i8> = (0..len).map(|_| random.below(2) as i8).collect();
            Arc::new(
                UnionArray::try_new(union_fields(&columns), ids.into(), None, columns).unwrap(),
            )
        }
        _ => {
            let columns: Vec<ArrayRef> = (0..2).map(|_| child(random, len)).collect();
            let ids: Vec<i8> = (0..len).map(|_| random.below(2) as i8).collect();
            let (mut counts, mut offsets) = ([0_i32; 2], Vec::new());
            for &id in &ids {
                offsets.push(counts[id as usize]);
                counts[id as usize] += 1;
            }
            let offsets = Some(offsets.into());
            Arc::new(
                UnionArray::try_new(union_fields(&columns), ids.into(), offsets, columns).unwrap(),
            )
        }
    }
}

fn dictionary<K: ArrowDictionaryKeyType>(
    random: &mut Random,
    len: usize,
    values: ArrayRef,
) -> ArrayRef {
    let keys = (0..len).map(|_| K::Native::usize_as(random.below(values.len())));
    let keys = ScalarBuffer::from(keys.collect::<Vec<_>>());
    let keys = PrimitiveArray::<K>::new(keys, random.nulls(len));
    Arc::new(DictionaryArray::new(keys, values))
}

fn runs<R: RunEndIndexType>(ends: &[usize], values: &ArrayRef) -> ArrayRef {
    let ends = ends.iter().map(|&end| R::Native::usize_as(end));
    let ends = PrimitiveArray::<R>::from_iter_values(ends);
    Arc::new(RunArray::try_new(&ends, values).unwrap())
}

fn list_view<O: OffsetSizeTrait>(random: &mut Random, len: usize, child: Child<'_>) -> ArrayRef {
    let lengths = random.lengths(len);
    let total: usize = lengths.iter().sum();
    let values = child(random, total);
    let offsets = lengths.iter().map(|len| random.below(total - len + 1));
    let offsets: Vec<O> = offsets.map(O::usize_as).collect();
    let lengths: Vec<O> = lengths.into_iter().map(O::usize_as).collect();
    Arc::new(GenericListViewArray::new(
        item(&values),
        offsets.into(),
        lengths.into(),
        values,
        random.nulls(len),
    ))
}

fn union_fields(columns: &[ArrayRef]) -> UnionFields {
    let fields = columns.iter().enumerate().map(|(index, column)| {
        let field = Field::new(format!("u{index}"), column.data_type().clone(), true);
        (index as i8, Arc::new(field))
    });
    fields.collect()
}

pub(super) fn random_batch(random: &mut Random, rows: usize) -> RecordBatch {
    let columns: Vec<ArrayRef> = (0..1 + random.below(5))
        .map(|_| {
            let kind = random.below(KINDS);
            random_array(random, kind, rows, 2)
        })
        .collect();
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(format!("c{index}"), column.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

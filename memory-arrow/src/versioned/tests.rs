//! Random arrays of every type, through everything.
#![expect(unsafe_code, reason = "imports what the tests exported")]

use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;
use proptest::prelude::*;

use super::deps::arrow_array::types::*;
use super::deps::arrow_array::*;
use super::deps::arrow_buffer::{
    BooleanBuffer, Buffer, IntervalDayTime, IntervalMonthDayNano, NullBuffer, OffsetBuffer,
    ScalarBuffer, i256,
};
use super::deps::arrow_data::ArrayData;
use super::deps::arrow_schema::{DataType, Field, Fields, Schema, UnionFields, UnionMode};
use super::{
    Accounted, adopt_buffer, claim, claim_batch, export_array, export_batch, import_array,
    import_batch, into_buffer,
};

/// A generator that is the same for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
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
const KINDS: usize = 43;

fn item(array: &ArrayRef) -> Arc<Field> {
    Arc::new(Field::new("item", array.data_type().clone(), true))
}

/// An array of `len` rows of kind `kind`, whose children are of random kinds.
fn random_array(random: &mut Random, kind: usize, len: usize, depth: usize) -> ArrayRef {
    let child = |random: &mut Random, len: usize| {
        let kinds = if depth == 0 { 30 } else { KINDS };
        let kind = random.below(kinds);
        random_array(random, kind, len, depth.saturating_sub(1))
    };
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
        11 => random.primitive::<Date32Type>(len, |n| n as i32),
        12 => random.primitive::<Date64Type>(len, |n| n as i64),
        13 => random.primitive::<Time32SecondType>(len, |n| (n % 86400) as i32),
        14 => random.primitive::<Time64NanosecondType>(len, |n| (n % 86400) as i64),
        15 => random.primitive::<TimestampMicrosecondType>(len, |n| n as i64),
        16 => random.primitive::<DurationSecondType>(len, |n| n as i64),
        17 => random.primitive::<IntervalYearMonthType>(len, |n| n as i32),
        18 => random.primitive::<IntervalDayTimeType>(len, |n| {
            IntervalDayTime::new(n as i32, (n >> 32) as i32)
        }),
        19 => random.primitive::<IntervalMonthDayNanoType>(len, |n| {
            IntervalMonthDayNano::new(n as i32, (n >> 32) as i32, n as i64)
        }),
        20 => random.primitive::<Decimal128Type>(len, |n| i128::from(n as i32)),
        21 => random.primitive::<Decimal256Type>(len, |n| i256::from_i128(i128::from(n as i32))),
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
        30 => random.primitive::<Decimal32Type>(len, |n| (n % 1000) as i32),
        31 => random.primitive::<Decimal64Type>(len, |n| (n % 1000) as i64),
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
            let keys: Vec<i32> = (0..len)
                .map(|_| random.below(values.len()) as i32)
                .collect();
            let keys = Int32Array::new(ScalarBuffer::from(keys), random.nulls(len));
            Arc::new(DictionaryArray::new(keys, values))
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
        38 => {
            let columns: Vec<ArrayRef> = (0..2).map(|_| child(random, len)).collect();
            let ids: Vec<i8> = (0..len).map(|_| random.below(2) as i8).collect();
            Arc::new(
                UnionArray::try_new(union_fields(&columns), ids.into(), None, columns).unwrap(),
            )
        }
        39 => {
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
        40 => {
            let mut ends = Vec::new();
            let mut end = 0;
            while end < len as i32 {
                end += 1 + random.below(3) as i32;
                ends.push(end.min(len as i32));
            }
            let values = child(random, ends.len());
            Arc::new(RunArray::<Int32Type>::try_new(&Int32Array::from(ends), &values).unwrap())
        }
        41 => {
            let lengths: Vec<i32> = random.lengths(len).iter().map(|&n| n as i32).collect();
            let total: i32 = lengths.iter().sum();
            let values = child(random, total as usize);
            let offsets: Vec<i32> = lengths
                .iter()
                .map(|&len| random.below((total - len) as usize + 1) as i32)
                .collect();
            Arc::new(ListViewArray::new(
                item(&values),
                offsets.into(),
                lengths.into(),
                values,
                random.nulls(len),
            ))
        }
        _ => {
            let texts = random.texts(len);
            Arc::new(LargeBinaryArray::from_iter(texts))
        }
    }
}

fn union_fields(columns: &[ArrayRef]) -> UnionFields {
    let fields = columns.iter().enumerate().map(|(index, column)| {
        let field = Field::new(format!("u{index}"), column.data_type().clone(), true);
        (index as i8, Arc::new(field))
    });
    fields.collect()
}

/// Some types have other equal arrays than `==` says, so the values are compared as text there.
fn assert_same(ours: &ArrayData, theirs: &ArrayData) {
    assert_eq!(ours.data_type(), theirs.data_type());
    assert_eq!(ours, theirs);
}

/// All that is kept of an array for as long as a test looks at the tree.
fn through_everything(array: &ArrayRef, from: usize, len: usize) {
    let root = RootAllocator::new(1 << 30);
    let (scan, join) = (
        root.child("scan").build().unwrap(),
        root.child("join").build().unwrap(),
    );
    let before = array.to_data();

    let adopted = array.adopt(&scan).unwrap();
    let charged = scan.allocated_memory();
    assert_same(&adopted.to_data(), &before);
    assert_eq!(adopted.accounted_size(), charged);
    adopted.to_data().validate_full().unwrap();

    // Again, and a slice of it: nothing is charged twice.
    let again = array.adopt(&scan).unwrap();
    let slice = adopted.slice(from, len);
    let adopted_slice = slice.adopt(&scan).unwrap();
    assert_eq!(scan.allocated_memory(), charged);
    assert_same(&adopted_slice.to_data(), &array.slice(from, len).to_data());
    drop((again, adopted_slice));

    let moved = adopted.transfer_to(&join).unwrap();
    assert_eq!(
        (scan.allocated_memory(), join.allocated_memory()),
        (0, charged)
    );
    drop(adopted);
    assert_same(&moved.to_data(), &before);

    // Out and in again, whole and sliced; what comes back starts where ours does, mostly.
    for exported in [&moved, &slice] {
        let expected = exported.to_data();
        let (c_array, c_schema) = export_array(exported).unwrap();
        // SAFETY: made by arrow-rs, from a valid array.
        let imported = unsafe { import_array(c_array, &c_schema, &scan) }.unwrap();
        assert_same(&imported.to_data(), &expected);
    }
    drop(slice);
    assert_eq!(join.allocated_memory(), charged);

    let detached = moved.detach();
    drop(moved);
    assert_eq!(root.allocated_memory(), 0, "{}", root.to_verbose_string());
    assert_same(&detached.to_data(), &before);
    root.verify().unwrap();
    drop((scan, join));
    root.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        // The same cases each time, so that a failure is about the change at hand.
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_122),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_array_goes_through_everything_and_leaves_the_tree_empty(
        seed in any::<u64>(),
        kind in 0..KINDS,
        len in 0_usize..40,
        window in (0.0..=1.0, 0.0..=1.0),
    ) {
        let mut random = Random::new(seed);
        let array = random_array(&mut random, kind, len, 3);
        let from = (len as f64 * window.0) as usize;
        let count = ((len - from) as f64 * window.1) as usize;

        through_everything(&array, from, count);
    }

    #[test]
    fn any_batch_is_adopted_exported_and_imported(seed in any::<u64>(), rows in 0_usize..40) {
        let mut random = Random::new(seed);
        let batch = random_batch(&mut random, rows);
        let root = RootAllocator::new(1 << 30);

        let adopted = batch.adopt(&root).unwrap();
        prop_assert_eq!(&adopted, &batch);
        let (array, schema) = export_batch(&adopted).unwrap();
        // SAFETY: made by arrow-rs, from a valid batch.
        let imported = unsafe { import_batch(array, &schema, &root) }.unwrap();
        prop_assert_eq!(&imported, &batch);

        drop((adopted, imported));
        prop_assert_eq!(root.allocated_memory(), 0);
    }
}

fn random_batch(random: &mut Random, rows: usize) -> RecordBatch {
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

#[test]
fn each_kind_goes_through_everything_empty_whole_and_sliced() {
    for kind in 0..KINDS {
        for len in [0, 1, 2, 63, 64, 65] {
            let array = random_array(&mut Random::new(len as u64 + 1), kind, len, 1);
            through_everything(&array, len / 3, len / 2);
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_as_a_whole() {
    let columns: Vec<ArrayRef> = (0..4)
        .map(|_| Arc::new(Int64Array::from(vec![7; 100])) as ArrayRef)
        .collect();
    let batch = RecordBatch::try_from_iter(["a", "b", "c", "d"].into_iter().zip(columns)).unwrap();
    let root = RootAllocator::new(3199);

    assert!(batch.adopt(&root).unwrap_err().is_out_of_memory());
    assert_eq!(
        (root.allocated_memory(), root.peak_memory_allocation()),
        (0, 0)
    );
    root.set_limit(3200);
    let adopted = batch.adopt(&root).unwrap();
    assert_eq!(root.allocated_memory(), 3200);
    drop(adopted);
    root.close().unwrap();
}

#[test]
fn columns_that_share_memory_are_charged_once() {
    let root = RootAllocator::new(1 << 20);
    let whole = Int64Array::from(vec![7; 100]);
    let columns: Vec<ArrayRef> = (0..4)
        .map(|index| Arc::new(whole.slice(index * 25, 25)) as ArrayRef)
        .collect();
    let batch = RecordBatch::try_from_iter(["a", "b", "c", "d"].into_iter().zip(columns)).unwrap();

    let adopted = batch.adopt(&root).unwrap();

    assert_eq!(
        (root.allocated_memory(), adopted.accounted_size()),
        (800, 800)
    );
    assert_eq!(adopted, batch);
}

#[test]
fn a_claim_moves_what_a_tree_charges_already_or_changes_nothing() {
    let root = RootAllocator::new(1 << 20);
    let scan = root.child("scan").build().unwrap();
    let tight = root.child("tight").limit(100).build().unwrap();
    let buffer = Buffer::from_vec(vec![1_u8; 500]);

    let claimed = claim(&buffer, &scan).unwrap();
    assert!(claim(&claimed, &tight).unwrap_err().is_out_of_memory());
    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (500, 0)
    );

    let batch =
        RecordBatch::try_from_iter([("a", Arc::new(Int8Array::from(vec![1; 60])) as ArrayRef)])
            .unwrap();
    let held = claim_batch(&batch, &tight).unwrap();
    assert_eq!(tight.allocated_memory(), held.accounted_size());
}

#[test]
fn a_transfer_that_does_not_fit_is_undone() {
    let root = RootAllocator::new(1 << 20);
    let scan = root.child("scan").build().unwrap();
    let tight = root.child("tight").limit(1000).build().unwrap();
    let columns: Vec<ArrayRef> = (0..2)
        .map(|_| Arc::new(Int64Array::from(vec![7; 100])) as ArrayRef)
        .collect();
    let batch = RecordBatch::try_from_iter(["a", "b"].into_iter().zip(columns)).unwrap();
    let adopted = batch.adopt(&scan).unwrap();

    assert!(adopted.transfer_to(&tight).unwrap_err().is_out_of_memory());

    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (1600, 0)
    );
    drop((adopted, scan, tight));
    root.close().unwrap();
}

#[test]
fn detached_memory_can_be_written_in_place_again() {
    let root = RootAllocator::new(1 << 20);
    let array = Int64Array::from(vec![1, 2, 3]);
    let address = array.values().as_ptr();
    let adopted = array.adopt(&root).unwrap();
    drop(array);
    let adopted = adopted.unary_mut(|value| value + 1).unwrap_err();

    let detached = adopted.detach();
    drop(adopted);

    let changed = detached.unary_mut(|value| value + 1).unwrap();
    assert_eq!((changed.values().as_ptr(), changed.value(0)), (address, 2));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn memory_of_a_tree_is_detached_by_a_copy() {
    let root = RootAllocator::new(1 << 20);
    let ours = into_buffer(root.buffer_from_slice(&[1, 2, 3]).unwrap());

    let detached = ours.detach();
    drop(ours);

    assert_eq!(
        (detached.as_slice(), root.allocated_memory()),
        (&[1, 2, 3][..], 0)
    );
}

#[test]
fn a_refused_import_releases_the_source_once() {
    let held = RootAllocator::new(1 << 20);
    let tight = RootAllocator::new(10);
    let array = Int64Array::from(vec![7; 100]).adopt(&held).unwrap();
    let (c_array, c_schema) = export_array(&array).unwrap();
    drop(array);
    assert_eq!(held.allocated_memory(), 800);

    // SAFETY: made by arrow-rs, from a valid array.
    let refused = unsafe { import_array(c_array, &c_schema, &tight) }.unwrap_err();

    assert!(refused.is_out_of_memory());
    assert_eq!((held.allocated_memory(), tight.allocated_memory()), (0, 0));
}

#[test]
fn an_export_may_be_released_on_another_thread() {
    let root = RootAllocator::new(1 << 20);
    let array = Int64Array::from(vec![7; 100]).adopt(&root).unwrap();
    let (c_array, c_schema) = export_array(&array).unwrap();
    drop(array);

    std::thread::spawn(move || drop((c_array, c_schema)))
        .join()
        .unwrap();

    assert_eq!(root.allocated_memory(), 0);
    root.close().unwrap();
}

#[test]
fn an_adopted_buffer_outlives_what_it_was_adopted_from() {
    let root = RootAllocator::new(1 << 20);
    let ours = adopt_buffer(&Buffer::from_vec(vec![5_u8; 64]), &root).unwrap();

    assert_eq!((ours.as_slice(), ours.len()), (&[5; 64][..], 64));
}
#[test]
fn union_modes_are_both_covered() {
    for (kind, mode) in [(38, UnionMode::Sparse), (39, UnionMode::Dense)] {
        let array = random_array(&mut Random::new(3), kind, 5, 1);
        assert!(matches!(array.data_type(), DataType::Union(_, found) if *found == mode));
    }
}

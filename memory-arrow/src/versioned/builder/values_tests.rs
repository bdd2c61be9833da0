//! Values and nulls of every type, side by side with what arrow-rs makes of them.

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::super::deps::arrow_array::builder as theirs;
use super::super::deps::arrow_array::{
    ArrowPrimitiveType, BooleanArray, FixedSizeBinaryArray, GenericByteArray, GenericByteViewArray,
    LargeListArray,
};
use super::super::deps::arrow_buffer::ArrowNativeType;
use super::*;

/// Calls everything that appends to a builder of values, so that it has the rows of `expected`.
macro_rules! append_all {
    ($builder:expr, $values:expr) => {{
        let (builder, [a, b, c, d]) = (&mut $builder, $values);
        builder.append(a).unwrap();
        builder.append_null().unwrap();
        builder.append_option(Some(b)).unwrap();
        builder.append_option(Some(a).filter(|_| false)).unwrap();
        builder.append_slice(&[c, d]).unwrap();
        builder
            .append_values(&[a, b], Some(&[false, true]))
            .unwrap();
        builder.append_values(&[c, d], None).unwrap();
        builder.append_nulls(2).unwrap();
        builder.append(d).unwrap();
    }};
}

fn expected<T: Copy>([a, b, c, d]: [T; 4]) -> [Option<T>; 13] {
    let (a, b, c, d) = (Some(a), Some(b), Some(c), Some(d));
    [a, None, b, None, c, d, None, b, c, d, None, None, d]
}

fn primitive<T: ArrowPrimitiveType>() {
    let root = RootAllocator::new(1 << 20);
    let values = [0, 1, 77, 101].map(T::Native::usize_as);
    let mut builder = PrimitiveBuilder::<T>::new(&root);
    let mut arrow = theirs::PrimitiveBuilder::<T>::new();
    for round in 0..2 {
        append_all!(builder, values);
        for value in expected(values) {
            arrow.append_option(value);
        }
        let (ours, theirs) = (builder.finish(), arrow.finish());
        assert_eq!(ours, theirs, "{}, round {round}", T::DATA_TYPE);
    }
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn every_primitive_type_has_the_values_that_arrow_has() {
    macro_rules! each {
        ($($type:ty)*) => { $(primitive::<$type>();)* };
    }
    each!(Int8Type Int16Type Int32Type Int64Type UInt8Type UInt16Type UInt32Type UInt64Type);
    each!(Float16Type Float32Type Float64Type Date32Type Date64Type);
    each!(Time32SecondType Time32MillisecondType Time64MicrosecondType Time64NanosecondType);
    each!(TimestampSecondType TimestampMillisecondType);
    each!(TimestampMicrosecondType TimestampNanosecondType);
    each!(DurationSecondType DurationMillisecondType);
    each!(DurationMicrosecondType DurationNanosecondType);
    each!(IntervalYearMonthType IntervalDayTimeType IntervalMonthDayNanoType);
    each!(Decimal32Type Decimal64Type Decimal128Type Decimal256Type);
}

const TEXTS: [&str; 4] = ["", "two", "a text that no view has inline", "ünï"];

fn bytes<T: ByteArrayType>(values: [&T::Native; 4]) {
    let root = RootAllocator::new(1 << 20);
    let mut builder = GenericBytesBuilder::<T>::new(&root);
    let mut arrow = theirs::GenericByteBuilder::<T>::new();
    append_all!(builder, values);
    for value in expected(values) {
        arrow.append_option(value);
    }
    let ours: GenericByteArray<T> = builder.finish();
    assert_eq!(ours.to_data(), arrow.finish().to_data());
}

fn views<T: ByteViewType>(values: [&T::Native; 4]) {
    let root = RootAllocator::new(1 << 20);
    let mut builder = GenericViewBuilder::<T>::new(&root);
    let mut arrow = theirs::GenericByteViewBuilder::<T>::new();
    append_all!(builder, values);
    for value in expected(values) {
        arrow.append_option(value);
    }
    let ours: GenericByteViewArray<T> = builder.finish();
    assert_eq!(ours.to_data(), arrow.finish().to_data());
}

#[test]
fn strings_and_binaries_have_the_values_that_arrow_has() {
    let binaries = TEXTS.map(str::as_bytes);
    bytes::<Utf8Type>(TEXTS);
    bytes::<LargeUtf8Type>(TEXTS);
    bytes::<BinaryType>(binaries);
    bytes::<LargeBinaryType>(binaries);
    views::<StringViewType>(TEXTS);
    views::<BinaryViewType>(binaries);
}

#[test]
fn booleans_and_fixed_binaries_have_the_values_that_arrow_has() {
    let root = RootAllocator::new(1 << 20);
    let mut builder = BooleanBuilder::new(&root);
    let values = [false, true, true, false];
    append_all!(builder, values);
    let theirs: BooleanArray = expected(values).into_iter().collect();
    assert_eq!(builder.finish(), theirs);

    let mut builder = FixedSizeBinaryBuilder::new(&root, 3).unwrap();
    builder.append(b"abc").unwrap();
    builder.append_null().unwrap();
    builder.append_slice(b"defghi").unwrap();
    builder
        .append_values(&[b"jkl", b"mno"], Some(&[false, true]))
        .unwrap();
    assert!(builder.append(b"ab").is_err() && builder.append_slice(b"abcd").is_err());
    let rows = [
        Some(b"abc"),
        None,
        Some(b"def"),
        Some(b"ghi"),
        None,
        Some(b"mno"),
    ];
    let theirs = FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.into_iter(), 3).unwrap();
    assert_eq!(builder.finish().unwrap(), theirs);
}

#[test]
fn large_lists_and_dictionaries_have_the_values_that_arrow_has() {
    let root = RootAllocator::new(1 << 20);
    let mut lists = LargeListBuilder::new(&root, Int16Builder::new(&root));
    lists.values().append_slice(&[1, 2]).unwrap();
    lists.append().unwrap();
    lists.append_null().unwrap();
    let theirs = [Some([Some(1), Some(2)]), None];
    let theirs = LargeListArray::from_iter_primitive::<Int16Type, _, _>(theirs);
    assert_eq!(lists.finish().unwrap(), theirs);

    let mut builder = StringDictionaryBuilder::<UInt8Type>::new(&root);
    let mut arrow = theirs::StringDictionaryBuilder::<UInt8Type>::new();
    for text in [Some("a"), Some("b"), None, Some("a")] {
        builder.append_option(text).unwrap();
        arrow.append_option(text);
    }
    assert_eq!(builder.finish(), arrow.finish());

    let mut builder = PrimitiveDictionaryBuilder::<Int64Type, Float64Type>::new(&root);
    let mut arrow = theirs::PrimitiveDictionaryBuilder::<Int64Type, Float64Type>::new();
    for value in [Some(0.5), None, Some(-1.0), Some(0.5)] {
        builder.append_option(value).unwrap();
        arrow.append_option(value);
    }
    assert_eq!(builder.finish(), arrow.finish());
}

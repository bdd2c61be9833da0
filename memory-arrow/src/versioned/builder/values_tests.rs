//! Values and nulls of every type, compared with the arrays that arrow-rs builds of them.

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::super::deps::arrow_array::builder as theirs;
use super::super::deps::arrow_array::types::*;
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

/// A safe `AsRef` may give another answer the second time, or panic.
struct Liar {
    asked: std::cell::Cell<usize>,
    then: Option<&'static str>,
}

impl Liar {
    fn new(then: Option<&'static str>) -> Self {
        let asked = std::cell::Cell::new(0);
        Self { asked, then }
    }
}

impl AsRef<str> for Liar {
    fn as_ref(&self) -> &str {
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() == 1 {
            return "short";
        }
        self.then.expect("a value that panics the second time")
    }
}

#[test]
fn values_that_change_between_two_looks_leave_no_row_by_halves() {
    let long: &'static str = Box::leak("longer than a page ".repeat(1000).into_boxed_str());
    let root = RootAllocator::new(1 << 10);
    let mut builder = StringBuilder::new(&root);
    builder.append("first").unwrap();
    builder.append_null().unwrap();

    // There is no room for the second answer.
    let values = [Liar::new(Some("short")), Liar::new(Some(long))];
    let error = builder.append_values(&values, Some(&[true, true]));
    assert!(error.unwrap_err().is_out_of_memory());
    let values = [Liar::new(Some("short")), Liar::new(None)];
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        builder.append_slice(&values).is_ok()
    }));
    panicked.unwrap_err();
    assert_eq!(builder.len(), 2);
    builder.append_slice(&[Liar::new(Some("other"))]).unwrap();

    let array = builder.finish();
    let rows: Vec<_> = array.iter().collect();
    assert_eq!(rows, [Some("first"), None, Some("other")]);
    // If there are bits of validity, there are as many as rows.
    array.into_data().validate_full().unwrap();
}

/// A rounding policy may make blocks larger than an offset can reach.
#[test]
fn a_view_never_leads_beyond_what_an_offset_can_say() {
    use arrow_memory_core::SegmentRoundingPolicy;

    // This many times the bound that tests have.
    const BLOCK: usize = 16 << 20;
    let root = RootAllocator::builder()
        .rounding_policy(SegmentRoundingPolicy::new(BLOCK).unwrap())
        .build()
        .unwrap();
    let text = "a long value ".repeat(80_000);
    let mut builder = StringViewBuilder::new(&root);
    for _ in 0..10 {
        builder.append(&text).unwrap();
    }
    let array = builder.finish();

    assert!(array.data_buffers().len() > 1);
    let bound = 4 << 20;
    assert!(
        array
            .data_buffers()
            .iter()
            .all(|block| block.len() <= bound)
    );
    assert!(array.iter().all(|value| value == Some(text.as_str())));
}

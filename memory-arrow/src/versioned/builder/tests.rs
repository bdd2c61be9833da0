//! The promises of all builders.

use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_system as _;

use super::super::deps::arrow_array::cast::AsArray;
use super::super::deps::arrow_array::types::*;
use super::super::deps::arrow_array::*;
use super::super::deps::arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use super::*;

/// The types whose builders have no other builder inside.
fn flat_types() -> Vec<DataType> {
    let dictionary =
        |key: DataType, value: DataType| DataType::Dictionary(Box::new(key), Box::new(value));
    vec![
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Date32,
        DataType::Date64,
        DataType::Time32(TimeUnit::Second),
        DataType::Time32(TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Second, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Duration(TimeUnit::Second),
        DataType::Duration(TimeUnit::Millisecond),
        DataType::Duration(TimeUnit::Microsecond),
        DataType::Duration(TimeUnit::Nanosecond),
        DataType::Interval(IntervalUnit::YearMonth),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Decimal32(5, 2),
        DataType::Decimal64(10, 2),
        DataType::Decimal128(20, 3),
        DataType::Decimal256(40, 4),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::FixedSizeBinary(5),
        dictionary(DataType::Int8, DataType::Utf8),
        dictionary(DataType::UInt32, DataType::Float64),
    ]
}

/// The flat types, and lists and structs of each of them.
fn all_types() -> Vec<DataType> {
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let mut types = flat_types();
    let nested: Vec<DataType> = types
        .iter()
        .flat_map(|inner| {
            [
                DataType::List(item(inner.clone())),
                DataType::LargeList(item(inner.clone())),
                DataType::FixedSizeList(item(inner.clone()), 2),
                DataType::Struct(vec![Field::new("a", inner.clone(), true)].into()),
            ]
        })
        .collect();
    types.extend(nested);
    types
}

#[test]
fn every_type_is_built_of_nulls_empty_and_again() {
    for data_type in all_types() {
        let root = RootAllocator::new(1 << 20);
        let mut builder = make_builder(&data_type, &root).unwrap();
        assert_eq!(builder.data_type(), data_type);

        for rows in [0, 1, 70, 0, 3] {
            builder.append_nulls(rows).unwrap();
            assert_eq!(builder.len(), rows);
            let array = builder.finish_array().unwrap();
            assert_eq!(
                (array.len(), array.null_count()),
                (rows, rows),
                "{data_type}"
            );
            assert_eq!(array.data_type(), &data_type);
            array.to_data().validate_full().unwrap();
            assert!(builder.is_empty());
        }
        drop(builder);
        assert_eq!(root.allocated_memory(), 0, "{data_type}");
        root.close().unwrap();
    }
}

/// Appends until the allocator refuses, and checks that all rows before are there.
fn refused_after<B: ArrayBuilder>(
    builder: &mut B,
    root: &RootAllocator,
    mut append: impl FnMut(&mut B, usize) -> Result<(), MemoryError>,
) -> ArrayRef {
    let mut rows = 0;
    let refused = loop {
        match append(builder, rows) {
            Ok(()) => rows += 1,
            Err(refused) => break refused,
        }
        assert!(rows < 1_000_000, "no limit");
    };
    assert!(refused.is_out_of_memory(), "{refused}");
    assert_eq!(builder.len(), rows);
    assert!(root.allocated_memory() <= root.limit());
    let array = builder.finish_array().unwrap();
    array.to_data().validate_full().unwrap();
    assert_eq!(array.len(), rows);
    array
}

#[test]
fn growth_is_refused_with_an_error_and_leaves_the_builder_as_it_was() {
    for limit in [0, 64, 1000, 10_000, 100_000] {
        let root = RootAllocator::new(limit);
        let array = refused_after(
            &mut Int64Builder::new(&root),
            &root,
            |builder, row| match row % 7 {
                3 => builder.append_null(),
                _ => builder.append(row as i64),
            },
        );
        for (row, value) in array.as_primitive::<Int64Type>().iter().enumerate() {
            assert_eq!(value, (row % 7 != 3).then_some(row as i64));
        }
        drop(array);
        let text = |row: usize| format!("row {row}, {}", "x".repeat(row % 20));
        let array = refused_after(&mut StringBuilder::new(&root), &root, |builder, row| {
            builder.append(text(row))
        });
        for (row, value) in array.as_string::<i32>().iter().enumerate() {
            assert_eq!(value, Some(&*text(row)));
        }
        drop(array);
        let array = refused_after(&mut StringViewBuilder::new(&root), &root, |builder, row| {
            builder.append(text(row))
        });
        for (row, value) in array.as_string_view().iter().enumerate() {
            assert_eq!(value, Some(&*text(row)));
        }
        drop(array);
        let mut builder = StringDictionaryBuilder::<Int32Type>::new(&root);
        let array = refused_after(&mut builder, &root, |builder, row| {
            builder.append(text(row / 2)).map(drop)
        });
        let array = array.as_dictionary::<Int32Type>();
        for row in 0..array.len() {
            let value = array
                .values()
                .as_string::<i32>()
                .value(array.key(row).unwrap());
            assert_eq!(value, text(row / 2));
        }
        drop(builder);
        let mut builder = BooleanBuilder::new(&root);
        refused_after(&mut builder, &root, |builder, row| {
            builder.append_option((row % 3 > 0).then_some(row % 2 == 0))
        });
        drop(builder);
    }
}

#[test]
fn slices_and_values_are_appended_whole_or_not_at_all() {
    let root = RootAllocator::new(1024);
    let mut ints = Int32Builder::new(&root);
    ints.append_slice(&[1, 2, 3]).unwrap();
    assert!(ints.append_slice(&[0; 1000]).is_err());
    assert!(
        ints.append_values(&[0; 1000], Some(&[false; 1000]))
            .is_err()
    );
    ints.append_values(&[4, 5], Some(&[true, false])).unwrap();
    assert!(ints.append_values(&[4, 5], Some(&[true])).is_err());
    assert_eq!(
        ints.finish(),
        Int32Array::from(vec![Some(1), Some(2), Some(3), Some(4), None])
    );

    let mut strings = StringBuilder::new(&root);
    strings
        .append_values(&["a", "b"], Some(&[false, true]))
        .unwrap();
    assert!(strings.append_slice(&["x".repeat(2000)]).is_err());
    strings.append_slice(&["c"]).unwrap();
    assert_eq!(
        strings.finish(),
        StringArray::from(vec![None, Some("b"), Some("c")])
    );

    let mut bools = BooleanBuilder::new(&root);
    bools.append_slice(&[true, false]).unwrap();
    bools
        .append_values(&[true, true], Some(&[true, false]))
        .unwrap();
    assert_eq!(
        bools.finish(),
        BooleanArray::from(vec![Some(true), Some(false), Some(true), None])
    );
}

#[test]
fn lists_and_structs_are_what_arrow_builds() {
    let root = RootAllocator::new(1 << 20);
    let mut lists = ListBuilder::new(&root, Int32Builder::new(&root));
    for list in [Some(&[1, 2][..]), None, Some(&[]), Some(&[3])] {
        match list {
            Some(values) => {
                lists.values().append_slice(values).unwrap();
                lists.append().unwrap();
            }
            None => lists.append_null().unwrap(),
        }
    }
    let some = |values: &[i32]| Some(values.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(
        lists.finish().unwrap(),
        ListArray::from_iter_primitive::<Int32Type, _, _>([
            some(&[1, 2]),
            None,
            some(&[]),
            some(&[3])
        ])
    );

    let mut fixed = FixedSizeListBuilder::new(&root, Int32Builder::new(&root), 2).unwrap();
    fixed.values().append(1).unwrap();
    assert!(fixed.append().is_err(), "one value is missing");
    assert!(fixed.append_null().is_err(), "one value is left over");
    fixed.values().append(2).unwrap();
    fixed.append().unwrap();
    fixed.append_null().unwrap();
    assert_eq!(
        fixed.finish().unwrap(),
        FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            [Some([Some(1), Some(2)]), None],
            2
        )
    );

    let fields = vec![Field::new("a", DataType::Int32, true)];
    let mut structs = StructBuilder::new(&root, fields).unwrap();
    assert!(structs.append().is_err(), "the field has no value");
    structs.field::<Int32Builder>(0).unwrap().append(7).unwrap();
    structs.append().unwrap();
    structs.append_null().unwrap();
    let array = structs.finish().unwrap();
    assert_eq!((array.len(), array.null_count()), (2, 1));
    assert_eq!(array.column(0).as_primitive::<Int32Type>().value(0), 7);
}

#[test]
fn keys_run_out_with_an_error() {
    let root = RootAllocator::new(1 << 20);
    let mut builder = PrimitiveDictionaryBuilder::<Int8Type, Int64Type>::new(&root);

    for value in 0..128 {
        builder.append(value).unwrap();
    }
    assert!(matches!(builder.append(128), Err(MemoryError::Value(_))));
    builder.append(5).unwrap();

    let array = builder.finish();
    assert_eq!((array.len(), array.values().len()), (129, 128));
}

#[test]
fn an_array_outlives_its_builder_and_keeps_its_charge() {
    let root = RootAllocator::new(1 << 20);
    let mut builder = Int64Builder::with_capacity(&root, 100).unwrap();
    builder.append(1).unwrap();
    let array = builder.finish();
    drop(builder);

    assert_eq!((array.value(0), root.allocated_memory()), (1, 832));
    let slice = array.slice(0, 1);
    drop(array);
    assert_eq!(root.allocated_memory(), 832);
    drop(slice);
    root.close().unwrap();
}

/// A field whose first `finish_array` fails.
struct FailsOnce {
    values: Int32Builder,
    failed: bool,
}

impl ArrayBuilder for FailsOnce {
    fn data_type(&self) -> DataType {
        DataType::Int32
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        self.values.append_nulls(n)
    }

    fn finish_array(&mut self) -> Result<ArrayRef, MemoryError> {
        if !std::mem::replace(&mut self.failed, true) {
            return wrong("no memory".into());
        }
        self.values.finish_array()
    }
}

#[test]
fn a_struct_whose_last_field_fails_loses_none_of_the_others() {
    let root = RootAllocator::new(1 << 20);
    let field = |name| Field::new(name, DataType::Int32, true);
    let builders: Vec<Box<dyn ArrayBuilder>> = vec![
        Box::new(Int32Builder::new(&root)),
        Box::new(FailsOnce {
            values: Int32Builder::new(&root),
            failed: false,
        }),
    ];
    let fields = vec![field("a"), field("b")].into();
    let mut structs = StructBuilder::with_builders(&root, fields, builders).unwrap();
    structs.field::<Int32Builder>(0).unwrap().append(7).unwrap();
    let second = structs.field::<FailsOnce>(1).unwrap();
    second.values.append(8).unwrap();
    structs.append().unwrap();

    assert!(structs.finish().is_err());
    assert_eq!(structs.len(), 1);
    assert!(structs.append_null().is_err() && structs.append().is_err());
    let array = structs.finish().unwrap();
    let values = |index: usize| array.column(index).as_primitive::<Int32Type>().value(0);
    assert_eq!((array.len(), values(0), values(1)), (1, 7, 8));
    structs.append_null().unwrap();
    assert_eq!(structs.finish().unwrap().len(), 1);
}

//! Random arrays of every type, through everything.
#![expect(unsafe_code, reason = "imports what the tests exported")]

use std::collections::HashSet;
use std::sync::Arc;

use arrow_memory_core::RootAllocator;
use arrow_memory_core::testing::RecordingListener;
use arrow_memory_system as _;
use proptest::prelude::*;

use super::deps::arrow_array::*;
use super::deps::arrow_buffer::{Buffer, ScalarBuffer};
use super::deps::arrow_data::ArrayData;
use super::deps::arrow_schema::DataType;
use super::random::{KINDS, Random, random_array, random_batch};
use super::{
    Accounted, adopt_buffer, export_array, export_batch, import_array, import_batch, into_buffer,
};
use crate::error::MemoryError;

/// Checks that two arrays have the same type and the same values.
fn assert_same(ours: &ArrayData, theirs: &ArrayData) {
    assert_eq!(ours.data_type(), theirs.data_type());
    assert_eq!(ours, theirs);
}

/// Adopts, slices, moves, exports, imports and detaches an array, and checks the charges after each step.
fn through_everything(array: &ArrayRef, from: usize, len: usize) {
    let root = RootAllocator::new(1 << 30);
    let (scan, join) = (
        root.child("scan").build().unwrap(),
        root.child("join").build().unwrap(),
    );
    let before = array.to_data();

    let adopted = array.clone().adopt(&scan).unwrap();
    let charged = scan.allocated_memory();
    assert_same(&adopted.to_data(), &before);
    assert_eq!(adopted.accounted_size(), charged);
    adopted.to_data().validate_full().unwrap();

    // The array and a slice of it are adopted again, and no byte is charged twice.
    let again = array.clone().adopt(&scan).unwrap();
    let slice = adopted.slice(from, len);
    let adopted_slice = slice.clone().adopt(&scan).unwrap();
    assert_eq!(scan.allocated_memory(), charged);
    assert_same(&adopted_slice.to_data(), &array.slice(from, len).to_data());
    drop((again, adopted_slice));

    let moved = adopted.try_transfer_ownership(&join).unwrap();
    assert_eq!(
        (scan.allocated_memory(), join.allocated_memory()),
        (0, charged)
    );
    drop(adopted);
    assert_same(&moved.to_data(), &before);

    // The array and a slice of it are exported and imported again. Imported buffers usually start where
    // those of the tree do.
    for exported in [&moved, &slice] {
        let expected = exported.to_data();
        let (c_array, c_schema) = export_array(exported).unwrap();
        // SAFETY: arrow-rs made the structures from a valid array.
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
        // The cases are the same each time, so that a failure is due to the change at hand.
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

        let adopted = batch.clone().adopt(&root).unwrap();
        prop_assert_eq!(&adopted, &batch);
        let (array, schema) = export_batch(&adopted).unwrap();
        // SAFETY: arrow-rs made the structures from a valid batch.
        let imported = unsafe { import_batch(array, &schema, &root) }.unwrap();
        prop_assert_eq!(&imported, &batch);

        drop((adopted, imported));
        prop_assert_eq!(root.allocated_memory(), 0);
    }
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

    let refused = batch.adopt(&root).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!(
        (root.allocated_memory(), root.peak_memory_allocation()),
        (0, 0)
    );
    root.set_limit(3200);
    let adopted = refused.value.adopt(&root).unwrap();
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

    let adopted = batch.clone().adopt(&root).unwrap();

    assert_eq!(
        (root.allocated_memory(), adopted.accounted_size()),
        (800, 800)
    );
    assert_eq!(adopted, batch);
}

#[test]
fn a_transfer_moves_what_a_tree_charges_already_or_changes_nothing() {
    let root = RootAllocator::new(1 << 20);
    let scan = root.child("scan").build().unwrap();
    let tight = root.child("tight").limit(100).build().unwrap();
    let buffer = Buffer::from_vec(vec![1_u8; 500]);

    let claimed = buffer.try_transfer_ownership(&scan).unwrap();
    let refused = claimed.try_transfer_ownership(&tight).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (500, 0)
    );

    let batch =
        RecordBatch::try_from_iter([("a", Arc::new(Int8Array::from(vec![1; 60])) as ArrayRef)])
            .unwrap();
    let held = batch.try_transfer_ownership(&tight).unwrap();
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

    let refused = adopted.try_transfer_ownership(&tight).unwrap_err();
    assert!(refused.is_out_of_memory());

    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (1600, 0)
    );
    drop((adopted, scan, tight));
    root.close().unwrap();
}

#[test]
fn a_transfer_of_ownership_passes_limits_and_says_so() {
    let root = RootAllocator::new(1 << 20);
    let scan = root.child("scan").build().unwrap();
    let tight = root.child("tight").limit(1000).build().unwrap();
    let array = || Arc::new(Int64Array::from(vec![7; 100])) as ArrayRef;
    // One column is charged in the tree, and one is not.
    let (first, second) = (array().adopt(&scan).unwrap(), array());
    let batch = RecordBatch::try_from_iter([("a", first), ("b", second)]).unwrap();

    let moved = batch.transfer_ownership(&tight).unwrap();
    assert!(!moved.allocation_fit && tight.is_over_limit());
    assert_eq!(moved.value, batch);
    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (0, 1600)
    );
    tight.set_limit(1600);
    let again = moved.value.transfer_ownership(&scan).unwrap();
    let back = again.value.transfer_ownership(&tight).unwrap();

    assert!(again.allocation_fit && back.allocation_fit);
    assert_eq!(
        (scan.allocated_memory(), tight.allocated_memory()),
        (0, 1600)
    );
    assert_eq!(tight.stats().foreign_bytes, 1600);
    drop((batch, moved, again, back));
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn a_transfer_of_ownership_adopts_by_force_without_asking_the_listener() {
    let listener = Arc::new(RecordingListener::new());
    listener.veto(true);
    let root = RootAllocator::builder().listener(listener).limit(100);
    let root = root.build().unwrap();

    let array = Int64Array::from(vec![7; 100]);
    assert!(array.try_transfer_ownership(&root).is_err());
    let moved = array.transfer_ownership(&root).unwrap();

    assert!(!moved.allocation_fit && root.is_over_limit());
    let stats = root.stats();
    assert_eq!((stats.foreign_bytes, stats.forced_bytes), (800, 800));
    drop(moved);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_closed_allocator_takes_no_ownership_and_nothing_has_changed() {
    let root = RootAllocator::new(1 << 20);
    let (scan, closed) = (
        root.child("scan").build().unwrap(),
        root.child("closed").build().unwrap(),
    );
    let guest = closed.buffer(100).unwrap();
    closed.close().unwrap_err();
    let theirs = Int64Array::from(vec![7; 100]);
    let ours = theirs.clone().adopt(&scan).unwrap();

    let refused = ours.transfer_ownership(&closed).unwrap_err();
    assert!(matches!(refused, MemoryError::Transfer(_)), "{refused}");
    let unknown = Int64Array::from(vec![8; 100]);
    let refused = unknown.transfer_ownership(&closed).unwrap_err();
    assert!(matches!(refused, MemoryError::Alloc(_)), "{refused}");

    assert_eq!(
        (scan.allocated_memory(), closed.allocated_memory()),
        (800, 128)
    );
    drop((guest, ours));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn detached_memory_can_be_written_in_place_again() {
    let root = RootAllocator::new(1 << 20);
    let array = Int64Array::from(vec![1, 2, 3]);
    let address = array.values().as_ptr();
    let adopted = array.adopt(&root).unwrap();
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
fn a_copy_is_aligned_as_its_source_was() {
    let root = RootAllocator::new(1 << 20);
    let bytes: Vec<u8> = [0; 15]
        .into_iter()
        .chain(1..=4)
        .flat_map(u32::to_ne_bytes)
        .collect();
    let odd = root.buffer_from_slice(&bytes).unwrap().slice(60..);
    let values = into_buffer(odd).slice(4);
    let array = UInt64Array::new(ScalarBuffer::new(values, 0, 1), None);

    let detached = array.detach();

    assert_eq!(detached, array);
    drop(array);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_refused_import_releases_the_source_once() {
    let held = RootAllocator::new(1 << 20);
    let tight = RootAllocator::new(10);
    let array = Int64Array::from(vec![7; 100]).adopt(&held).unwrap();
    let (c_array, c_schema) = export_array(&array).unwrap();
    drop(array);
    assert_eq!(held.allocated_memory(), 800);

    // SAFETY: arrow-rs made the structures from a valid array.
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
fn every_type_of_arrow_is_among_the_random_ones() {
    let mut seen = HashSet::new();
    for kind in 0..KINDS {
        // Some kinds are of several types, so several arrays of each are made.
        for seed in 1..60 {
            let array = random_array(&mut Random::new(seed), kind, 3, 1);
            seen.insert(name(array.data_type()));
        }
    }
    assert_eq!(seen.len(), 61, "{seen:?}");
}

/// A name for each type. The match has every type, so none can be forgotten.
fn name(data_type: &DataType) -> String {
    use DataType::*;
    match data_type {
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64
        | Float16 | Float32 | Float64 | Date32 | Date64 | Utf8 | LargeUtf8 | Utf8View | Binary
        | LargeBinary | BinaryView => format!("{data_type:?}"),
        Time32(unit) | Time64(unit) | Duration(unit) => {
            let debug = format!("{data_type:?}");
            format!("{} {unit:?}", debug.split('(').next().unwrap())
        }
        Timestamp(unit, _) => format!("Timestamp {unit:?}"),
        Interval(unit) => format!("Interval {unit:?}"),
        FixedSizeBinary(_) => "FixedSizeBinary".into(),
        Decimal32(..) => "Decimal32".into(),
        Decimal64(..) => "Decimal64".into(),
        Decimal128(..) => "Decimal128".into(),
        Decimal256(..) => "Decimal256".into(),
        List(_) => "List".into(),
        LargeList(_) => "LargeList".into(),
        FixedSizeList(..) => "FixedSizeList".into(),
        ListView(_) => "ListView".into(),
        LargeListView(_) => "LargeListView".into(),
        Struct(_) => "Struct".into(),
        Map(..) => "Map".into(),
        Union(_, mode) => format!("Union {mode:?}"),
        Dictionary(key, _) => format!("Dictionary {key}"),
        RunEndEncoded(ends, _) => format!("RunEndEncoded {}", ends.data_type()),
    }
}

#[test]
fn a_slice_whose_whole_memory_counts_says_so_when_it_is_refused() {
    let root = RootAllocator::new(1000);
    let values: Int64Array = (0..100_000).collect();
    let slice = values.slice(0, 3);

    let full = slice.clone().adopt(&root).err().unwrap().to_string();
    root.close().unwrap();
    let closed = slice.adopt(&root).err().unwrap().to_string();

    let capacity = values.values().inner().capacity();
    let keeps = format!("24 bytes, which keeps an allocation of {capacity} bytes alive,");
    let prefix =
        format!("allocator `ROOT` is out of room: {capacity} bytes requested for a slice of ");
    assert_eq!(
        full,
        format!("{prefix}{keeps} 1000 left of its limit of 1000")
    );
    assert_eq!(
        closed,
        format!("allocator `ROOT` is closed: a slice of {keeps} refused")
    );
}

//! Hand-overs: which memory is adopted, moved, shared and left alone, within limits and by force.

use std::cell::Cell;
use std::sync::Arc;

use arrow_memory_core::testing::RecordingListener;
use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_system as _;

use super::super::deps::arrow_array::types::Int32Type;
use super::super::deps::arrow_array::*;
use super::super::deps::arrow_schema::{DataType, Field};
use super::super::{Accounted, arrow_buf, into_buffer};
use super::{array, child};
use crate::hand_over::HandOver;

/// A column of 800 bytes, as a batch has it.
fn column() -> ArrayRef {
    Arc::new(array())
}

fn batch_of(columns: &[&ArrayRef]) -> RecordBatch {
    let named = columns.iter().enumerate();
    RecordBatch::try_from_iter(named.map(|(at, &it)| (format!("c{at}"), it.clone()))).unwrap()
}

/// Allocators of a tree, as many as are named.
fn children<const N: usize>(root: &BufferAllocator) -> [BufferAllocator; N] {
    std::array::from_fn(|at| child(root, &format!("child {at}")))
}

fn allocated<const N: usize>(of: [&BufferAllocator; N]) -> [usize; N] {
    of.map(|it| it.allocated_memory())
}

#[test]
fn each_column_is_handed_over_by_who_pays_for_it() {
    let root = RootAllocator::new(1 << 20);
    let [scan, sort, cache] = children(&root);
    let produced = column().adopt(&scan).unwrap();
    let cached = column().adopt(&cache).unwrap();
    let held = column().adopt(&sort).unwrap();
    let table = column();
    let start = table.to_data().buffers()[0].data_ptr();
    let batch = batch_of(&[&column(), &produced, &cached, &held, &table]);
    drop((produced, held));

    let except = |at| at == start;
    let by = HandOver::new(&scan, &sort).except(&except);
    let handed = batch.hand_over(&by).unwrap();

    assert!(handed.allocation_fit);
    // Its own, the produced one, and what it adopted; the cached one is only shared.
    assert_eq!(allocated([&scan, &sort, &cache]), [0, 2400, 800]);
    assert_eq!(handed.value.accounted_size(), 3200);
    let left = handed.value.column(4).to_data().buffers()[0].clone();
    assert!(arrow_buf(&left).is_none() && left.data_ptr() == start);
    scan.close().unwrap();
    // Sharing keeps the memory alive, whoever pays for it.
    drop(cached);
    assert_eq!(allocated([&sort, &cache]), [3200, 0]);
    drop((handed, left));
    assert_eq!((root.allocated_memory(), table.len()), (0, 100));
    root.verify().unwrap();
}

#[test]
fn within_limits_a_value_is_refused_as_a_whole_and_handed_back() {
    let root = RootAllocator::new(1 << 20);
    let scan = child(&root, "scan");
    let small = root.child("small").limit(1600).build().unwrap();
    let produced = column().adopt(&scan).unwrap();
    let more = column().adopt(&scan).unwrap();
    let by = HandOver::new(&scan, &small);
    // Too much to adopt; too much to move; too much together.
    let batches = [
        batch_of(&[&column(), &column(), &column()]),
        batch_of(&[&produced, &more, &column().adopt(&scan).unwrap()]),
        batch_of(&[&produced, &column(), &more]),
    ];
    for batch in batches {
        let before = (batch.clone(), scan.allocated_memory());

        let refused = batch.hand_over(&by).unwrap_err();

        assert!(refused.is_out_of_memory(), "{refused}");
        assert_eq!(
            (&refused.value, scan.allocated_memory()),
            (&before.0, before.1)
        );
        assert_eq!(allocated([&small]), [0]);
        root.verify().unwrap();
    }
    let fits = batch_of(&[&produced, &column()]);
    drop((produced, more));
    let handed = fits.hand_over(&by).unwrap();
    assert_eq!(
        (allocated([&scan, &small]), handed.allocation_fit),
        ([0, 1600], true)
    );
}

#[test]
fn a_forced_hand_over_passes_limits_and_is_counted() {
    let listener = Arc::new(RecordingListener::new());
    let root = RootAllocator::builder().listener(listener.clone()).build();
    let root = root.unwrap();
    let scan = child(&root, "scan");
    let small = root.child("small").limit(1000).build().unwrap();
    let batch = batch_of(&[&column().adopt(&scan).unwrap(), &column()]);
    listener.take();
    listener.veto(true);

    let handed = batch
        .hand_over(&HandOver::new(&scan, &small).forced())
        .unwrap();

    assert!(!handed.allocation_fit && small.is_over_limit());
    assert_eq!(allocated([&scan, &small]), [0, 1600]);
    assert_eq!(small.stats().forced_bytes, 1600);
    // Told, and not asked.
    assert_eq!(
        listener.lines(),
        [
            "allocation of 800 at small",
            "transfer of 800 from scan to small"
        ]
    );
    // What is there already charges nothing, and so fits.
    let again = handed
        .value
        .hand_over(&HandOver::new(&scan, &small).forced())
        .unwrap();
    assert!(again.allocation_fit);
    assert_eq!(
        (allocated([&small]), small.stats().forced_bytes),
        ([1600], 1600)
    );
    drop(again);
    assert!(!small.is_over_limit());
}

#[test]
fn a_closed_receiver_refuses_and_a_closed_giver_does_not() {
    let root = RootAllocator::new(1 << 20);
    let [scan, sort, closed] = children(&root);
    closed.close().unwrap();
    let produced = column().adopt(&scan).unwrap();
    let batches = [batch_of(&[&produced]), batch_of(&[&column()])];
    for batch in batches {
        for by in [
            HandOver::new(&scan, &closed),
            HandOver::new(&scan, &closed).forced(),
        ] {
            let refused = batch.clone().hand_over(&by).unwrap_err();
            assert!(refused.to_string().contains("closed"), "{refused}");
            assert_eq!((allocated([&scan]), &refused.value), ([800], &batch));
        }
    }
    scan.close().unwrap_err();
    let handed = produced.hand_over(&HandOver::new(&scan, &sort)).unwrap();
    assert_eq!(allocated([&scan, &sort, &root]), [0, 800, 800]);
    drop(handed);
}

#[test]
fn nested_columns_are_handed_over_with_all_their_buffers() {
    let root = RootAllocator::new(1 << 20);
    let [scan, sort] = children(&root);
    let names: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let field = |name: &str, of: &dyn Array| Field::new(name, of.data_type().clone(), true);
    let fields = vec![field("names", &names), field("lists", &lists)];
    let nested: ArrayRef = Arc::new(StructArray::new(
        fields.into(),
        vec![Arc::new(names), Arc::new(lists)],
        Some(vec![true, false, true].into()),
    ));
    let before = nested.clone();

    let adopted = nested
        .hand_over(&HandOver::new(&sort, &scan))
        .unwrap()
        .value;
    let charged = scan.allocated_memory();
    assert!(charged > 0 && adopted.accounted_size() == charged);
    let moved = adopted
        .hand_over(&HandOver::new(&scan, &sort))
        .unwrap()
        .value;

    assert_eq!(allocated([&scan, &sort]), [0, charged]);
    assert_eq!(&moved, &before);
    scan.close().unwrap();
    drop(moved);
    assert_eq!(root.allocated_memory(), 0);
}

/// A buffer that two batches share is charged once, and to the receiver of the first; the second one shares it.
#[test]
fn a_buffer_of_two_batches_moves_with_the_first_and_is_shared_by_the_second() {
    for adopted in [false, true] {
        let root = RootAllocator::new(1 << 20);
        let [scan, sort, join] = children(&root);
        let shared = if adopted {
            column().adopt(&scan).unwrap()
        } else {
            column()
        };
        let [one, two] = [(); 2].map(|()| batch_of(&[&shared]));
        drop(shared);

        let one = one.hand_over(&HandOver::new(&scan, &sort)).unwrap().value;
        let two = two.hand_over(&HandOver::new(&scan, &join)).unwrap().value;

        assert_eq!(allocated([&scan, &sort, &join]), [0, 800, 0]);
        scan.close().unwrap();
        drop(one);
        assert_eq!(allocated([&sort, &join]), [0, 800]);
        drop(two);
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn slices_of_one_buffer_count_once_and_are_asked_about_once() {
    let root = RootAllocator::new(1 << 20);
    let [scan, sort] = children(&root);
    let asked = Cell::new(0);
    let except = |_| {
        asked.set(asked.get() + 1);
        false
    };
    for adopted in [false, true] {
        let whole = if adopted {
            column().adopt(&scan).unwrap()
        } else {
            column()
        };
        let field = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
        let slices = StructArray::from(vec![
            (field("first"), whole.slice(0, 50)),
            (field("second"), whole.slice(50, 50)),
        ]);
        drop(whole);
        asked.set(0);

        let by = HandOver::new(&scan, &sort).except(&except);
        let handed = slices.hand_over(&by).unwrap().value;

        assert_eq!((allocated([&scan, &sort]), asked.get()), ([0, 800], 1));
        assert_eq!((handed.len(), handed.accounted_size()), (50, 800));
        let rest = handed.slice(10, 5);
        drop(handed);
        let back = rest.hand_over(&HandOver::new(&sort, &scan)).unwrap().value;
        assert_eq!(allocated([&scan, &sort]), [800, 0]);
        drop(back);
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn memory_that_another_tree_is_charged_for_is_adopted() {
    let (root, theirs) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
    let [scan, sort] = children(&root);
    let elsewhere = column().adopt(&theirs).unwrap();

    let by = HandOver::new(&scan, &sort);
    let handed = elsewhere.clone().hand_over(&by).unwrap().value;

    assert_eq!(allocated([&theirs, &scan, &sort]), [800, 0, 800]);
    // The other tree charges its own until its last buffer is dropped, whoever the giver is.
    let by = HandOver::new(&theirs, &sort);
    let again = elsewhere.hand_over(&by).unwrap().value;
    assert_eq!(allocated([&theirs, &scan, &sort]), [0, 0, 800]);
    drop((handed, again));
    assert_eq!(root.allocated_memory(), 0);
}

/// The receiver shares the memory already, and another tree has adopted it since. The charge was not found behind
/// that of the other tree, and did not move.
#[test]
fn the_charge_is_found_behind_other_buffers_at_its_address() {
    for wider in [false, true] {
        let (root, theirs) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
        let [scan, sort] = children(&root);
        let ours = scan.buffer_from_slice(&[7; 640]).unwrap();
        let produced = into_buffer(ours.slice(..320));
        let shared = if wider {
            into_buffer(ours.retain_in(&sort).unwrap())
        } else {
            produced.clone().adopt(&sort).unwrap()
        };
        let elsewhere = produced.clone().adopt(&theirs).unwrap();
        assert_eq!(allocated([&theirs, &scan, &sort]), [320, 640, 0]);

        let handed = produced.hand_over(&HandOver::new(&scan, &sort)).unwrap();

        assert_eq!(allocated([&theirs, &scan, &sort]), [320, 0, 640]);
        drop((ours, handed, shared, elsewhere));
        assert_eq!(allocated([&theirs, &root]), [0, 0]);
    }
}

#[test]
fn what_stays_with_one_allocator_is_only_adopted() {
    let root = RootAllocator::new(1 << 20);
    let [scan] = children(&root);
    let batch = batch_of(&[&column().adopt(&scan).unwrap(), &column()]);

    let handed = batch.hand_over(&HandOver::new(&scan, &scan)).unwrap();

    assert_eq!((allocated([&scan]), handed.allocation_fit), ([1600], true));
    drop(handed);
    scan.close().unwrap();
}

/// Array data that was sliced may have a null mask without nulls, which the data that is built of it has not. The mask
/// ends with the value that is given up, in the middle of the move.
#[test]
fn a_mask_that_is_lost_on_the_way_ends_with_its_source() {
    let root = RootAllocator::new(1 << 20);
    let [scan, sort] = children(&root);
    let whole = Int64Array::from(vec![Some(1), None]).into_data();
    let whole = whole.adopt(&scan).unwrap();
    let slice = whole.slice(0, 1);
    assert!(slice.nulls().is_some_and(|nulls| nulls.null_count() == 0));
    drop(whole);
    let both = scan.allocated_memory();

    let handed = slice.hand_over(&HandOver::new(&scan, &sort)).unwrap();

    let values = handed.value.buffers()[0].accounted_size();
    assert!(values > 0 && values < both);
    assert_eq!(allocated([&scan, &sort]), [0, values]);
    root.verify().unwrap();
    drop(handed);
    assert_eq!(root.allocated_memory(), 0);
}

//! After a refusal all allocators are charged as before, whatever the value is on.

use std::sync::Arc;

use arrow_memory_core::{BufferAllocator, ForeignAllocation, RootAllocator};
use arrow_memory_system as _;

use super::super::deps::arrow_array::*;
use super::super::deps::arrow_buffer::Buffer;
use super::super::deps::arrow_schema::{DataType, Field, Schema};
use super::super::destination::Destination;
use super::super::{Accounted, into_buffer};
use super::{array, child};
use crate::hand_over::HandOver;
use crate::shares::Shares;

/// An owner that the library does not know.
struct Keeps(Buffer);

impl AsRef<[u8]> for Keeps {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A root, a giver, and a receiver with room for little.
fn tree() -> (RootAllocator, BufferAllocator, BufferAllocator) {
    let root = RootAllocator::new(1 << 20);
    let (scan, small) = (child(&root, "scan"), root.child("small").limit(60));
    let small = small.build().unwrap();
    (root, scan, small)
}

fn allocated<const N: usize>(of: [&BufferAllocator; N]) -> [usize; N] {
    of.map(|it| it.allocated_memory())
}

/// A value that another tree is charged for, while another buffer has the same memory charged to the giver.
#[test]
fn a_refused_hand_over_leaves_a_value_charged_to_another_tree() {
    let ((root, scan, small), theirs) = (tree(), RootAllocator::new(1 << 20));
    let kept = array().adopt(&scan).unwrap();
    let given = kept.transfer_ownership(&theirs).unwrap().value;
    assert_eq!(allocated([&scan, &theirs]), [800, 800]);

    let refused = given.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(allocated([&scan, &theirs]), [800, 800]);
    drop(refused);
    assert_eq!(allocated([&scan, &theirs]), [800, 0]);
    drop(kept);
    assert_eq!(root.allocated_memory(), 0);
}

/// A value whose memory another allocator of the tree is charged for, too, in an allocation of its own.
#[test]
fn a_refused_hand_over_leaves_a_value_charged_to_an_allocation_that_is_not_the_givers() {
    let (root, scan, small) = tree();
    let cache = child(&root, "cache");
    let memory = Buffer::from_vec(vec![7_u8; 800]);
    let kept = memory.clone().adopt(&scan).unwrap();
    let foreign = ForeignAllocation::from_owner(Keeps(memory));
    let given = into_buffer(cache.wrap_foreign_allocation(foreign).unwrap());
    assert_eq!(allocated([&cache, &scan]), [800, 800]);

    let refused = given.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(allocated([&cache, &scan]), [800, 800]);
    drop((refused, kept));
    assert_eq!(root.allocated_memory(), 0);
}

/// The lookup of the wide buffer does not see the entry of the narrow one, which begins where it does.
#[test]
fn a_refused_hand_over_leaves_a_part_of_a_value_charged_to_another_tree() {
    let ((root, scan, small), theirs) = (tree(), RootAllocator::new(1 << 20));
    let memory = Buffer::from_vec(vec![7_i64; 100]);
    let wide = memory.clone().adopt(&scan).unwrap();
    let narrow = ForeignAllocation::from_owner(Keeps(memory.slice_with_length(0, 100)));
    let narrow = into_buffer(theirs.wrap_foreign_allocation(narrow).unwrap());
    let narrow = Arc::new(UInt8Array::new(narrow.into(), None)) as ArrayRef;
    let numbers = Int64Array::new(wide.clone().into(), None);
    let numbers = Arc::new(numbers) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("narrow", narrow), ("wide", numbers)]).unwrap();
    assert_eq!(allocated([&scan, &theirs]), [800, 100]);

    let refused = batch.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(allocated([&scan, &theirs]), [800, 100]);
    drop((refused, wide));
    assert_eq!(allocated([&root, &theirs]), [0, 0]);
}

#[test]
fn a_refused_hand_over_leaves_empty_columns_their_memory() {
    let (root, scan, small) = tree();
    let text = Arc::new(StringArray::from(vec!["some text"; 100])) as ArrayRef;
    let columns = [("numbers", Arc::new(array()) as ArrayRef), ("text", text)];
    let whole = RecordBatch::try_from_iter(columns).unwrap();
    let whole = whole.adopt(&scan).unwrap();
    let empty = whole.slice(0, 0);
    drop(whole);
    let before = scan.allocated_memory();

    let refused = empty.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(scan.allocated_memory(), before);
    drop(refused);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_refused_hand_over_leaves_masks_without_nulls_where_they_are() {
    let (root, scan, small) = tree();
    let values = || Int64Array::from_iter((0..100).map(|number| (number > 0).then_some(number)));
    let whole = values().adopt(&scan).unwrap();
    let column = Arc::new(values()) as ArrayRef;
    let in_batch = RecordBatch::try_from_iter([("column", column)]).unwrap();
    let in_batch = in_batch.adopt(&scan).unwrap();
    let (typed, batch) = (whole.slice(1, 9), in_batch.slice(1, 9));
    drop((whole, in_batch));
    let before = scan.allocated_memory();

    let refused = typed.hand_over(&HandOver::new(&scan, &small)).unwrap_err();
    assert_eq!(scan.allocated_memory(), before);
    let other = batch.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(scan.allocated_memory(), before);
    drop((refused, other));
    assert_eq!(root.allocated_memory(), 0);
}

/// The giver is retired, and so takes no new charge; but this one it had before.
#[test]
fn what_was_moved_before_a_refusal_returns_to_a_giver_that_is_retired() {
    let (root, scan, small) = tree();
    let cache = child(&root, "cache");
    let first: ArrayRef = Arc::new(array().adopt(&cache).unwrap());
    let moved = first.transfer_ownership(&scan).unwrap().value;
    let other: ArrayRef = Arc::new(array().adopt(&scan).unwrap());
    let batch = RecordBatch::try_from_iter([("moved", moved), ("other", other)]).unwrap();
    small.set_limit(1000);
    scan.retire();
    assert_eq!(allocated([&cache, &scan, &small]), [0, 1600, 0]);

    let refused = batch.hand_over(&HandOver::new(&scan, &small)).unwrap_err();

    assert_eq!(allocated([&cache, &scan, &small]), [0, 1600, 0]);
    drop((refused, first));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_refused_hand_over_leaves_nothing_in_the_list_of_shares() {
    let (root, scan, small) = tree();
    small.set_limit(100);
    let shares = Shares::new();
    let shared: ArrayRef = Arc::new(array().adopt(&scan).unwrap());
    let kept = shared.slice(0, 100);
    let other: ArrayRef = Arc::new(array().adopt(&scan).unwrap());
    let batch = RecordBatch::try_from_iter([("shared", shared), ("other", other)]).unwrap();

    let by = HandOver::new(&scan, &small).shares(&shares);
    let refused = batch.hand_over(&by).unwrap_err();

    drop((refused, kept));
    assert_eq!(root.allocated_memory(), 0);
}

/// A batch is refused in its second column. The first one refers to memory that its allocator had before.
#[test]
fn a_batch_that_is_not_placed_leaves_earlier_batches_what_they_have() {
    let root = RootAllocator::new(1 << 20);
    let (file, messages) = (child(&root, "file"), child(&root, "messages"));
    let column = |name| Field::new(name, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![column("a"), column("b")]));
    let destination = Destination::columns(&file, &schema).unwrap();
    let destination = destination.with_messages(&messages);
    let [first, second] = destination.column_allocators() else {
        panic!("two columns");
    };
    second.set_limit(100);
    let again: ArrayRef = Arc::new(array().adopt(&messages).unwrap());
    let earlier = again.try_transfer_ownership(first).unwrap();
    let other: ArrayRef = Arc::new(array().adopt(&messages).unwrap());
    let batch = RecordBatch::try_new(schema, vec![again, other]).unwrap();
    assert_eq!(allocated([&messages, first, second]), [800, 800, 0]);

    let refused = destination.place(batch).unwrap_err();

    assert_eq!(allocated([&messages, first, second]), [800, 800, 0]);
    drop((refused, earlier));
    assert_eq!(root.allocated_memory(), 0);
}

/// arrow-rs refuses to make such a batch of these columns, though it is one. That was the last step, after all had moved.
#[test]
fn a_batch_whose_schema_allows_more_than_its_columns_is_placed() {
    let root = RootAllocator::new(1 << 20);
    let (file, messages) = (child(&root, "file"), child(&root, "messages"));
    let lists = FixedSizeListArray::new(
        Arc::new(Field::new("item", DataType::Int64, false)),
        2,
        Arc::new(array()),
        None,
    );
    let batch = RecordBatch::try_from_iter([("a", Arc::new(lists) as ArrayRef)]).unwrap();
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let field = Field::new("a", DataType::FixedSizeList(item, 2), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = batch.with_schema(Arc::clone(&schema)).unwrap();
    let batch = batch.adopt(&messages).unwrap();
    let destination = Destination::columns(&file, &schema).unwrap();
    let destination = destination.with_messages(&messages);

    let placed = destination.place(batch).unwrap();

    assert_eq!(allocated([&file, &messages]), [800, 0]);
    assert_eq!((placed.schema(), placed.num_rows()), (schema, 50));
    drop(placed);
    assert_eq!(root.allocated_memory(), 0);
}

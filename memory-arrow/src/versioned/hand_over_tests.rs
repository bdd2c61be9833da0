//! Adoption and moves that consume their source: the charges, and the state after an error.

use std::error::Error;
use std::sync::Arc;

use arrow_memory_core::{BufferAllocator, RootAllocator, TransferError};
use arrow_memory_system as _;

use super::builder::Int64Builder;
use super::deps::arrow_array::*;
use super::deps::arrow_buffer::Buffer;
use super::deps::arrow_schema::ArrowError;
use super::{Accounted, arrow_buf, into_buffer, known};
use crate::error::MemoryError;

mod kept;
mod random;
mod refusals;
mod rules;
mod shares;

/// 800 bytes.
pub(super) fn array() -> Int64Array {
    Int64Array::from(vec![7; 100])
}

/// Two columns of 800 bytes.
pub(super) fn batch() -> RecordBatch {
    let column = || Arc::new(array()) as ArrayRef;
    RecordBatch::try_from_iter([("a", column()), ("b", column())]).unwrap()
}

pub(super) fn child(root: &BufferAllocator, name: &str) -> BufferAllocator {
    root.child(name).build().unwrap()
}

/// The adopted array is the only one, so no uncharged array stays behind.
#[test]
fn an_adopted_array_takes_its_source_along() {
    let root = RootAllocator::new(1 << 20);
    let theirs = Buffer::from_vec(vec![1_u8; 500]);
    let watched = theirs.clone();

    let ours = theirs.adopt(&root).unwrap();
    drop(ours);

    assert_eq!((root.allocated_memory(), watched.strong_count()), (0, 1));
}

#[test]
fn a_refusal_hands_back_what_was_given() {
    let root = RootAllocator::new(799);

    let refused = array().adopt(&root).unwrap_err();
    assert!(refused.is_out_of_memory());
    assert_eq!(refused.value, array());
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a text"; 1000]));
    let refused = text.adopt(&root).unwrap_err();
    assert_eq!(refused.value.len(), 1000);
    assert_eq!((root.allocated_memory(), root.stats().own_bytes), (0, 0));
}

#[test]
fn a_move_leaves_no_handle_behind_on_the_source() {
    let root = RootAllocator::new(1 << 20);
    let (aggregate, results) = (child(&root, "aggregate"), child(&root, "results"));
    let output = batch().adopt(&aggregate).unwrap();
    let built = {
        let mut builder = Int64Builder::new(&aggregate);
        builder.append_slice(&[1, 2, 3]).unwrap();
        builder.finish()
    };

    // The names are shadowed, like users write it: with a source that stays alive, `close` failed.
    let output = output.try_move_to(&results).unwrap();
    let built = built.try_move_to(&results).unwrap();
    aggregate.close().unwrap();

    assert_eq!(results.allocated_memory(), 1600 + 64);
    drop((output, built));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_refused_move_says_what_the_core_said_and_changes_nothing() {
    let root = RootAllocator::new(1 << 20);
    let (scan, small) = (child(&root, "scan"), root.child("small").limit(1000));
    let small = small.build().unwrap();
    let moved = batch().adopt(&scan).unwrap();

    let refused = moved.try_move_to(&small).unwrap_err();

    let MemoryError::Transfer(core) = &refused.source else {
        panic!("{refused}");
    };
    assert_eq!(refused.to_string(), core.to_string());
    let TransferError::DoesNotFit { bytes, outcome, .. } = core else {
        panic!("{core}");
    };
    // The second column, beside the first.
    assert_eq!((*bytes, outcome.headroom()), (800, 200));
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (1600, 0)
    );
    small.set_limit(1600);
    let moved = refused.value.try_move_to(&small).unwrap();
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (0, 1600)
    );
    drop(moved);
}

#[test]
fn refusals_convert_with_a_question_mark() {
    fn memory(root: &BufferAllocator) -> Result<RecordBatch, MemoryError> {
        Ok(batch().adopt(root)?)
    }
    fn arrow(root: &BufferAllocator) -> Result<RecordBatch, ArrowError> {
        Ok(batch().adopt(root)?)
    }
    fn boxed(root: &BufferAllocator) -> Result<RecordBatch, Box<dyn Error + Send + Sync>> {
        Ok(batch().adopt(root)?)
    }
    fn core(root: &BufferAllocator) -> Result<(), MemoryError> {
        root.root_allocator().empty().try_move_to(root)?;
        let ours = root.root_allocator().buffer_from_slice(&[1])?;
        ours.try_move_to(root)?;
        Ok(())
    }
    fn transfer(from: &BufferAllocator, to: &BufferAllocator) -> Result<(), TransferError> {
        from.empty().adopt(to)?;
        from.empty().try_move_to(to)?;
        Ok(())
    }
    fn io(from: &BufferAllocator, to: &BufferAllocator) -> Result<(), std::io::Error> {
        from.buffer_from_slice(&[1])?.try_move_to(to)?;
        Ok(())
    }
    let root = RootAllocator::new(100);
    let none = root.child("none").limit(0).build().unwrap();

    let text = memory(&none).unwrap_err().to_string();
    let error = arrow(&none).unwrap_err();
    assert!(MemoryError::from(error).is_out_of_memory());
    let error = boxed(&none).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert!(
        error
            .downcast_ref::<MemoryError>()
            .is_some_and(MemoryError::is_out_of_memory)
    );
    assert!(core(&none).unwrap_err().is_out_of_memory());
    let elsewhere = transfer(&RootAllocator::new(0), &none).unwrap_err();
    assert!(matches!(elsewhere, TransferError::DifferentRoots { .. }));
    let error = io(&root, &none).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    let refused = batch().adopt(&none).unwrap_err();
    assert_eq!(format!("{refused:?}"), format!("{:?}", refused.source));
    assert_eq!(format!("{refused}"), text);
    assert_eq!(root.allocated_memory(), 0);
}

/// Each lookup looked at every entry of its address, and collected them: 16 times as many slices took 256 times
/// as long. The test counts steps, since times depend on what else runs.
#[test]
fn many_buffers_at_one_address_are_looked_up_in_a_few_steps_each() {
    const COUNT: usize = 2000;

    let root = RootAllocator::unlimited();
    let other = child(&root, "other");
    let ours = into_buffer(root.buffer_from_slice(&[7; 20_000]).unwrap());
    let held = root.buffer_from_slice(&[7; 20_000]).unwrap();
    let theirs = Buffer::from_vec(vec![7_u8; 20_000]);
    let slices = |of: &Buffer| -> Vec<Buffer> {
        let slice = |at| of.slice_with_length(at, 4);
        (0..COUNT).map(slice).collect()
    };
    let adopted = |of: &Buffer, by: &BufferAllocator| -> Vec<Buffer> {
        let adopt = |slice: Buffer| slice.adopt(by).unwrap();
        slices(of).into_iter().map(adopt).collect()
    };
    let moved = |buffers: Vec<Buffer>, to: &BufferAllocator| -> Vec<Buffer> {
        let moved = |slice: Buffer| slice.try_move_to(to).unwrap();
        buffers.into_iter().map(moved).collect()
    };
    let recognised = |buffers: Vec<Buffer>| -> Vec<Buffer> {
        assert!(buffers.iter().all(|buffer| arrow_buf(buffer).is_some()));
        buffers
    };
    let ways: [(&str, &dyn Fn() -> Vec<Buffer>); 8] = [
        ("slices of ours", &|| adopted(&ours, &root)),
        ("slices of ours, elsewhere", &|| adopted(&ours, &other)),
        ("slices of theirs", &|| adopted(&theirs, &root)),
        ("handed on", &|| moved(adopted(&ours, &root), &other)),
        ("handed on twice", &|| {
            moved(moved(adopted(&theirs, &root), &other), &root)
        }),
        ("clones", &|| {
            let clone = |_| into_buffer(held.clone());
            recognised((0..COUNT).map(clone).collect())
        }),
        ("ever wider", &|| {
            let prefix = |len| into_buffer(held.slice(..len));
            recognised((1..=COUNT).map(prefix).collect())
        }),
        ("ever narrower", &|| {
            let prefix = |len| into_buffer(held.slice(..len));
            recognised((1..=COUNT).rev().map(prefix).collect())
        }),
    ];
    for (name, run) in ways {
        let before = known::looked_at();
        drop(run());
        let steps = (known::looked_at() - before) as f64 / COUNT as f64;
        assert!(steps <= 20.0, "{name}: {steps} entries for each");
    }
    assert_eq!(root.allocated_memory(), 2 * 20_032);
}

/// A batch of which one column is charged to the tree already, and one to another tree. The other tree's charge
/// once stayed for as long as the result lived.
#[test]
fn a_column_of_another_tree_beside_a_known_one_leaves_the_other_tree() {
    let (ours, theirs) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
    let known = Arc::new(array().adopt(&ours).unwrap()) as ArrayRef;
    let elsewhere = Arc::new(array().adopt(&theirs).unwrap()) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("known", known), ("elsewhere", elsewhere)]).unwrap();

    let adopted = batch.adopt(&ours).unwrap();

    assert_eq!(
        (ours.allocated_memory(), theirs.allocated_memory()),
        (1600, 0)
    );
    theirs.close().unwrap();
    drop(adopted);
    assert_eq!(ours.allocated_memory(), 0);
}

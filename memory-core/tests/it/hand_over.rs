//! Handing buffers over, together with the source handle.

use std::error::Error;
use std::io;

use arrow_memory_core::{ArrowBuf, BufferAllocator, TransferError};

use crate::support::{child, ones, tracked};

#[test]
fn a_buffer_that_moves_leaves_no_handle_behind() {
    let (_, root) = tracked(1 << 20);
    let (scan, join) = (child(&root, "scan"), child(&root, "join"));

    let buffer = ones(&scan, 100).try_move_to(&join).unwrap();
    scan.close().unwrap();
    assert_eq!((buffer.ref_count(), join.allocated_memory()), (1, 128));

    let same = buffer.try_move_to(&join).unwrap();
    assert_eq!((same.ref_count(), join.allocated_memory()), (1, 128));
}

#[test]
fn a_buffer_that_is_adopted_is_shared_and_then_the_adopters() {
    let (_, root) = tracked(1 << 20);
    let (scan, join) = (child(&root, "scan"), child(&root, "join"));
    let first = ones(&scan, 100);

    let second = first.clone().adopt(&join).unwrap();
    assert_eq!((scan.allocated_memory(), join.allocated_memory()), (128, 0));
    let first = first.adopt(&scan).unwrap();
    assert_eq!((first.ref_count(), second.ref_count()), (1, 1));
    let third = first.adopt(&join).unwrap();
    assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 128));
    assert_eq!(second.ref_count(), 2);
    scan.close().unwrap();
    drop((second, third));
    root.verify().unwrap();
}

#[test]
fn a_refused_hand_over_gives_the_buffer_back_as_it_was() {
    let (_, root) = tracked(1 << 20);
    let small = root.child("small").limit(127).build().unwrap();
    let (_, elsewhere) = tracked(1 << 20);
    let buffer = ones(&root, 100);
    let address = buffer.memory_address();

    let refused = buffer.try_move_to(&small).unwrap_err();
    assert!(refused.is_out_of_memory());
    let refused = refused.value.try_move_to(&elsewhere).unwrap_err();
    assert!(!refused.is_out_of_memory());
    let refused = refused.value.adopt(&elsewhere).unwrap_err();
    assert!(matches!(
        refused.source,
        TransferError::DifferentRoots { .. }
    ));
    small.close().unwrap();
    let refused = refused.value.adopt(&small).unwrap_err();
    assert!(matches!(refused.source, TransferError::Closed { .. }));

    let buffer = refused.value;
    assert_eq!((buffer.memory_address(), buffer.ref_count()), (address, 1));
    assert_eq!(root.allocated_memory(), 128);
}

#[test]
fn a_refusal_prints_as_its_source_and_converts_with_a_question_mark() {
    fn core(buffer: ArrowBuf, to: &BufferAllocator) -> Result<ArrowBuf, TransferError> {
        Ok(buffer.try_move_to(to)?)
    }
    fn io(buffer: ArrowBuf, to: &BufferAllocator) -> io::Result<ArrowBuf> {
        Ok(buffer.try_move_to(to)?)
    }
    fn boxed(
        buffer: ArrowBuf,
        to: &BufferAllocator,
    ) -> Result<ArrowBuf, Box<dyn Error + Send + Sync>> {
        Ok(buffer.try_move_to(to)?)
    }
    let (_, root) = tracked(1 << 20);
    let small = root.child("small").limit(0).build().unwrap();

    let text = core(ones(&root, 1), &small).unwrap_err().to_string();
    let error = boxed(ones(&root, 1), &small).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert!(error.is::<TransferError>());
    assert_eq!(
        root.allocated_memory(),
        0,
        "the error does not keep the buffer"
    );
    let error = io(ones(&root, 1), &small).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    let refused = ones(&root, 1).try_move_to(&small).unwrap_err();
    assert_eq!(format!("{refused:?}"), format!("{:?}", refused.source));
    assert_eq!(refused.to_string(), text);
    drop(refused);
    assert_eq!(root.allocated_memory(), 0);
}

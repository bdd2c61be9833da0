//! Buffers and the crate `bytes`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_memory_core::ForeignAllocation;
use bytes::{BufMut, Bytes};

use crate::support::{ones, tracked};

#[test]
fn buf_mut_fills_the_capacity_and_panics_where_it_ends() {
    let (_, root) = tracked(64);
    let mut buffer = root.buffer(64).unwrap();

    buffer.put_u32(1);
    buffer.put_bytes(7, 60);
    assert_eq!((buffer.remaining_mut(), buffer.len()), (0, 64));
    let caught = catch_unwind(AssertUnwindSafe(|| buffer.put_u8(1)));

    assert!(caught.is_err());
    assert_eq!(
        (buffer.len(), buffer.capacity(), &buffer[..5]),
        (64, 64, &[0, 0, 0, 1, 7][..])
    );
}

#[test]
fn bytes_of_a_buffer_keep_its_charge_until_the_last_of_them_goes() {
    let (_, root) = tracked(1000);

    let bytes = Bytes::from(ones(&root, 100));
    let part = bytes.slice(10..20);
    drop(bytes);

    assert_eq!((&part[..], root.allocated_memory()), (&[1; 10][..], 128));
    drop(part);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn bytes_are_wrapped_where_they_are() {
    let (_, root) = tracked(1000);
    let bytes = Bytes::from(vec![5; 100]);
    let address = bytes.as_ptr();

    let buffer = root.wrap_foreign_allocation(ForeignAllocation::from_owner(bytes.clone()));

    let buffer = buffer.unwrap();
    assert_eq!((buffer.as_ptr(), root.allocated_memory()), (address, 100));
    assert!(!bytes.is_unique());
    drop(buffer);
    assert!(bytes.is_unique());
    assert_eq!(root.allocated_memory(), 0);
}

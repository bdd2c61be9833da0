//! Errors: their variants, their messages, and their conversions.

use std::error::Error;
use std::io;

use arrow_memory_core::{
    AllocError, AllocationListener, AllocatorInfo, BackendError, CastError, CloseError,
    ForeignAllocation, ForeignError, ManagerError, OutOfBounds, SegmentError, TransferError,
    UnknownGuardAction, VerifyError, Veto,
};

use crate::support::{child, ones, over, tracked};

#[test]
fn every_error_can_be_boxed_sent_and_shared() {
    fn error<T: Error + Send + Sync + 'static>() {}
    error::<AllocError>();
    error::<TransferError>();
    error::<CloseError>();
    error::<ForeignError>();
    error::<OutOfBounds>();
    error::<CastError>();
    error::<BackendError>();
    error::<VerifyError>();
    error::<SegmentError>();
    error::<ManagerError>();
    error::<Veto>();
    error::<UnknownGuardAction>();
}

struct Says(&'static str);

impl AllocationListener for Says {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, _size: usize) -> Result<(), Veto> {
        Err(Veto::new(self.0))
    }
}

#[test]
fn a_refusal_becomes_an_io_error_of_kind_out_of_memory_that_keeps_it() {
    let (_, root) = tracked(10);

    let error = io::Error::from(root.buffer(100).unwrap_err());

    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    let inner = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<AllocError>());
    assert!(matches!(inner, Some(AllocError::OutOfMemory { .. })));
    let foreign = ForeignAllocation::from_owner(vec![1; 100]);
    let error = io::Error::from(root.wrap_foreign_allocation(foreign).unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
}

#[test]
fn messages_are_lower_case_and_name_the_allocator_and_the_bytes() {
    let (manager, root) = tracked(1000);
    let scan = child(&root, "scan");
    let buffer = ones(&scan, 100);
    let full = root.new_child_allocator("full", 0, 0).unwrap();
    let closed = child(&root, "closed");
    closed.close().unwrap();
    let listener = std::sync::Arc::new(Says("not today"));
    let vetoed = over(&manager)
        .name("vetoed")
        .listener(listener)
        .build()
        .unwrap();
    let foreign = ForeignAllocation::from_owner(vec![1; 100]);
    let (_, other) = tracked(1);

    let messages = [
        scan.buffer(usize::MAX).unwrap_err().to_string(),
        closed.buffer(64).unwrap_err().to_string(),
        vetoed.buffer(64).unwrap_err().to_string(),
        scan.buffer_aligned(64, 3).unwrap_err().to_string(),
        buffer.transfer_ownership(&other).unwrap_err().to_string(),
        buffer.retain_in(&closed).unwrap_err().to_string(),
        buffer
            .try_transfer_ownership(&full)
            .unwrap_err()
            .to_string(),
        buffer.try_slice(99, 2).unwrap_err().to_string(),
        buffer.slice(1..).typed::<u64>().unwrap_err().to_string(),
        full.wrap_foreign_allocation(foreign)
            .unwrap_err()
            .to_string(),
        buffer.typed::<[u8; 3]>().unwrap_err().to_string(),
    ];

    let address = buffer.memory_address() + 1;
    let expected = [
        "18446744073709551615 bytes (17592186044416.0 MiB) requested from allocator `scan` do not fit in \
         a signed size",
        "allocator `closed` is closed: 64 bytes refused",
        "the listener of allocator `vetoed` vetoed 64 bytes: not today",
        "alignment 3 is not a power of two from 64 to 2097152",
        "allocators `scan` and `ROOT` belong to different roots",
        "allocator `closed` is closed",
        "allocator `full` is out of room: a buffer of 100 bytes (128 after rounding) was to move \
         from `scan` to `full`, 0 left of its limit of 0",
        "2 bytes at offset 99 are out of bounds of a buffer of 100 bytes",
        &format!("address {address:#x} is not aligned to 8 bytes"),
        "foreign memory of 100 bytes was not taken in: allocator `full` is out of room: \
         100 bytes requested, 0 left of its limit of 0",
        "100 bytes are not a whole number of items of 3 bytes",
    ];
    for (message, expected) in messages.iter().zip(expected) {
        assert_eq!(message, expected);
    }
}

#[test]
fn an_error_names_the_allocator_that_refused() {
    let (_, root) = tracked(100);
    let scan = child(&root, "scan");
    let name = |error: AllocError| error.allocator().map(|it| it.name.to_string());

    assert_eq!(name(scan.buffer(101).unwrap_err()).as_deref(), Some("ROOT"));
    assert_eq!(
        name(scan.buffer(usize::MAX).unwrap_err()).as_deref(),
        Some("scan")
    );
    assert_eq!(name(scan.buffer_aligned(1, 1).unwrap_err()), None);
}

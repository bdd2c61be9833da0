//! Charges: limits, sharing, transfers, closing and waiting, over a device.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrow_memory_core::AllocError;

use super::{tree, tree_of};
use crate::error::DeviceError;
use crate::manager::DeviceManager;

/// A block is charged at its capacity while it lives.
///
/// # Panics
///
/// If a charge is not that of the blocks that live.
pub fn capacities_are_charged_and_given_back(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);

    for (bytes, capacity) in [
        (1, 64),
        (63, 64),
        (64, 64),
        (65, 128),
        (4096, 4096),
        (1 << 20, 1 << 20),
    ] {
        let buffer = root.allocate(bytes).expect("there is no limit");
        assert_eq!((buffer.len(), buffer.capacity()), (bytes, capacity));
        assert_eq!(root.allocated_memory(), capacity);
        let frozen = buffer.freeze();
        let clone = frozen.clone();
        drop(frozen);
        assert_eq!(
            (root.allocated_memory(), clone.accounted_size()),
            (capacity, capacity)
        );
        drop(clone);
        assert_eq!(root.allocated_memory(), 0);
    }
    root.accounting().verify().expect("the sums are right");
}

/// A request that passes a limit, there or above, is refused, and nothing has changed.
///
/// # Panics
///
/// If it is not.
pub fn a_limit_refuses_what_passes_it(manager: &Arc<dyn DeviceManager>) {
    let root = tree_of(manager, 4096);
    let child = root
        .child("query")
        .limit(1024)
        .build()
        .expect("nothing is reserved");

    for fits in [1, 1023, 1024] {
        drop(child.allocate(fits).expect("it fits"));
    }
    let refused = child.allocate(1025).expect_err("the limit of the child");
    assert!(refused.is_out_of_memory(), "{refused}");
    assert!(
        matches!(&refused, DeviceError::Refused(error) if error.allocator() == Some(child.accounting().info()))
    );
    child.set_limit(usize::MAX);
    let refused = child.allocate(4097).expect_err("the limit of the root");
    assert!(
        matches!(&refused, DeviceError::Refused(error) if error.allocator() == Some(root.accounting().info()))
    );
    assert_eq!((child.allocated_memory(), root.allocated_memory()), (0, 0));
}

/// A device that has no such block says so, and the charge is given back.
///
/// # Panics
///
/// If the request is granted, or stays charged.
pub fn a_device_without_room_is_an_error_and_nothing_stays_charged(
    manager: &Arc<dyn DeviceManager>,
) {
    let root = tree(manager);

    let error = root.allocate(1 << 50).expect_err("no device has so much");
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
    let error = root
        .allocate(isize::MAX as usize)
        .expect_err("no size has so much");
    assert!(matches!(error, DeviceError::SizeOverflow { .. }), "{error}");
    assert_eq!(root.allocated_memory(), 0);
    assert!(root.allocate(64).is_ok());
}

/// What the manager and the tree know of blocks agrees with them.
///
/// # Panics
///
/// If it does not.
pub fn statistics_follow_the_blocks(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let before = manager.stats();

    let buffer = root.allocate(100_000).expect("there is no limit");
    let during = manager.stats();
    let capacity = buffer.capacity();
    if let Some(live) = during.live_bytes {
        assert!(live >= capacity, "{live} bytes are live");
    }
    if let (Some(before), Some(during)) = (before.total_bytes, during.total_bytes) {
        assert!(during >= before + capacity as u64);
    }
    let (stats, snapshot) = (root.stats(), root.snapshot());
    assert_eq!((stats.own_bytes, stats.foreign_bytes), (0, capacity));
    assert_eq!(
        (snapshot.entries.len(), snapshot.entries[0].allocated),
        (1, capacity)
    );
    drop(buffer);
    assert_eq!(
        (root.stats().foreign_bytes, root.peak_memory_allocation()),
        (0, capacity)
    );
}

/// Two allocators that share a block are charged once, and the charge stays while either has it.
///
/// # Panics
///
/// If they are not.
pub fn a_shared_block_is_charged_once(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let (scan, join) = (
        root.child("scan").build().expect("nothing is reserved"),
        root.child("join").build().expect("nothing is reserved"),
    );
    let buffer = scan.allocate(1000).expect("there is no limit").freeze();

    let shared = buffer
        .slice(100..200)
        .retain_in(&join)
        .expect("the same tree");
    assert_eq!((shared.len(), shared.allocator()), (100, join.clone()));
    assert_eq!(
        (scan.allocated_memory(), join.allocated_memory()),
        (1024, 0)
    );
    assert_eq!(root.allocated_memory(), 1024);
    drop(buffer);
    assert_eq!(
        (scan.allocated_memory(), join.allocated_memory()),
        (0, 1024)
    );
    drop(shared);
    assert_eq!(root.allocated_memory(), 0);
    assert!(tree(manager).allocate(0).is_ok_and(|empty| {
        empty.freeze().retain_in(&join).is_err() // of another tree
    }));
}

/// A transfer moves the charge, within limits or, if asked to, over them.
///
/// # Panics
///
/// If it does not.
pub fn a_charge_moves_with_its_buffer(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let scan = root.child("scan").build().expect("nothing is reserved");
    let small = root
        .child("small")
        .limit(1000)
        .build()
        .expect("nothing is reserved");
    let buffer = scan.allocate(1000).expect("there is no limit").freeze();

    let refused = buffer
        .try_transfer_ownership(&small)
        .expect_err("it does not fit");
    assert!(refused.to_string().contains("1000 bytes"), "{refused}");
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (1024, 0)
    );
    let moved = buffer.transfer_ownership(&small).expect("the same tree");
    assert!(!moved.allocation_fit && small.accounting().is_over_limit());
    assert_eq!(
        (scan.allocated_memory(), small.allocated_memory()),
        (0, 1024)
    );
    small.set_limit(2000);
    let back = moved.buffer.try_transfer_ownership(&scan).expect("it fits");
    assert_eq!(
        (back.accounted_size(), buffer.accounted_size()),
        (1024, 1024)
    );
    assert_eq!(
        (scan.allocated_memory(), root.allocated_memory()),
        (1024, 1024)
    );
    assert!(buffer.transfer_ownership(&tree(manager)).is_err());
}

/// An allocator that has buffers does not close, says what is outstanding, and refuses new work.
///
/// # Panics
///
/// If it does otherwise.
pub fn a_failed_close_lists_what_is_outstanding(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let query = root.child("query").build().expect("nothing is reserved");
    let buffer = query.allocate(1000).expect("there is no limit").freeze();

    let error = query.close().expect_err("a buffer is outstanding");
    assert_eq!((error.buffers(), error.allocated), (1, 1024));
    let refused = query.allocate(64).expect_err("it is closed");
    assert!(
        matches!(refused, DeviceError::Refused(AllocError::Closed { .. })),
        "{refused}"
    );
    assert!(query.allocate(0).is_err() && query.is_closed());
    drop(buffer);
    query.close().expect("nothing is outstanding");
    assert!(root.accounting().child_allocators().is_empty());
}

/// A request that waits is granted when memory is released, and refused when it can never be.
///
/// # Panics
///
/// If it is not.
pub fn a_request_waits_until_memory_is_released(manager: &Arc<dyn DeviceManager>) {
    let root = tree_of(manager, 4096);
    let held = root.allocate(4096).expect("it fits").freeze();

    let timed_out = root.wait().at_most(Duration::from_millis(5)).allocate(64);
    assert!(
        matches!(timed_out, Err(DeviceError::Wait(_))),
        "{timed_out:?}"
    );
    let never = root
        .wait()
        .allocate(5000)
        .expect_err("larger than the limit");
    assert!(matches!(never, DeviceError::Refused(_)), "{never}");
    let releaser = thread::spawn(move || drop(held));
    let granted = root.wait().at_most(Duration::from_secs(60)).allocate(4000);
    releaser.join().expect("it does not panic");
    let granted = granted.expect("the memory was released");
    assert_eq!((granted.len(), root.allocated_memory()), (4000, 4032));
}

/// A buffer takes its bytes from a reservation as far as that has them.
///
/// # Panics
///
/// If the bytes are charged twice, or not at all.
pub fn a_reservation_pays_for_a_buffer(manager: &Arc<dyn DeviceManager>) {
    let root = tree_of(manager, 4096);
    let mut reservation = root.accounting().new_reservation();
    reservation.add(2048).expect("it fits");

    let first = root
        .allocate_from(&mut reservation, 1000)
        .expect("it is reserved");
    assert_eq!((reservation.size(), root.allocated_memory()), (1024, 2048));
    let second = root
        .allocate_from(&mut reservation, 2000)
        .expect("the rest fits");
    assert_eq!(
        (reservation.size(), root.allocated_memory()),
        (0, 1024 + 2048)
    );
    assert!(root.allocate_from(&mut reservation, 2000).is_err());
    let other = tree(manager);
    let refused = other
        .allocate_from(&mut reservation, 64)
        .expect_err("another tree");
    assert!(
        matches!(refused, DeviceError::WrongTree { .. }),
        "{refused}"
    );
    drop((first, second, reservation));
    assert_eq!(root.allocated_memory(), 0);
}

/// Buffers keep their tree and their device alive.
///
/// # Panics
///
/// If they do not.
pub fn buffers_outlive_the_handles_of_their_tree(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let child = root.child("query").build().expect("nothing is reserved");
    let mut buffer = child.allocate(100).expect("there is no limit");
    drop((root, child));

    buffer.write_at(0, &[7; 100]).expect("the device copies");
    let mut bytes = [0; 100];
    buffer.read_at(0, &mut bytes).expect("the device copies");
    assert_eq!(
        (bytes, buffer.allocator().allocated_memory()),
        ([7; 100], 128)
    );
}

/// Any number of threads may allocate, write and free at once.
///
/// # Panics
///
/// If bytes are lost, or charges do not add up.
pub fn threads_allocate_and_free_at_once(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);

    thread::scope(|scope| {
        for number in 0..4_u8 {
            let root = &root;
            scope.spawn(move || {
                let child = root.child("thread").build().expect("nothing is reserved");
                for round in 0..50 {
                    let len = 64 + round * 7;
                    let mut buffer = child.allocate(len).expect("there is no limit");
                    buffer
                        .write_at(0, &vec![number; len])
                        .expect("the device copies");
                    let mut bytes = vec![0; len];
                    buffer.read_at(0, &mut bytes).expect("the device copies");
                    assert_eq!(bytes, vec![number; len]);
                    drop(buffer.freeze());
                }
            });
        }
    });
    assert_eq!(root.allocated_memory(), 0);
    root.accounting().verify().expect("the sums are right");
}

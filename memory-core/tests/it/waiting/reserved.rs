//! Requests that wait below a reservation, which may come to cover them, while an older one waits for the room above.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow_memory_core::{AllocationReservation, BufferAllocator, RootAllocator, WaitError};

use crate::support::{Woken, allocated, child, ones, poll};

const K: usize = 1 << 10;
const M: usize = 1 << 20;

type Waits = Pin<Box<dyn Future<Output = Result<AllocationReservation, WaitError>> + Send>>;

fn root(limit: usize, credit: usize) -> RootAllocator {
    let builder = RootAllocator::builder().limit(limit).credit(credit);
    builder.own_timer(true).build().unwrap()
}

/// A request that waits, and how often it was woken.
fn waits(allocator: &BufferAllocator, bytes: usize) -> (Waits, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let mut waits: Waits = Box::pin(allocator.wait().reserve_async(bytes));
    assert!(poll(waits.as_mut(), &woken).is_pending());
    (waits, woken)
}

/// A request for `bytes` of a new child, to which all room is left, since as many bytes have passed it.
fn barrier(root: &RootAllocator, bytes: usize) -> (Waits, Arc<Woken>) {
    let waits = waits(&child(root, "scan"), bytes);
    let passes = child(root, "passes");
    while let room @ 1.. = root.headroom() {
        drop(passes.wait().reserve(room.unsigned_abs() / 2).unwrap());
    }
    waits
}

#[test]
fn what_is_released_within_a_reservation_serves_who_lacks_room_above_it() {
    let root = root(1024, 0);
    let reserved = root.child("reserved").reservation(512).build().unwrap();
    let (part, rest) = (ones(&reserved, 384), ones(&reserved, 128));
    let others = ones(&child(&root, "others"), 512);
    let (waits, woken) = waits(&reserved, 256);

    drop(part);

    assert_eq!(woken.count(), 1);
    assert_eq!(allocated([&reserved, &root]), [384, 1024]);
    root.verify().unwrap();
    drop((waits, rest, others));
}

#[test]
fn a_release_that_a_reservation_keeps_in_part_serves_who_waits_above_and_below_it() {
    let root = root(1024, 0);
    let reserved = root.child("reserved").reservation(512).build().unwrap();
    let (part, rest) = (ones(&reserved, 512), ones(&reserved, 256));
    let others = ones(&child(&root, "others"), 256);
    let above = waits(&child(&root, "scan"), 256);
    let below = waits(&reserved, 128);

    drop(part);

    assert_eq!((above.1.count(), below.1.count()), (1, 1));
    assert_eq!(allocated([&reserved, &root]), [384, 1024]);
    root.verify().unwrap();
    drop((above, below, rest, others));
}

#[test]
fn a_reservation_serves_its_own_although_room_is_withheld_for_an_older_request() {
    let root = root(1536, 0);
    let reserved = root.child("reserved").reservation(512).build().unwrap();
    let (part, rest) = (ones(&reserved, 384), ones(&reserved, 128));
    let others = ones(&child(&root, "others"), 512);
    let older = barrier(&root, 1024);
    let (waits, woken) = waits(&reserved, 256);

    drop(part);

    assert_eq!((woken.count(), older.1.count()), (1, 0));
    assert_eq!(allocated([&reserved, &root]), [384, 1024]);
    root.verify().unwrap();
    drop((waits, older, rest, others));
}

#[test]
fn what_is_released_on_the_fast_path_within_a_reservation_serves_its_own() {
    // So many requests are refused before.
    for refused in 0..24 {
        let root = root(100 * M, M);
        let reserved = root.child("reserved").reservation(M).build().unwrap();
        let reserve = || reserved.wait().reserve(64 * K).unwrap();
        let blocks: Vec<_> = (0..16).map(|_| reserve()).collect();
        let others = child(&root, "others").wait().reserve(60 * M).unwrap();
        let older = barrier(&root, 80 * M);
        let (waits, woken) = waits(&reserved, 512 * K);
        for _ in 0..refused {
            reserved.new_reservation().add(2 * M).unwrap_err();
        }

        drop(blocks);

        assert_eq!(woken.count(), 1, "after {refused} requests");
        assert_eq!(older.1.count(), 0);
        root.verify().unwrap();
        drop((waits, older, others));
    }
}

#[test]
fn requests_within_a_reservation_leave_a_level_tight_where_it_may_come_to_serve_one() {
    let root = root(1536, 0);
    let reserved = root.child("reserved").reservation(512).build().unwrap();
    let part = ones(&reserved, 448);
    let others = ones(&child(&root, "others"), 512);
    let older = barrier(&root, 1024);
    let (waits, woken) = waits(&reserved, 128);

    for _ in 0..20 {
        let block = reserved.buffer(64).unwrap();
        root.verify().unwrap();
        drop(block);
    }

    assert_eq!(woken.count(), 0);
    drop(part);
    assert_eq!((woken.count(), older.1.count()), (1, 0));
    drop((waits, older, others));
}

/// What the level above withholds does not concern a request that the reservation covers, the last byte included.
#[test]
fn a_reservation_is_there_to_the_last_byte_although_all_room_above_is_withheld() {
    let root = root(1536, 0);
    let reserved = root.child("reserved").reservation(512).build().unwrap();
    let others = ones(&child(&root, "others"), 512);
    let older = barrier(&root, 1024);

    reserved.allocate_bytes(512).unwrap();

    assert_eq!(allocated([&reserved, &root]), [512, 1024]);
    root.verify().unwrap();
    reserved.release_bytes(512);
    drop((older, others));
}

//! Requests that wait below a reservation which keeps bytes that others of the same allocator released: of the
//! levels above, such a request needs less from then on.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use arrow_memory_core::{
    AllocError, AllocationReservation, BufferAllocator, RootAllocator, WaitError,
};
use arrow_memory_system as _;

const MIB: usize = 1 << 20;

type Reserved = Result<AllocationReservation, WaitError>;

fn reserve(allocator: &BufferAllocator, bytes: usize) -> Result<AllocationReservation, AllocError> {
    let mut reservation = allocator.new_reservation();
    reservation.add(bytes)?;
    Ok(reservation)
}

fn poll(future: &mut Pin<&mut impl Future<Output = Reserved>>) -> Poll<Reserved> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_release_is_kept_in_part_and_the_rest_goes_up() {
    let root = RootAllocator::new(1000);
    let query = root.child("query").reservation(110).build().unwrap();
    let other = root.child("other").build().unwrap();
    let _others = reserve(&other, 700).unwrap();
    let (_kept, released) = (reserve(&query, 100).unwrap(), reserve(&query, 200).unwrap());
    let mut future = pin!(query.wait().reserve_async(200));
    assert!(poll(&mut future).is_pending());

    // 190 go up, and 10 are kept for the query: so it needs 190 above.
    drop(released);

    assert!(matches!(poll(&mut future), Poll::Ready(Ok(_))));
}

#[test]
fn a_release_is_kept_in_credit_until_a_refusal_recalls_it() {
    let root = RootAllocator::new(64 * MIB);
    let query = root.child("query").reservation(4 * MIB).build().unwrap();
    let other = root.child("other").build().unwrap();
    let _others = reserve(&other, 89 * MIB / 2).unwrap();
    let more = reserve(&other, 21 * MIB / 2).unwrap();
    let _kept = reserve(&query, 7 * MIB / 2).unwrap();
    let released = reserve(&query, 3 * MIB / 2).unwrap();
    // 12 MiB are missing, so words below the root open again as they are used.
    let mut future = pin!(query.wait().reserve_async(16 * MIB));
    assert!(poll(&mut future).is_pending());
    for _ in 0..8 {
        drop(reserve(&query, 1).unwrap());
    }

    // It becomes credit; when that is recalled, the reservation keeps half a MiB of it.
    drop(released);
    assert!(reserve(&other, 32 * MIB).is_err());
    // Now 15.5 are free above, and so many are needed.
    drop(more);

    assert!(matches!(poll(&mut future), Poll::Ready(Ok(_))));
}

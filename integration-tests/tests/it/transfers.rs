//! Transfers at and over limits, where a reservation is crossed or a charge stays within a subtree.

use std::sync::{Arc, mpsc};
use std::thread;

use arrow_memory_core::{
    AllocationManager, ArrowBuf, BufferAllocator, RootAllocator, TransferError,
};
use arrow_memory_integration_tests::books::Books;
use arrow_memory_integration_tests::for_every_backend;

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    a_refused_transfer_leaves_the_books_and_the_peak_of_an_allocator_that_is_over_its_limit,
    a_transfer_that_ends_an_excess_fits,
    a_transfer_within_an_allocator_that_is_over_its_limit_does_not_fit,
    a_transfer_below_a_reservation_that_covers_it_fits_whatever_is_above,
    a_transfer_of_a_guest_moves_no_charge,
    ownership_goes_to_the_ledger_that_was_associated_longest,
    what_two_threads_read_through_another_ledger_comes_before_what_the_sole_owner_writes,
);

fn root(backend: &Backend, limit: usize, credit: Option<usize>) -> BufferAllocator {
    let mut builder = RootAllocator::builder()
        .name("root")
        .limit(limit)
        .allocation_manager(Arc::clone(backend));
    if let Some(credit) = credit {
        builder = builder.credit(credit);
    }
    builder.build().unwrap().into()
}

fn buffer(allocator: &BufferAllocator, size: usize) -> ArrowBuf {
    allocator.buffer_zeroed(size).unwrap().freeze()
}

/// A regression: a refused transfer uncharged the source during its check, and the bytes that were free for
/// that moment became credit. The peak rose by it, and the root could have handed it out.
fn a_refused_transfer_leaves_the_books_and_the_peak_of_an_allocator_that_is_over_its_limit(
    backend: &Backend,
) {
    for upwards in [false, true] {
        let root = root(backend, 100_000, None);
        let child = root.child("child").build().unwrap();
        let (source, target) = if upwards {
            (&child, &root)
        } else {
            (&root, &child)
        };
        let held = buffer(source, 64_000);
        assert!(!target.force_allocate(40_000));
        let before = Books::of(&root);

        for _ in 0..10 {
            let refused = held.try_transfer_ownership(target).unwrap_err();

            assert!(
                matches!(refused, TransferError::DoesNotFit { .. }),
                "{refused}"
            );
            assert_eq!(Books::of(&root), before);
            assert_eq!((held.ref_count(), held.accounted_size()), (1, 64_000));
            root.buffer(64).unwrap_err();
            child.buffer(64).unwrap_err();
        }
    }
}

/// A regression: levels above the common ancestor were checked with their bytes before the move, which may be
/// more than those after it. Here the move uses 400 reserved bytes.
fn a_transfer_that_ends_an_excess_fits(backend: &Backend) {
    for credit in [None, Some(0), Some(1000)] {
        let root = root(backend, 3000, credit);
        let middle = root.child("middle").build().unwrap();
        let leaf = middle.child("leaf").reservation(400).build().unwrap();
        assert!(middle.force_allocate(2000));
        let moved = buffer(&leaf, 960).transfer_ownership(&middle).unwrap();
        assert!(!moved.allocation_fit);
        assert_eq!(
            (root.allocated_memory(), root.is_over_limit()),
            (3360, true)
        );

        let back = moved.buffer.try_transfer_ownership(&leaf).unwrap();

        assert_eq!(back.accounted_size(), 960);
        assert_eq!(
            (root.allocated_memory(), root.is_over_limit()),
            (2960, false)
        );
        assert_eq!(root.verify(), Ok(()));
    }
}

fn a_transfer_within_an_allocator_that_is_over_its_limit_does_not_fit(backend: &Backend) {
    let root = root(backend, 1000, None);
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let held = buffer(&a, 640);
    root.set_limit(500);

    held.try_transfer_ownership(&b).unwrap_err();
    let moved = held.transfer_ownership(&b).unwrap();

    assert!(
        !moved.allocation_fit,
        "the root is reached, though it does not change"
    );
    assert_eq!((a.allocated_memory(), b.allocated_memory()), (0, 640));
    assert_eq!(
        (root.allocated_memory(), root.peak_memory_allocation()),
        (640, 640)
    );
}

fn a_transfer_below_a_reservation_that_covers_it_fits_whatever_is_above(backend: &Backend) {
    let root = root(backend, 2000, Some(0));
    let a = root.child("a").build().unwrap();
    let b = root.child("b").reservation(1000).build().unwrap();
    let held = buffer(&a, 640);
    root.set_limit(500);

    let moved = held.try_transfer_ownership(&b).unwrap();

    assert_eq!((moved.accounted_size(), b.allocated_memory()), (640, 640));
    assert_eq!(
        (root.allocated_memory(), root.peak_memory_allocation()),
        (1000, 1640)
    );
}

fn a_transfer_of_a_guest_moves_no_charge(backend: &Backend) {
    let root = root(backend, 1000, None);
    let names = ["owner", "guest", "target"];
    let [owner, guest, target] = names.map(|name| root.child(name).build().unwrap());
    let held = buffer(&owner, 640);
    let shared = held.retain_in(&guest).unwrap();
    target.set_limit(0);

    let moved = shared.transfer_ownership(&target).unwrap();

    assert!(moved.allocation_fit);
    assert_eq!(
        (moved.buffer.ref_count(), moved.buffer.accounted_size()),
        (1, 0)
    );
    assert_eq!(
        (held.accounted_size(), owner.allocated_memory()),
        (640, 640)
    );
    assert!(shared.try_transfer_ownership(&target).is_ok());
}

fn ownership_goes_to_the_ledger_that_was_associated_longest(backend: &Backend) {
    let root = root(backend, 1000, None);
    let names = ["first", "second", "third", "fourth"];
    let [first, second, third, fourth] = names.map(|name| root.child(name).build().unwrap());
    let held = buffer(&first, 640);
    let in_second = held.retain_in(&second).unwrap();
    let in_third = held.retain_in(&third).unwrap();
    // The second ledger ends and is made again, so now it is the youngest.
    drop(in_second);
    let in_second = held.retain_in(&second).unwrap();
    // The fourth ledger is the last one, but becomes the owner, which does not change the order.
    let in_fourth = held.transfer_ownership(&fourth).unwrap().buffer;
    assert_eq!(in_fourth.accounted_size(), 640);
    let owners = || {
        names.map(|name| {
            let all = root.child_allocators();
            let it = all.iter().find(|it| it.name() == name);
            it.map_or(0, BufferAllocator::allocated_memory)
        })
    };

    drop(in_fourth);
    assert_eq!(owners(), [640, 0, 0, 0]);
    drop(held);
    assert_eq!(owners(), [0, 0, 640, 0]);
    drop(in_third);
    assert_eq!(owners(), [0, 640, 0, 0]);
    drop(in_second);
    assert_eq!(owners(), [0, 0, 0, 0]);
}

/// A regression: one thread reads through a clone and drops it without ever taking the tree's mutex. Another
/// thread, which takes the ledger off the list, saw the drop without acquiring it. So nothing ordered the
/// read before a write through the target's buffer once that was the only one. ThreadSanitizer detects that;
/// without it this test only shows that no thread writes too early.
fn what_two_threads_read_through_another_ledger_comes_before_what_the_sole_owner_writes(
    backend: &Backend,
) {
    let rounds = if cfg!(tsan) { 60_000 } else { 2_000 };
    let root = root(backend, usize::MAX, None);
    let [source, target] = ["source", "target"].map(|name| root.child(name).build().unwrap());
    thread::scope(|scope| {
        // The counts of the buffers are the only signal from these threads.
        let readers = [7, 8].map(|step| {
            let (sender, buffers) = mpsc::channel::<ArrowBuf>();
            scope.spawn(move || {
                for (round, buffer) in buffers.iter().enumerate() {
                    assert_eq!(buffer.as_slice()[0], 1);
                    for _ in 0..(round * step) % 40 {
                        std::hint::spin_loop();
                    }
                    drop(buffer);
                }
            });
            sender
        });
        for _ in 0..rounds {
            let mut filled = source.buffer(64).unwrap();
            filled.extend_from_slice(&[1; 64]).unwrap();
            let guest = filled.freeze();
            let mut owner = guest.transfer_ownership(&target).unwrap().buffer;
            readers[0].send(guest.clone()).unwrap();
            readers[1].send(guest).unwrap();
            loop {
                match owner.try_into_mut() {
                    Ok(mut sole) => {
                        sole.as_mut_slice().fill(9);
                        break;
                    }
                    Err(shared) => owner = shared,
                }
                thread::yield_now();
            }
        }
    });
    assert_eq!(root.allocated_memory(), 0);
}

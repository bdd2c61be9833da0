//! Closing, and the operations that are possible afterwards.

use std::sync::Arc;
use std::thread;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    AllocError, AllocationManager, BufferAllocator, ForeignAllocation, RootAllocator, TransferError,
};
use arrow_memory_integration_tests::books::Books;
use arrow_memory_integration_tests::for_every_backend;

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    a_closed_allocator_refuses_all_new_work,
    an_allocator_whose_close_failed_refuses_all_new_work,
    a_closed_allocator_accepts_forced_bytes_releases_and_transfers_away,
    closing_twice_is_closing_once,
    a_close_does_not_fail_because_of_a_request_that_is_refused,
    what_is_idle_or_not_charged_is_outstanding_too,
    a_close_that_failed_looks_again,
    close_reports_every_kind_of_thing_that_is_outstanding,
    children_of_a_closed_allocator_may_use_only_their_reservations,
    a_node_whose_close_failed_leaves_when_all_of_it_is_gone,
    a_reservation_for_life_goes_back_at_close,
    buffers_outlive_every_handle_of_their_tree,
    a_node_stays_while_a_handle_a_buffer_or_a_child_needs_it,
    a_node_that_left_the_tree_shows_zeros_and_refuses,
);

fn root(backend: &Backend) -> BufferAllocator {
    let builder = RootAllocator::builder().name("root").limit(1 << 20);
    let builder = builder.allocation_manager(Arc::clone(backend));
    builder.build().unwrap().into()
}

/// Asserts that every request to `closed` is refused and changes nothing.
fn assert_refuses(closed: &BufferAllocator, root: &BufferAllocator) {
    let elsewhere = root.buffer_from_slice(&[1; 100]).unwrap();
    let before = Books::of(root);
    let mut reservation = closed.new_reservation();

    let refused = [
        closed.buffer(1).map(drop),
        closed.buffer(usize::MAX).map(drop),
        closed.buffer_zeroed(64).map(drop),
        closed.buffer_aligned(64, 4096).map(drop),
        closed.buffer_from_slice(&[1]).map(drop),
        closed.allocate_bytes(1),
        reservation.add(1),
        closed.new_child_allocator("late", 0, 100).map(drop),
        closed.child("late").reservation(10).build().map(drop),
    ];
    for (index, refused) in refused.into_iter().enumerate() {
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, AllocError::Closed { allocator, .. } if *allocator.name == *closed.name())
                || (index == 1 && matches!(refused, AllocError::SizeOverflow { .. })),
            "{index}: {refused}"
        );
    }
    let foreign = ForeignAllocation::from_owner(vec![1_u8; 10]);
    let refused = closed.wrap_foreign_allocation(foreign).unwrap_err();
    assert!(
        matches!(refused.source, AllocError::Closed { .. }),
        "{refused}"
    );
    let refused = [
        elsewhere.retain_in(closed).map(drop),
        elsewhere.transfer_ownership(closed).map(drop),
        elsewhere.try_transfer_ownership(closed).map(drop),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(TransferError::Closed { .. })),
            "{refused:?}"
        );
    }

    drop(reservation);
    assert_eq!(Books::of(root), before);
    assert_eq!(elsewhere.ref_count(), 1);
}

fn a_closed_allocator_refuses_all_new_work(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").reservation(1000).build().unwrap();

    child.close().unwrap();

    assert!(child.is_closed());
    assert_refuses(&child, &root);
    root.close().unwrap();
}

fn an_allocator_whose_close_failed_refuses_all_new_work(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").reservation(1000).build().unwrap();
    let mut held = child.buffer_zeroed(64).unwrap();
    let mut reservation = child.new_reservation();
    reservation.add(10).unwrap();

    child.close().unwrap_err();

    assert!(child.is_closed());
    assert_refuses(&child, &root);
    let refused = held.try_reserve(1000).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
    let refused = reservation.add(1).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
}

fn a_closed_allocator_accepts_forced_bytes_releases_and_transfers_away(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").build().unwrap();
    let sibling = root.child("sibling").build().unwrap();
    let away = child.buffer_from_slice(&[1; 64]).unwrap();
    let shared = child.buffer_from_slice(&[2; 64]).unwrap();
    let dropped = child.buffer_from_slice(&[3; 64]).unwrap();
    child.allocate_bytes(5).unwrap();
    child.close().unwrap_err();

    assert!(child.force_allocate(7));
    assert_eq!(child.allocated_memory(), 3 * 64 + 12);
    child.release_bytes(12);
    drop(dropped);
    let kept = shared.retain_in(&sibling).unwrap();
    drop(shared);
    let moved = away.transfer_ownership(&sibling).unwrap().buffer;
    assert_eq!(
        (child.allocated_memory(), sibling.allocated_memory()),
        (0, 128)
    );
    drop(away);

    child.close().unwrap();
    assert_eq!((kept[0], moved[0]), (2, 1));
    drop((kept, moved));
    sibling.close().unwrap();
    root.close().unwrap();
}

fn closing_twice_is_closing_once(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").build().unwrap();
    let again = child.clone();

    child.close().unwrap();
    child.close().unwrap();
    again.close().unwrap();

    root.close().unwrap();
    root.close().unwrap();
    assert!(root.is_closed());
}

fn a_close_does_not_fail_because_of_a_request_that_is_refused(backend: &Backend) {
    for round in 0..200 {
        let root = root(backend);
        let child = root.child("child").limit(1000).build().unwrap();
        // This leaves credit, which the close may have to recall.
        drop(child.buffer(500).unwrap());
        thread::scope(|threads| {
            let asks = || {
                for _ in 0..20 {
                    child.buffer(2000).unwrap_err();
                    child.allocate_bytes(1001).unwrap_err();
                    child.child("late").reservation(1001).build().unwrap_err();
                }
            };
            threads.spawn(asks);
            threads.spawn(asks);

            child
                .close()
                .unwrap_or_else(|error| panic!("{round}: {error}"));
        });
        root.close().unwrap();
    }
}

fn what_is_idle_or_not_charged_is_outstanding_too(backend: &Backend) {
    let root = root(backend);
    let elsewhere = root.buffer_from_slice(&[1; 10]).unwrap();
    let child = || root.child("child").build().unwrap();

    let (idle, reserving, sharing, empty) = (child(), child(), child(), child());
    let grandchild = idle.child("grandchild").build().unwrap();
    let reservation = reserving.new_reservation();
    let guest = elsewhere.retain_in(&sharing).unwrap();
    let nothing = empty.empty();

    let report = idle.close().unwrap_err();
    assert_eq!((report.children.len(), report.allocated), (1, 0));
    let report = reserving.close().unwrap_err();
    assert_eq!(
        (report.reservations.as_slice(), report.allocated),
        (&[0][..], 0)
    );
    let report = sharing.close().unwrap_err();
    assert_eq!(
        (report.ledgers.len(), report.buffers(), report.allocated),
        (1, 1, 0)
    );
    // Empty buffers keep the node, but the close does not wait for them.
    empty.close().unwrap();

    drop((grandchild, reservation, guest, nothing));
    for closed in [idle, reserving, sharing, empty] {
        assert!(closed.parent_allocator().is_none());
        closed.close().unwrap();
    }
}

fn a_close_that_failed_looks_again(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").build().unwrap();
    let buffer = child.buffer(100).unwrap();

    let first = child.close().unwrap_err();
    let second = child.close().unwrap_err();

    assert_eq!((first.allocated, first.buffers()), (128, second.buffers()));
    drop(buffer);
    child.close().unwrap();
    child.close().unwrap();
}

fn close_reports_every_kind_of_thing_that_is_outstanding(backend: &Backend) {
    let root = root(backend);
    let child = root
        .child("child")
        .reservation(4096)
        .limit(9999)
        .build()
        .unwrap();
    let grandchild = child.child("grandchild").reservation(77).build().unwrap();
    let large = child.buffer_from_slice(&[1; 500]).unwrap();
    let (second, third) = (large.slice(10..20), large.clone());
    let small = child.buffer(1).unwrap();
    let elsewhere = root.buffer_from_slice(&[2; 64]).unwrap();
    let shared = elsewhere.retain_in(&child).unwrap();
    let foreign = ForeignAllocation::from_owner(vec![3_u8; 100]);
    let foreign = child.wrap_foreign_allocation(foreign).unwrap();
    let mut reservation = child.new_reservation();
    reservation.add(33).unwrap();
    let empty = child.new_reservation();
    child.allocate_bytes(5).unwrap();

    let report = child.close().unwrap_err();

    assert_eq!(&*report.allocator.name, "child");
    assert_eq!((report.reservation, report.limit), (4096, 9999));
    assert_eq!(report.allocated, 77 + 512 + 64 + 100 + 33 + 5);
    let children: Vec<_> = report
        .children
        .iter()
        .map(|it| (&*it.0.name, it.1))
        .collect();
    assert_eq!(children, [("grandchild", 77)]);
    // The ledgers are known in debug mode only; the outstanding bytes are known in every mode.
    let text = report.to_string();
    assert!(text.contains("grandchild"), "{text}");
    assert_eq!(
        (report.external_bytes, report.reserved_bytes),
        (5, 33),
        "{text}"
    );

    drop((
        large,
        second,
        third,
        small,
        shared,
        foreign,
        reservation,
        empty,
    ));
    child.release_bytes(5);
    child.close().unwrap_err();
    grandchild.close().unwrap();
    child.close().unwrap();
    drop(elsewhere);
    root.close().unwrap();
}

fn children_of_a_closed_allocator_may_use_only_their_reservations(backend: &Backend) {
    let root = root(backend);
    let parent = root.child("parent").reservation(10_000).build().unwrap();
    let reserved = parent.child("reserved").reservation(1000).build().unwrap();
    let bare = parent.child("bare").build().unwrap();
    let held = bare.buffer(64).unwrap();
    parent.close().unwrap_err();
    let before = Books::of(&root);

    let within = reserved.buffer(960).unwrap();
    for refused in [reserved.buffer(41).map(drop), bare.buffer(1).map(drop)] {
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, AllocError::Closed { allocator, .. } if &*allocator.name == "parent"),
            "{refused}"
        );
    }
    drop(within);
    assert_eq!(Books::of(&root).at_rest(), before.at_rest());
    drop(held);
    let refused = bare.allocate_bytes(1).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
    reserved.allocate_bytes(1000).unwrap();
    reserved.allocate_bytes(1).unwrap_err();
    assert!(reserved.force_allocate(1));
    reserved.release_bytes(1001);
}

fn a_node_whose_close_failed_leaves_when_all_of_it_is_gone(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").reservation(1000).build().unwrap();
    let buffer = child.buffer(64).unwrap();
    child.close().unwrap_err();

    drop(child);
    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (1000, 1)
    );
    drop(buffer);

    assert_eq!(
        (root.allocated_memory(), root.child_allocators().len()),
        (0, 0)
    );
    root.close().unwrap();
}

fn a_reservation_for_life_goes_back_at_close(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").reservation(1 << 20).build().unwrap();
    root.buffer(1).unwrap_err();

    child.close().unwrap();

    assert_eq!(root.allocated_memory(), 0);
    root.buffer(1 << 20).unwrap();
}

fn buffers_outlive_every_handle_of_their_tree(backend: &Backend) {
    let manager = Arc::new(TrackingManager::over(Arc::clone(backend)));
    let root = root(&(manager.clone() as Backend));
    let child = root.child("child").build().unwrap();
    let weak = (root.downgrade(), child.downgrade());
    let buffer = child.buffer_from_slice(&[5; 300]).unwrap();
    let slice = buffer.slice(100..200);
    let mut writable = root.buffer_zeroed(64).unwrap();

    drop((root, child, buffer));
    assert_eq!(slice.as_slice(), &[5; 100]);
    assert_eq!(slice.allocator().name(), "child");
    assert_eq!(
        slice.allocator().root_allocator().allocated_memory(),
        320 + 64
    );
    writable.extend_from_slice(&[1; 100]).unwrap();
    let copy = slice.compact().unwrap();
    drop(slice);
    assert_eq!(copy.as_slice(), &[5; 100]);

    drop((writable, copy));
    assert_eq!(manager.live_bytes(), 0);
    assert!(weak.0.upgrade().is_none() && weak.1.upgrade().is_none());
}

fn a_node_stays_while_a_handle_a_buffer_or_a_child_needs_it(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").build().unwrap();
    let grandchild = child.child("grandchild").build().unwrap();
    let empty = child.empty();
    let reservation = child.new_reservation();
    let elsewhere = root.buffer_from_slice(&[2; 64]).unwrap();
    let shared = elsewhere.retain_in(&child).unwrap();
    drop(child);

    let there = || root.child_allocators().len() == 1;
    assert!(there());
    drop(grandchild);
    assert!(there());
    drop(empty);
    assert!(there());
    drop(reservation);
    assert!(there());
    drop(shared);
    assert!(!there());
}

fn a_node_that_left_the_tree_shows_zeros_and_refuses(backend: &Backend) {
    let root = root(backend);
    let child = root.child("child").reservation(100).build().unwrap();
    drop(child.buffer(50).unwrap());

    child.close().unwrap();

    assert!(child.parent_allocator().is_none());
    assert_eq!((child.allocated_memory(), child.charged_memory()), (0, 0));
    assert_eq!(root.child_allocators(), []);
    assert_eq!(root.allocated_memory(), 0);
    assert_eq!(child.name(), "child");
    child.set_limit(5);
    assert!(matches!(child.buffer(1), Err(AllocError::Closed { .. })));
    assert_eq!(root.verify(), Ok(()));
}

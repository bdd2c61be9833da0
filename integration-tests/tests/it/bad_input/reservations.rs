//! Reservations that are too large, or are to give more than they have.

use arrow_memory_core::AllocError;
use arrow_memory_integration_tests::books::Books;
use arrow_memory_integration_tests::for_every_backend;

use super::{Backend, MAX, panics, root};

for_every_backend!(
    a_reservation_above_the_childs_own_limit_is_refused_by_the_child,
    a_reservation_of_more_than_there_is_leaves_no_child_behind,
    a_reservation_cannot_give_more_than_it_has,
    a_reservation_refuses_sizes_beyond_the_address_space,
);

fn a_reservation_above_the_childs_own_limit_is_refused_by_the_child(backend: &Backend) {
    let root = root(backend, 1 << 20);
    let before = Books::of(&root);

    for (reservation, limit) in [(1, 0), (65, 64), (MAX, MAX - 1)] {
        let refused = [
            root.new_child_allocator("child", reservation, limit),
            root.child("child")
                .reservation(reservation)
                .limit(limit)
                .build(),
        ];
        for refused in refused {
            let Err(AllocError::OutOfMemory { outcome, .. }) = refused else {
                panic!("{reservation} of {limit}: {refused:?}");
            };
            assert_eq!(&*outcome.failed_allocator().name, "child");
        }
    }

    assert_eq!(Books::of(&root), before);
    assert!(root.child_allocators().is_empty());
}

fn a_reservation_of_more_than_there_is_leaves_no_child_behind(backend: &Backend) {
    let root = root(backend, 1000);
    let middle = root.child("middle").reservation(400).build().unwrap();
    let before = Books::of(&root);

    for bytes in [1001, MAX, MAX + 1, usize::MAX] {
        let refused = middle.child("leaf").reservation(bytes).build().unwrap_err();
        match refused {
            AllocError::OutOfMemory { outcome, .. } => {
                assert_eq!(&*outcome.failed_allocator().name, "root", "{bytes}");
            }
            AllocError::SizeOverflow { requested, .. } => assert!(requested > MAX),
            other => panic!("{bytes}: {other}"),
        }
        assert_eq!(Books::of(&root), before, "{bytes}");
        assert!(middle.child_allocators().is_empty());
    }
    let leaf = middle.child("leaf").reservation(1000).build().unwrap();
    assert_eq!(root.allocated_memory(), 1000);
    drop(leaf);
    assert_eq!(Books::of(&root).at_rest(), before.at_rest());
}

fn a_reservation_cannot_give_more_than_it_has(backend: &Backend) {
    let root = root(backend, 10_000);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();
    let before = Books::of(&root);

    for bytes in [101, MAX, usize::MAX] {
        assert!(panics(|| reservation.shrink(bytes)), "{bytes}");
        assert!(panics(|| drop(reservation.split(bytes))), "{bytes}");
        assert_eq!(reservation.size(), 100);
        assert_eq!(Books::of(&root), before, "{bytes}");
    }
    let half = reservation.split(50);
    assert_eq!((reservation.size(), half.size()), (50, 50));
    assert_eq!(root.allocated_memory(), 100);
    drop((half, reservation));
    assert_eq!(root.allocated_memory(), 0);
}

fn a_reservation_refuses_sizes_beyond_the_address_space(backend: &Backend) {
    let root = root(backend, usize::MAX);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();
    let before = Books::of(&root);

    for bytes in [MAX - 99, MAX, MAX + 1, usize::MAX] {
        let refused = reservation.add(bytes).unwrap_err();
        assert!(
            matches!(refused, AllocError::SizeOverflow { .. }),
            "{refused}"
        );
        if bytes > MAX {
            let refused = reservation.resize(bytes).unwrap_err();
            assert!(
                matches!(refused, AllocError::SizeOverflow { .. }),
                "{refused}"
            );
        }
        assert_eq!(reservation.size(), 100);
        assert_eq!(Books::of(&root), before, "{bytes}");
    }

    reservation.resize(MAX).unwrap();
    assert_eq!(root.allocated_memory(), MAX);
    let (error, reservation) = reservation.allocate_buffer().unwrap_err();
    assert!(
        matches!(
            error,
            AllocError::SizeOverflow { .. } | AllocError::Manager { .. }
        ),
        "{error}"
    );
    assert_eq!((reservation.size(), root.allocated_memory()), (MAX, MAX));
}

//! The reservation of a child, changed while it lives.

use std::thread;

use arrow_memory_core::{AllocError, BufferAllocator, Purpose, RootAllocator};
use arrow_memory_system as _;

fn tree(limit: usize) -> (RootAllocator, BufferAllocator, BufferAllocator) {
    let root = RootAllocator::new(limit);
    let scan = root.child("scan").build().unwrap();
    let join = root.child("join").build().unwrap();
    (root, scan, join)
}

#[test]
fn the_parent_is_charged_for_the_larger_of_reservation_and_use() {
    let (root, scan, _join) = tree(1 << 20);
    let buffer = scan.buffer(1000).unwrap();

    for (reservation, charged) in [
        (0, 1024),
        (1000, 1024),
        (1024, 1024),
        (1025, 1025),
        (5000, 5000),
    ] {
        scan.set_reservation(reservation).unwrap();
        assert_eq!(scan.reservation(), reservation);
        assert_eq!(
            (scan.allocated_memory(), root.allocated_memory()),
            (1024, charged)
        );
        root.verify().unwrap();
    }
    drop(buffer);
    assert_eq!(root.allocated_memory(), 5000);
    scan.set_reservation(64).unwrap();
    assert_eq!((root.allocated_memory(), scan.init_reservation()), (64, 0));
    drop(scan);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn what_is_reserved_is_there_for_its_owner_and_for_nobody_else() {
    let (root, scan, join) = tree(4096);
    scan.set_reservation(3072).unwrap();

    assert!(join.buffer(2048).is_err());
    let theirs = join.buffer(1024).unwrap();
    let ours = scan.buffer(3072).unwrap();

    assert_eq!((root.allocated_memory(), scan.headroom()), (4096, 0));
    drop((theirs, ours));
    scan.set_reservation(0).unwrap();
    assert_eq!(join.buffer(4096).unwrap().capacity(), 4096);
}

#[test]
fn a_refusal_names_the_level_and_changes_nothing() {
    let (root, scan, join) = tree(1000);
    scan.set_reservation(100).unwrap();
    join.allocate_bytes(500).unwrap();

    let refused = scan.set_reservation(501).unwrap_err();

    let AllocError::OutOfMemory {
        requested,
        purpose,
        outcome,
        ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!(*requested, 501);
    assert!(
        matches!(&**purpose, Purpose::LiveReservation { allocator, from: 100, to: 501 } if &*allocator.name == "scan"),
        "{purpose:?}"
    );
    assert_eq!(&*outcome.refuser().allocator.name, "ROOT");
    assert_eq!((scan.reservation(), root.allocated_memory()), (100, 600));
    scan.set_reservation(500).unwrap();
    assert_eq!(root.allocated_memory(), 1000);
    join.release_bytes(500);
}

#[test]
fn a_reservation_above_the_allocators_own_limit_is_refused_by_it() {
    let (_root, scan, _join) = tree(1000);
    scan.set_limit(300);

    let refused = scan.set_reservation(301).unwrap_err();

    assert_eq!(&*refused.allocator().unwrap().name, "scan");
    scan.set_reservation(300).unwrap();
    scan.set_limit(200);
    assert_eq!(scan.reservation(), 300); // a lowered limit revokes nothing
    scan.set_reservation(250).unwrap(); // nor does it stand in the way of less
}

/// Otherwise whoever uses more than was reserved could make that a right, while others are refused for it.
#[test]
fn nobody_raises_a_reservation_while_a_level_is_over_its_limit() {
    let (root, scan, _join) = tree(1000);
    assert!(!scan.force_allocate(1500));

    let refused = scan.set_reservation(1).unwrap_err();
    assert_eq!(&*refused.allocator().unwrap().name, "ROOT");
    assert!(refused.is_out_of_memory());
    assert_eq!((scan.stats().refusals, root.stats().refusals), (0, 1));

    scan.release_bytes(600);
    scan.set_reservation(900).unwrap(); // it uses as much: the root is charged nothing more
    assert_eq!(root.allocated_memory(), 900);
    scan.release_bytes(900);
}

#[test]
fn a_closed_allocator_lowers_its_reservation_and_does_not_raise_it() {
    let (root, scan, _join) = tree(1000);
    scan.set_reservation(500).unwrap();
    scan.allocate_bytes(10).unwrap();
    scan.close().unwrap_err();

    assert!(matches!(
        scan.set_reservation(501).unwrap_err(),
        AllocError::Closed { .. }
    ));
    scan.set_reservation(10).unwrap();
    assert_eq!(root.allocated_memory(), 10);
    scan.release_bytes(10);
    assert!(scan.set_reservation(1).is_err()); // it has left the tree
    scan.set_reservation(0).unwrap();
    assert!(scan.force_reservation(100));
    assert_eq!((scan.reservation(), root.allocated_memory()), (0, 0));
}

#[test]
fn a_parent_that_is_closed_refuses_to_reserve() {
    let root = RootAllocator::new(1000);
    let query = root.child("query").build().unwrap();
    let scan = query.child("scan").build().unwrap();
    query.close().unwrap_err();

    let refused = scan.set_reservation(1).unwrap_err();

    assert_eq!(&*refused.allocator().unwrap().name, "query");
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_reservation_below_a_reservation_takes_nothing_from_above() {
    let root = RootAllocator::new(1000);
    let query = root.child("query").reservation(800).build().unwrap();
    let scan = query.child("scan").build().unwrap();

    scan.set_reservation(800).unwrap();
    assert_eq!(
        (query.allocated_memory(), root.allocated_memory()),
        (800, 800)
    );
    scan.set_reservation(801).unwrap();
    assert_eq!(root.allocated_memory(), 801);
    query.set_reservation(0).unwrap();
    assert_eq!(root.allocated_memory(), 801);
}

#[test]
fn the_reservation_of_a_root_stays_zero() {
    let root = RootAllocator::new(1000);

    root.set_reservation(500).unwrap();
    assert!(root.force_reservation(5000));

    assert_eq!((root.reservation(), root.allocated_memory()), (0, 0));
    root.set_reservation(1001).unwrap_err();
}

#[test]
fn a_forced_reservation_passes_limits_and_is_counted() {
    let (root, scan, _join) = tree(1000);

    assert!(scan.force_reservation(700));
    assert!(!scan.force_reservation(1500));
    assert_eq!(scan.stats().forced_bytes, 1500);

    assert_eq!(
        (root.allocated_memory(), root.is_over_limit()),
        (1500, true)
    );
    assert!(scan.force_reservation(1000));
    assert!(!root.is_over_limit());
    scan.set_limit(100);
    assert!(!scan.force_reservation(1001), "above its own limit, too");
}

#[test]
fn any_number_that_is_too_large_is_refused() {
    let (root, scan, _join) = tree(usize::MAX);

    for bytes in [isize::MAX as usize + 1, usize::MAX] {
        assert!(matches!(
            scan.set_reservation(bytes).unwrap_err(),
            AllocError::SizeOverflow { .. }
        ));
    }
    assert_eq!((scan.reservation(), root.allocated_memory()), (0, 0));
}

#[test]
fn the_history_of_an_allocator_has_it() {
    let root = RootAllocator::builder().debug(true).build().unwrap();
    let scan = root.child("scan").build().unwrap();

    scan.set_reservation(77).unwrap();
    let line = line!() - 1;

    let text = root.to_verbose_string();
    let event = format!("reservation set (77) at {}:{line}", file!());
    assert!(text.contains(&event), "{text}");
}

/// Two children change their reservations while they allocate: no byte too many, and zero at the end.
#[test]
fn reservations_change_while_threads_allocate() {
    const LIMIT: usize = 1 << 20;
    let (root, scan, join) = tree(LIMIT);

    thread::scope(|scope| {
        for (seed, child) in [(1, &scan), (2, &scan), (3, &join), (4, &join)] {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut held = Vec::new();
                for _ in 0..2_000 {
                    match random.usize(..8) {
                        0 => drop(child.set_reservation(random.usize(..LIMIT))),
                        1 => held.clear(),
                        _ => held.extend(child.buffer(random.usize(1..60_000)).ok()),
                    }
                }
            });
        }
        for _ in 0..200 {
            assert!(root.allocated_memory() <= LIMIT);
            root.verify().unwrap();
        }
    });

    for child in [&scan, &join] {
        child.set_reservation(0).unwrap();
    }
    assert_eq!(root.allocated_memory(), 0);
    assert!(root.peak_memory_allocation() <= LIMIT);
    root.verify().unwrap();
}

/// Credit that a recall finds was once charged for before it was known that the rest does not fit: it showed in
/// the peak, and in the numbers of the refusal.
#[test]
fn a_refusal_shows_in_no_peak_and_its_numbers_are_exact() {
    const LIMIT: usize = 1 << 30;
    let (root, scan, _join) = tree(LIMIT);
    let buffer = scan.buffer(4096).unwrap();

    let refused = scan.set_reservation(LIMIT + 1).unwrap_err();

    let AllocError::OutOfMemory { outcome, .. } = &refused else {
        panic!("{refused}");
    };
    let refuser = outcome.refuser();
    assert_eq!(
        (refuser.allocated, refuser.requested),
        (4096, LIMIT + 1 - 4096)
    );
    assert!(root.peak_memory_allocation() < 4 << 20);
    scan.set_reservation(LIMIT).unwrap();
    drop(buffer);
    scan.set_limit(300);
    let refused = scan.set_reservation(LIMIT + 1).unwrap_err();
    let AllocError::OutOfMemory { outcome, .. } = &refused else {
        panic!("{refused}");
    };
    let refuser = outcome.refuser();
    assert_eq!((refuser.allocated, refuser.reservation), (0, LIMIT));
}

/// What is in use when a query is retired must not become a right to as much new work.
#[test]
fn nobody_raises_a_reservation_below_a_retired_allocator() {
    let root = RootAllocator::new(1 << 20);
    let query = root.child("query").build().unwrap();
    let scan = query.child("scan").build().unwrap();
    let buffer = scan.buffer(1024).unwrap();
    query.retire();

    let refused = scan.set_reservation(1024).unwrap_err();

    assert!(matches!(&refused, AllocError::Closed { .. }), "{refused}");
    drop(buffer);
    assert!(scan.buffer(1024).is_err());
}

#[test]
fn the_message_says_whose_reservation_was_to_rise() {
    let (_root, scan, join) = tree(1000);
    scan.set_reservation(100).unwrap();
    join.allocate_bytes(500).unwrap();

    assert_eq!(
        scan.set_reservation(501).unwrap_err().to_string(),
        "allocator `ROOT` is out of room: 501 bytes requested (the reservation of `scan` was to rise from \
         100 to 501 bytes), 400 left of its limit of 1000"
    );
    join.release_bytes(500);
}

#[test]
fn what_is_used_beyond_the_live_reservation_is_undeclared() {
    let root = RootAllocator::new(1 << 20);
    let query = root.child("query").reservation(1000).build().unwrap();
    let [scan, join] = ["scan", "join"].map(|name| query.child(name).build().unwrap());
    let buffers = [scan.buffer(2048).unwrap(), join.buffer(4096).unwrap()];
    let undeclared = || {
        let (report, books) = (root.report(), root.snapshot());
        let of = |name: &str| {
            let entry = report.entries.iter().find(|it| &*it.allocator.name == name);
            let known = books.entries.iter().find(|it| &*it.allocator.name == name);
            let undeclared = entry.unwrap().undeclared();
            assert_eq!(known.unwrap().undeclared(), undeclared);
            undeclared
        };
        let guilty = report.undeclared();
        let guilty: Vec<_> = guilty.map(|(of, bytes)| format!("{of} {bytes}")).collect();
        let all = ["query", "scan", "join"].map(of);
        (all, guilty.join(", "))
    };

    assert_eq!(
        undeclared(),
        ([Some(5144), None, None], "query 5144".to_owned())
    );
    scan.set_reservation(2048).unwrap();
    join.set_reservation(1).unwrap();
    let all = [Some(5144), Some(0), Some(4095)];
    assert_eq!(undeclared(), (all, "query 5144, join 4095".to_owned()));
    let text = root.report().to_string();
    assert_eq!(text.matches("undeclared bytes").count(), 2, "{text}");
    assert!(
        text.contains("\n          undeclared bytes: 4095"),
        "{text}"
    );
    query.set_reservation(6143).unwrap();
    join.set_reservation(0).unwrap();
    assert_eq!(
        undeclared(),
        ([Some(1), Some(0), None], "query 1".to_owned())
    );
    query.set_reservation(6144).unwrap();
    assert_eq!(undeclared().1, "");
    drop(buffers);
    assert_eq!(undeclared().0, [Some(0), Some(0), None]);
}

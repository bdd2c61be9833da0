//! Sizes, limits and names that are invalid: the documented error, and nothing changed.

mod reservations;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_memory_core::testing::FailingManager;
use arrow_memory_core::{
    AllocError, AllocationManager, BufferAllocator, MAX_ALIGNMENT, RootAllocator,
};
use arrow_memory_integration_tests::books::Books;
use arrow_memory_integration_tests::for_every_backend;

type Backend = Arc<dyn AllocationManager>;

const MAX: usize = isize::MAX as usize;

for_every_backend!(
    sizes_beyond_the_address_space_are_refused_and_change_nothing,
    the_largest_layout_is_charged_for_the_attempt_only,
    zero_bytes_are_free_even_below_a_limit_of_zero,
    one_byte_takes_a_whole_unit_of_the_limit,
    one_external_byte_takes_one_byte_of_the_limit,
    a_limit_of_zero_lets_only_forced_bytes_through,
    a_limit_of_usize_max_is_none,
    a_limit_lowered_to_zero_revokes_nothing_and_grants_nothing,
    a_sum_that_overflows_at_an_ancestor_is_refused,
    forced_bytes_whose_sum_overflows_panic_and_change_nothing,
    releasing_more_external_bytes_than_there_are_panics_and_changes_nothing,
    external_bytes_of_a_child_are_not_its_parents_to_release,
    ranges_outside_a_buffer_are_refused,
    alignments_other_than_powers_of_two_within_bounds_are_refused,
    a_buffer_that_cannot_grow_keeps_its_bytes,
    names_may_be_empty_long_or_of_any_script,
);

fn root(backend: &Backend, limit: usize) -> BufferAllocator {
    let builder = RootAllocator::builder().name("root").limit(limit);
    let builder = builder.allocation_manager(Arc::clone(backend));
    builder.build().unwrap().into()
}

/// Runs a function, and returns whether it panicked.
fn panics(what: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(what)).is_err()
}

fn sizes_beyond_the_address_space_are_refused_and_change_nothing(backend: &Backend) {
    for limit in [0, 1 << 20, MAX, usize::MAX] {
        let root = root(backend, limit);
        let child = root.child("child").build().unwrap();
        let before = Books::of(&root);

        for size in [MAX - 62, MAX - 1, MAX, MAX + 1, usize::MAX - 64, usize::MAX] {
            let refused = [
                child.buffer(size).map(drop),
                child.buffer_zeroed(size).map(drop),
                child.buffer_aligned(size, 4096).map(drop),
            ];
            for refused in refused {
                let refused = refused.unwrap_err();
                assert!(too_large(&refused, limit), "{size} bytes: {refused}");
            }
            if size > MAX {
                let refused = child.allocate_bytes(size).unwrap_err();
                assert!(too_large(&refused, limit), "{size} bytes: {refused}");
            }
            assert_eq!(Books::of(&root), before, "{size} bytes");
        }
    }
}

fn too_large(error: &AllocError, limit: usize) -> bool {
    match error {
        AllocError::SizeOverflow { allocator, .. } => &*allocator.name == "child",
        AllocError::OutOfMemory { .. } => limit < MAX,
        _ => false,
    }
}

fn the_largest_layout_is_charged_for_the_attempt_only(backend: &Backend) {
    let root = root(backend, usize::MAX);
    let before = Books::of(&root).at_rest();

    let refused = root.buffer(MAX - 63).unwrap_err();

    assert!(matches!(refused, AllocError::Manager { .. }), "{refused}");
    assert_eq!(Books::of(&root).at_rest(), before);
}

fn zero_bytes_are_free_even_below_a_limit_of_zero(backend: &Backend) {
    // This one is not told to fail. It counts the calls.
    let manager = Arc::new(FailingManager::over(Arc::clone(backend)));
    let root = root(&(manager.clone() as Backend), 0);
    let child = root.new_child_allocator("child", 0, 0).unwrap();
    let before = Books::of(&root);

    let buffers = [
        child.buffer(0).unwrap(),
        child.buffer_zeroed(0).unwrap(),
        child.buffer_aligned(0, 4096).unwrap(),
        child.new_reservation().allocate_buffer().unwrap(),
    ];
    for buffer in buffers {
        assert_eq!((buffer.len(), buffer.capacity()), (0, 0));
        let frozen = buffer.freeze();
        assert_eq!((frozen.len(), frozen.ref_count()), (0, 1));
        assert_eq!((frozen.accounted_size(), frozen.allocation_size()), (0, 0));
        assert_eq!(frozen.allocator(), child);
        assert!(frozen.memory_address().is_multiple_of(64));
        let shared = frozen.retain_in(&root).unwrap();
        assert_eq!((shared.allocator(), shared.ref_count()), (root.clone(), 1));
        assert!(frozen.transfer_ownership(&root).unwrap().allocation_fit);
    }
    assert!(child.buffer_from_slice(&[]).unwrap().is_empty());
    assert!(child.empty().is_empty());
    child.allocate_bytes(0).unwrap();
    assert!(child.force_allocate(0));
    child.release_bytes(0);
    child.new_reservation().add(0).unwrap();

    assert_eq!(Books::of(&root), before);
    assert_eq!(manager.calls(), 0);
    child.close().unwrap();
    root.close().unwrap();
}

fn one_byte_takes_a_whole_unit_of_the_limit(backend: &Backend) {
    for (limit, fits) in [(0, false), (1, false), (63, false), (64, true), (65, true)] {
        let root = root(backend, limit);

        let buffer = root.buffer(1);

        assert_eq!(buffer.is_ok(), fits, "limit {limit}");
        assert_eq!(root.allocated_memory(), if fits { 64 } else { 0 });
        assert_eq!(root.peak_memory_allocation(), root.allocated_memory());
        if let Err(AllocError::OutOfMemory {
            requested, outcome, ..
        }) = buffer
        {
            assert_eq!(requested, 1);
            assert_eq!(&*outcome.failed_allocator().name, "root");
        }
    }
}

fn one_external_byte_takes_one_byte_of_the_limit(backend: &Backend) {
    for limit in [0, 1, 2, 63, 64, 65] {
        let root = root(backend, limit);
        let child = root.child("child").build().unwrap();

        for bytes in 0..limit {
            child.allocate_bytes(1).unwrap();
            assert_eq!(root.allocated_memory(), bytes + 1);
        }
        let refused = child.allocate_bytes(1).unwrap_err();

        assert!(
            matches!(refused, AllocError::OutOfMemory { .. }),
            "{refused}"
        );
        assert_eq!((root.allocated_memory(), root.headroom()), (limit, 0));
        assert!(!child.is_over_limit());
        child.release_bytes(limit);
    }
}

fn a_limit_of_zero_lets_only_forced_bytes_through(backend: &Backend) {
    let root = root(backend, 0);
    let child = root.new_child_allocator("child", 0, usize::MAX).unwrap();
    let before = Books::of(&root);

    child.buffer(1).unwrap_err();
    child.allocate_bytes(1).unwrap_err();
    child.new_reservation().add(1).unwrap_err();
    root.new_child_allocator("reserved", 1, usize::MAX)
        .unwrap_err();
    assert_eq!(Books::of(&root), before);

    assert!(!child.force_allocate(1));
    assert_eq!((root.allocated_memory(), child.headroom()), (1, -1));
    assert!(root.is_over_limit() && child.is_over_limit());
    child.release_bytes(1);
    assert_eq!(Books::of(&root).at_rest(), before.at_rest());
}

fn a_limit_of_usize_max_is_none(backend: &Backend) {
    for limit in [MAX, MAX + 1, usize::MAX] {
        let root = root(backend, limit);
        let child = root.new_child_allocator("child", 0, limit).unwrap();
        assert_eq!((root.limit(), child.limit()), (limit, limit));
        assert_eq!(
            (root.headroom(), child.headroom()),
            (isize::MAX, isize::MAX)
        );

        child.allocate_bytes(MAX).unwrap();

        assert_eq!((root.headroom(), child.headroom()), (0, 0));
        assert!(!child.is_over_limit());
        child.allocate_bytes(1).unwrap_err();
        child.release_bytes(MAX);
        assert_eq!(root.allocated_memory(), 0);
    }
}

fn a_limit_lowered_to_zero_revokes_nothing_and_grants_nothing(backend: &Backend) {
    let root = root(backend, 1000);
    let child = root.child("child").build().unwrap();
    let mut buffer = child.buffer_zeroed(512).unwrap();

    root.set_limit(0);

    assert_eq!((root.allocated_memory(), child.headroom()), (512, -512));
    assert!(child.is_over_limit());
    child.allocate_bytes(1).unwrap_err();
    buffer.resize(513, 1).unwrap_err();
    buffer.resize(512, 1).unwrap();
    drop(buffer);
    child.allocate_bytes(1).unwrap_err();
    assert!(!child.is_over_limit());
    root.set_limit(1);
    child.allocate_bytes(1).unwrap();
    child.release_bytes(1);
}

fn a_sum_that_overflows_at_an_ancestor_is_refused(backend: &Backend) {
    let root = root(backend, usize::MAX);
    let large = root.child("large").build().unwrap();
    let small = root.child("small").build().unwrap();
    let leaf = small.child("leaf").build().unwrap();
    large.allocate_bytes(MAX - 100).unwrap();
    let before = Books::of(&root);

    let mut reservation = leaf.new_reservation();
    let refused = [
        leaf.allocate_bytes(101),
        leaf.buffer(65).map(drop),
        leaf.buffer_aligned(128, 128).map(drop),
        reservation.add(101),
        leaf.child("below").reservation(101).build().map(drop),
        leaf.allocate_bytes(MAX),
        large.allocate_bytes(MAX - 100),
    ];

    for (index, refused) in refused.into_iter().enumerate() {
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, AllocError::SizeOverflow { .. }),
            "{index}: {refused}"
        );
    }
    assert_eq!(Books::of(&root), before);
    leaf.allocate_bytes(100).unwrap();
    assert_eq!((root.allocated_memory(), root.headroom()), (MAX, 0));
    leaf.release_bytes(100);
    large.release_bytes(MAX - 100);
}

fn forced_bytes_whose_sum_overflows_panic_and_change_nothing(backend: &Backend) {
    let root = root(backend, 1000);
    let large = root.child("large").build().unwrap();
    let small = root.child("small").reservation(50).build().unwrap();
    assert!(!large.force_allocate(MAX - 150));
    let before = Books::of(&root);

    for bytes in [151, MAX, MAX + 1, usize::MAX] {
        assert!(panics(|| _ = small.force_allocate(bytes)), "{bytes}");
        assert_eq!(Books::of(&root), before, "{bytes}");
    }
    assert!(!small.force_allocate(150));
    assert_eq!(root.allocated_memory(), MAX);
    small.release_bytes(150);
    large.release_bytes(MAX - 150);
    assert_eq!(root.allocated_memory(), 50);
}

fn releasing_more_external_bytes_than_there_are_panics_and_changes_nothing(backend: &Backend) {
    let root = root(backend, 10_000);
    let child = root.child("child").reservation(500).build().unwrap();
    let _buffer = child.buffer(1000).unwrap();
    child.allocate_bytes(10).unwrap();
    let before = Books::of(&root);

    for bytes in [11, 500, 1000, MAX, usize::MAX] {
        assert!(panics(|| child.release_bytes(bytes)), "{bytes}");
        assert_eq!(Books::of(&root), before, "{bytes}");
    }
    child.release_bytes(10);
    assert!(panics(|| child.release_bytes(1)));
}

fn external_bytes_of_a_child_are_not_its_parents_to_release(backend: &Backend) {
    let root = root(backend, 10_000);
    let child = root.child("child").build().unwrap();
    child.allocate_bytes(10).unwrap();
    let before = Books::of(&root);

    assert!(panics(|| root.release_bytes(1)));

    assert_eq!(Books::of(&root), before);
    child.release_bytes(10);
}

fn ranges_outside_a_buffer_are_refused(backend: &Backend) {
    let root = root(backend, usize::MAX);
    let buffer = root.buffer_from_slice(&[7; 100]).unwrap();

    let outside = [
        (0, 101),
        (100, 1),
        (101, 0),
        (1, usize::MAX),
        (usize::MAX, 0),
        (usize::MAX, 1),
    ];
    for (offset, length) in outside {
        let refused = buffer.try_slice(offset, length).unwrap_err();
        assert_eq!((refused.offset, refused.length), (offset, length));
        assert_eq!(refused.available, 100);
    }
    for offset in [93, 100, MAX, usize::MAX - 7, usize::MAX] {
        buffer.get::<u64>(offset).unwrap_err();
    }
    assert!(panics(|| drop(buffer.slice(0..101))));
    assert!(panics(|| drop(buffer.slice(101..))));
    assert!(panics(|| drop(buffer.slice(..=usize::MAX))));
    let mut writable = root.buffer_zeroed(100).unwrap();
    writable.set::<u64>(93, 1).unwrap_err();
    writable.set::<u64>(usize::MAX, 1).unwrap_err();
    let capacity = writable.capacity();
    assert!(panics(|| drop(writable.split_off(capacity + 1))));
    assert!(panics(|| drop(writable.split_to(usize::MAX))));

    assert_eq!(buffer.try_slice(100, 0).unwrap().len(), 0);
    assert_eq!((buffer.ref_count(), root.allocated_memory()), (1, 256));
}

fn alignments_other_than_powers_of_two_within_bounds_are_refused(backend: &Backend) {
    let root = root(backend, 1 << 24);
    let before = Books::of(&root);

    for alignment in [0, 1, 32, 63, 65, 96, 2 * MAX_ALIGNMENT, 1 << 63, usize::MAX] {
        let refused = root.buffer_aligned(100, alignment).unwrap_err();
        assert!(
            matches!(refused, AllocError::InvalidAlignment { alignment: it } if it == alignment),
            "{refused}"
        );
    }
    assert_eq!(Books::of(&root), before);
    for alignment in [64, 128, 4096, MAX_ALIGNMENT] {
        let buffer = root.buffer_aligned(100, alignment).unwrap();
        assert!(buffer.as_ptr().addr().is_multiple_of(alignment));
    }
}

fn a_buffer_that_cannot_grow_keeps_its_bytes(backend: &Backend) {
    let root = root(backend, 1024);
    let mut buffer = root.buffer(512).unwrap();
    buffer.extend_from_slice(&[9; 512]).unwrap();
    let before = Books::of(&root);

    for bytes in [1025, MAX, MAX + 1, usize::MAX] {
        buffer.resize(bytes, 1).unwrap_err();
        buffer.try_reserve(bytes).unwrap_err();
        assert_eq!(&buffer[..], &[9; 512]);
        assert_eq!(buffer.capacity(), 512);
        assert_eq!(Books::of(&root), before);
    }
    buffer.try_reserve(512).unwrap();
    assert_eq!((buffer.capacity(), root.headroom()), (1024, 0));
    assert_eq!(&buffer[..], &[9; 512]);
}

fn names_may_be_empty_long_or_of_any_script(backend: &Backend) {
    let long = "x".repeat(1 << 20);
    // Names as they are given, and as they are printed.
    let names = [
        ("", "\"\""),
        (" ", " "),
        ("a\nb\t\"\\{}%s\0", r#"a\nb\t\"\\{}%s\0"#),
        ("Übergröße 内存 🦀 \u{202e}", r"Übergröße 内存 🦀 \u{202e}"),
        (&long, &long),
    ];
    for (name, printed) in names {
        let builder = RootAllocator::builder().name(name).limit(100);
        let builder = builder.allocation_manager(Arc::clone(backend));
        let root: BufferAllocator = builder.build().unwrap().into();
        let child = root.child(name).build().unwrap();

        let refused = child.buffer(101).unwrap_err();
        child.allocate_bytes(1).unwrap();
        let unclosed = child.close().unwrap_err();

        assert_eq!((root.name(), child.name()), (name, name));
        assert!(refused.to_string().contains(&format!("`{printed}`")));
        assert!(unclosed.to_string().contains(&format!("`{printed}`")));
        assert!(root.to_verbose_string().contains(&format!("({printed})")));
        assert_eq!(*root.snapshot().entries[1].allocator.name, *name);
        child.release_bytes(1);
        child.close().unwrap();
    }
}

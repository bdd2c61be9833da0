//! The promises of buffers: capacity, growth, padding, slices, splitting, sharing, and the empty buffer.
#![expect(
    unsafe_code,
    reason = "reads the padding, which lies outside of every slice"
)]

#[cfg(feature = "bytes")]
mod with_bytes;

use std::collections::HashMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use arrow_memory_core::{AllocError, CastError, ForeignAllocation};

use crate::support::{allocated, child, ones, tracked};

#[test]
fn a_new_buffer_shows_no_byte_and_has_room_for_what_was_asked() {
    let (_, root) = tracked(1 << 20);
    for size in [0, 1, 63, 64, 65, 5000] {
        let mut buffer = root.buffer(size).unwrap();
        assert_eq!(
            (buffer.len(), &buffer[..], buffer.is_empty()),
            (0, &[][..], true)
        );
        assert!(buffer.capacity() >= size);
        assert_eq!(buffer.spare_capacity_mut().len(), buffer.capacity());
        assert!(buffer.as_ptr().addr().is_multiple_of(64));
    }
}

#[test]
fn a_zeroed_buffer_is_zero_to_its_length_also_in_used_memory() {
    let (_, root) = tracked(1 << 20);
    for size in [1, 64, 100, 5000] {
        drop(ones(&root, size));
        let buffer = root.buffer_zeroed(size).unwrap();
        assert_eq!(
            (buffer.len(), buffer.capacity()),
            (size, size.next_multiple_of(64))
        );
        assert!(buffer.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn freezing_zeroes_the_padding_up_to_the_next_64_within_the_capacity() {
    // The manager fills new blocks with 0xA5.
    let (_, root) = tracked(1 << 20);
    for len in [1, 63, 64, 65, 100, 128] {
        let mut buffer = root.buffer(256).unwrap();
        buffer.resize(len, 7).unwrap();
        let padded = len.next_multiple_of(64);

        let frozen = buffer.freeze();

        // SAFETY: the block has 256 bytes, all of which its manager wrote.
        let block = unsafe { std::slice::from_raw_parts(frozen.as_ptr(), 256) };
        assert!(block[..len].iter().all(|&byte| byte == 7));
        assert!(block[len..padded].iter().all(|&byte| byte == 0), "{len}");
        assert!(block[padded..].iter().all(|&byte| byte == 0xA5), "{len}");
    }
}

#[test]
fn freezing_one_half_does_not_touch_the_other() {
    let (_, root) = tracked(1 << 20);
    let mut left = root.buffer_zeroed(128).unwrap();
    left.fill(7);
    let right = left.split_off(70);
    left.truncate(65);

    let left = left.freeze();

    assert_eq!((left.as_slice(), &right[..]), (&[7; 65][..], &[7; 58][..]));
}

#[test]
fn growth_doubles_and_charges_the_difference() {
    let (_, root) = tracked(1 << 20);
    let mut buffer = root.buffer(64).unwrap();
    for capacity in [128, 256, 512, 1024] {
        buffer.resize(buffer.capacity(), 1).unwrap();
        buffer.extend_from_slice(&[2]).unwrap();
        assert_eq!(
            (buffer.capacity(), root.allocated_memory()),
            (capacity, capacity)
        );
        assert_eq!((buffer[0], buffer[buffer.len() - 1]), (1, 2));
    }
    buffer.resize(10, 0).unwrap();
    assert_eq!((buffer.len(), buffer.capacity()), (10, 1024));
    buffer.try_reserve(5000).unwrap();
    assert_eq!((buffer.capacity(), root.allocated_memory()), (5056, 5056));
    buffer.clear();
    assert_eq!((buffer.len(), buffer.capacity()), (0, 5056));
}

#[test]
fn growth_takes_what_is_needed_if_twice_does_not_fit() {
    let (_, root) = tracked(1000);
    let mut buffer = root.buffer_zeroed(640).unwrap();

    buffer.extend_from_slice(&[1; 100]).unwrap();

    assert_eq!((buffer.capacity(), root.allocated_memory()), (768, 768));
    let refused = buffer.try_reserve(500).unwrap_err();
    assert!(
        matches!(refused, AllocError::OutOfMemory { .. }),
        "{refused}"
    );
    assert_eq!((buffer.len(), buffer.capacity()), (740, 768));
    assert_eq!(root.allocated_memory(), 768);
}

#[test]
fn alignment_is_kept_by_growth_shrinking_and_a_move_after_a_split() {
    let (_, root) = tracked(1 << 24);
    for alignment in [64, 128, 4096, 2 << 20] {
        let mut buffer = root.buffer_aligned(100, alignment).unwrap();
        for size in [200, 5000, 100_000] {
            buffer.resize(size, 1).unwrap();
            assert!(buffer.as_ptr().addr().is_multiple_of(alignment));
        }
        buffer.truncate(300);
        buffer.shrink_to_fit().unwrap();
        assert!(buffer.as_ptr().addr().is_multiple_of(alignment));
        let mut rest = buffer.split_off(64);
        rest.resize(1000, 2).unwrap();
        assert!(rest.as_ptr().addr().is_multiple_of(alignment));
        assert_eq!((rest[0], rest[235], rest[236]), (1, 1, 2));
    }
}

#[test]
fn shrinking_gives_back_what_lies_beyond_the_length_and_everything_at_length_zero() {
    let (manager, root) = tracked(1 << 20);
    let mut buffer = root.buffer_zeroed(1000).unwrap();
    buffer.truncate(65);

    buffer.shrink_to_fit().unwrap();
    assert_eq!((buffer.capacity(), root.allocated_memory()), (128, 128));
    assert_eq!(buffer[..], [0; 65]);
    buffer.clear();
    buffer.shrink_to_fit().unwrap();

    assert_eq!((buffer.capacity(), root.allocated_memory()), (0, 0));
    assert_eq!(manager.live_bytes(), 0);
    buffer.extend_from_slice(&[1, 2]).unwrap();
    assert_eq!((&buffer[..], root.allocated_memory()), (&[1, 2][..], 64));
}

#[test]
fn halves_of_a_split_are_written_apart_and_one_that_grows_moves() {
    let (manager, root) = tracked(1 << 20);
    let mut left = root.buffer_zeroed(256).unwrap();
    let mut right = left.split_off(100);
    let first = left.split_to(64);
    assert_eq!([first.len(), left.len(), right.len()], [64, 36, 156]);
    assert_eq!([first.ref_count(), right.ref_count()], [3, 3]);

    thread::scope(|threads| {
        threads.spawn(|| left.fill(1));
        threads.spawn(|| right.fill(2));
    });
    assert_eq!((root.allocated_memory(), first[63]), (256, 0));
    left.extend_from_slice(&[3]).unwrap();

    assert_eq!((left.len(), left[35], left[36], right[0]), (37, 1, 3, 2));
    assert_eq!(left.ref_count(), 1);
    assert_eq!(root.allocated_memory(), 256 + left.capacity());
    drop((first, right));
    assert_eq!(root.allocated_memory(), left.capacity());
    drop(left);
    manager.assert_clean();
}

#[test]
fn the_first_half_grows_in_place_once_the_others_have_gone() {
    let (manager, root) = tracked(256);
    let mut left = root.buffer_zeroed(256).unwrap();
    let address = left.as_ptr();
    drop(left.split_off(64));
    let calls = manager.allocations();

    left.resize(256, 1).unwrap();

    assert_eq!((left.as_ptr(), left.capacity()), (address, 256));
    assert_eq!(
        (manager.allocations(), root.allocated_memory()),
        (calls, 256)
    );
}

#[test]
fn a_split_at_either_end_leaves_an_empty_buffer_there() {
    let (_, root) = tracked(256);
    let mut buffer = root.buffer(128).unwrap();
    buffer.extend_from_slice(&[1; 10]).unwrap();

    let end = buffer.split_off(128);
    assert_eq!((end.len(), end.capacity(), buffer.len()), (0, 0, 10));
    let behind = buffer.split_off(64);
    assert_eq!((behind.len(), behind.capacity()), (0, 64));
    let whole = buffer.split_off(0);
    assert_eq!(
        (buffer.capacity(), whole.len(), whole.capacity()),
        (0, 10, 64)
    );
    let past = catch_unwind(AssertUnwindSafe(|| drop(buffer.split_off(1))));
    assert!(past.is_err());
}

#[test]
fn a_slice_of_a_slice_shares_the_allocation_and_an_empty_one_does_not() {
    let (_, root) = tracked(1000);
    let scan = child(&root, "scan");
    let buffer = scan.buffer_from_slice(b"columnar data").unwrap();
    let (part, nothing) = (buffer.slice(2..9).slice(1..=3), buffer.slice(5..5));
    assert_eq!(
        (part.as_slice(), nothing.as_slice()),
        (&b"umn"[..], &b""[..])
    );
    assert_eq!(
        (buffer.ref_count(), part.ref_count(), nothing.ref_count()),
        (2, 2, 1)
    );
    assert_eq!((part.len(), part.allocation_size()), (3, 64));
    assert_eq!(part.memory_address(), buffer.memory_address() + 3);
    assert_eq!(nothing.allocation_size(), 0);

    drop(buffer);
    assert_eq!(root.allocated_memory(), 64);
    let compact = part.compact().unwrap();
    drop(part);

    assert_eq!(
        (compact.as_slice(), root.allocated_memory()),
        (&b"umn"[..], 64)
    );
    drop((compact, scan));
    assert_eq!(root.child_allocators().len(), 1, "the empty slice keeps it");
    assert_eq!(root.allocated_memory(), 0);
    drop(nothing);
    assert!(root.child_allocators().is_empty());
}

#[test]
fn the_empty_buffer_is_the_askers_aligned_and_never_charged() {
    let (_, root) = tracked(0);
    let scan = child(&root, "scan");
    for empty in [
        scan.empty(),
        scan.buffer(0).unwrap().freeze(),
        scan.buffer_from_slice(&[]).unwrap(),
        scan.empty().clone(),
        scan.empty().slice(..),
        scan.empty().compact().unwrap(),
    ] {
        assert_eq!(
            (empty.len(), empty.ref_count(), empty.allocator()),
            (0, 1, scan.clone())
        );
        assert!(!empty.as_ptr().is_null() && empty.memory_address().is_multiple_of(64));
        assert_eq!((empty.accounted_size(), empty.allocation_size()), (0, 0));
        assert_eq!(empty.allocation_id(), None);
        let moved = empty.transfer_ownership(&root).unwrap();
        assert!(moved.allocation_fit);
        assert_eq!(moved.buffer.allocator(), root);
        assert_eq!(empty.typed::<u64>().unwrap(), [0; 0]);
        assert_eq!(empty.try_into_mut().unwrap().capacity(), 0);
    }
    scan.close().unwrap();
    assert!(scan.empty().is_empty());
}

#[test]
fn only_a_sole_handle_from_the_first_byte_of_our_own_memory_becomes_writable() {
    let (_, root) = tracked(10_000);
    let other = child(&root, "other");
    let buffer = ones(&root, 100);
    let clone = buffer.clone();
    let buffer = buffer.try_into_mut().unwrap_err();
    drop(clone);
    let elsewhere = buffer.retain_in(&other).unwrap();
    let buffer = buffer.try_into_mut().unwrap_err();
    drop(elsewhere);
    let tail = buffer.slice(1..);
    drop(buffer);
    let tail = tail.try_into_mut().unwrap_err();
    assert_eq!((tail.as_slice(), tail.ref_count()), (&[1; 99][..], 1));
    let foreign = ForeignAllocation::from_owner(vec![1; 100]);
    let foreign = root.wrap_foreign_allocation(foreign).unwrap();
    assert!(foreign.try_into_mut().is_err());

    let head = ones(&root, 100);
    let head = {
        let whole = head;
        whole.slice(..10)
    };
    let mut writable = head.try_into_mut().unwrap();

    assert_eq!((writable.len(), writable.capacity()), (10, 128));
    writable.fill(2);
    assert_eq!(writable.freeze().as_slice(), [2; 10]);
}

#[test]
fn a_buffer_that_was_retained_elsewhere_and_moved_becomes_writable_where_it_is() {
    let (manager, root) = tracked(10_000);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let moved = ones(&a, 100).transfer_ownership(&b).unwrap().buffer;

    let mut writable = moved.try_into_mut().unwrap();
    writable.resize(1000, 3).unwrap();

    assert_eq!(writable.allocator(), b);
    assert_eq!(allocated([&a, &b]), [0, writable.capacity()]);
    assert_eq!((writable[99], writable[100]), (1, 3));
    drop(writable.freeze());
    manager.assert_clean();
}

#[test]
fn a_writable_buffer_can_be_transferred_and_grows_there() {
    let (_, root) = tracked(10_000);
    let (a, b) = (
        child(&root, "a"),
        root.new_child_allocator("b", 0, 200).unwrap(),
    );
    let mut buffer = a.buffer(128).unwrap();
    buffer.resize(128, 2).unwrap();

    assert!(buffer.transfer_ownership(&b).unwrap());
    assert_eq!(
        (buffer.allocator(), allocated([&a, &b])),
        (b.clone(), [0, 128])
    );
    let refused = buffer.resize(1000, 0).unwrap_err();
    assert_eq!(refused.allocator(), Some(b.info()));
    buffer.resize(192, 1).unwrap();
    assert_eq!(allocated([&a, &b]), [0, 192]);
    b.set_limit(100);
    assert!(buffer.transfer_ownership(&a).unwrap());
    assert!(!buffer.transfer_ownership(&b).unwrap());

    let closed = child(&root, "closed");
    closed.close().unwrap();
    buffer.transfer_ownership(&closed).unwrap_err();
    assert_eq!(buffer.allocator(), b);
    assert_eq!(buffer.as_slice(), [[2; 64], [2; 64], [1; 64]].concat());
}

#[test]
fn half_of_a_split_that_moves_takes_the_charge_along_and_grows_on_its_own() {
    let (manager, root) = tracked(10_000);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let mut left = a.buffer_zeroed(256).unwrap();
    let mut right = left.split_off(128);

    assert!(right.transfer_ownership(&b).unwrap());
    assert_eq!(allocated([&a, &b]), [0, 256]);
    right.extend_from_slice(&[1]).unwrap();
    assert_eq!(right.ref_count(), 1);
    left.fill(2);

    assert_eq!(
        (left.len(), right.len(), right[127], right[128]),
        (128, 129, 0, 1)
    );
    assert_eq!(root.allocated_memory(), 256 + right.capacity());
    drop((left, right));
    assert_eq!(allocated([&a, &b]), [0, 0]);
    manager.assert_clean();
}

#[test]
fn sizes_and_counts_are_those_of_the_ledger() {
    let (_, root) = tracked(10_000);
    let other = child(&root, "other");
    let buffer = ones(&root, 100);
    let shared = buffer.retain_in(&other).unwrap();
    let again = [
        shared.clone(),
        shared.slice(1..2),
        buffer.retain_in(&other).unwrap(),
    ];

    assert_eq!((buffer.ref_count(), shared.ref_count()), (1, 4));
    assert_eq!((buffer.accounted_size(), shared.accounted_size()), (128, 0));
    assert_eq!(
        (buffer.allocation_size(), again[1].allocation_size()),
        (128, 128)
    );
    assert_eq!(buffer.allocation_id(), again[1].allocation_id());
    assert!(shared.belongs_to(&other) && !shared.belongs_to(&root));
    assert_eq!(other.allocated_memory(), 0);
}

#[test]
fn buffers_compare_and_hash_as_their_bytes() {
    let (_, root) = tracked(10_000);
    let (one, two) = (ones(&root, 100), ones(&child(&root, "other"), 100));
    assert_eq!(one, two);
    assert_ne!(one, two.slice(1..));
    let map = HashMap::from([(one, "ones"), (root.empty(), "none")]);
    assert_eq!(map.get(&[1; 100][..]), Some(&"ones"));
    assert_eq!(map.get(&[][..]), Some(&"none"));
    assert_eq!(map.get(&two), Some(&"ones"));
}

#[test]
fn typed_views_need_alignment_and_whole_items_and_single_values_need_neither() {
    let (_, root) = tracked(10_000);
    let buffer = root
        .buffer_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 3])
        .unwrap();

    assert_eq!(buffer.slice(..8).typed::<u32>().unwrap(), [1, 2]);
    let error = buffer.typed::<u32>().unwrap_err();
    assert!(matches!(
        error,
        CastError::PartialItem { length: 9, size: 4 }
    ));
    let error = buffer.slice(1..).typed::<u32>().unwrap_err();
    assert!(matches!(error, CastError::Misaligned { alignment: 4, .. }));
    assert!(matches!(
        buffer.typed::<()>(),
        Err(CastError::PartialItem { size: 0, .. })
    ));
    assert_eq!(buffer.get::<u32>(5), Ok(3 << 24));
    assert!(buffer.get::<u32>(6).is_err());

    let mut writable = root.buffer_zeroed(9).unwrap();
    writable.set(5, 7_u32).unwrap();
    assert_eq!(writable.get::<u32>(5), Ok(7));
    assert!(writable.set(6, 7_u32).is_err() && writable.get::<u64>(2).is_err());
    assert_eq!(writable[..], [0, 0, 0, 0, 0, 7, 0, 0, 0]);
}

#[test]
fn writing_appends_and_a_refusal_is_an_error_of_kind_out_of_memory() {
    let (_, root) = tracked(100);
    let mut buffer = root.buffer(0).unwrap();

    write!(buffer, "{}-{}", 1, 2).unwrap();
    buffer.flush().unwrap();
    let error = buffer.write_all(&[1; 100]).unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    assert!(
        error.to_string().contains("`ROOT` is out of room"),
        "{error}"
    );
    assert_eq!(&buffer[..], b"1-2");
}

//! Builders of buffers.

use arrow_memory_core::{AllocError, BooleanBufferBuilder, BufferBuilder, TypedBufferBuilder};

use crate::support::{child, tracked};

#[test]
fn a_builder_charges_as_it_grows_and_can_be_used_again() {
    let (_, root) = tracked(1 << 20);
    let mut builder = BufferBuilder::new(&root);
    assert_eq!((builder.capacity(), root.allocated_memory()), (0, 0));

    for round in 0..3 {
        builder.append(round).unwrap();
        builder.append_slice(&[1, 2]).unwrap();
        builder.append_n(3, 9).unwrap();
        builder.append_n(0, 9).unwrap();
        builder.advance(2).unwrap();
        assert_eq!(builder.as_slice(), [round, 1, 2, 9, 9, 9, 0, 0]);
        assert_eq!(
            (builder.len(), builder.capacity()),
            (8, root.allocated_memory())
        );
        let buffer = builder.finish();
        assert_eq!((buffer.len(), buffer.ref_count()), (8, 1));
        assert!(builder.is_empty() && builder.capacity() == 0);
    }
    assert_eq!(root.allocated_memory(), 0);
    assert_eq!(builder.finish().allocator(), root);
}

#[test]
fn a_refused_append_leaves_the_builder_as_it_was() {
    let (_, root) = tracked(128);
    let (mut bytes, mut bits) = (BufferBuilder::new(&root), BooleanBufferBuilder::new(&root));
    let mut values = TypedBufferBuilder::<u32>::new(&root);
    bytes.append_n(64, 1).unwrap();
    values.append_n(16, 2).unwrap();

    for refused in [
        bytes.append(1),
        bytes.append_n(usize::MAX, 1),
        bytes.reserve(usize::MAX - 63),
        bytes.advance(isize::MAX.unsigned_abs()),
        bytes.append_slice(&[0; 65]),
        values.append(1),
        values.append_n(usize::MAX / 4, 1),
        values.append_slice(&[0; 1]),
        values.advance(usize::MAX),
        values.reserve(usize::MAX),
        bits.append(true),
        bits.append_n(usize::MAX, true),
        bits.append_slice(&[false]),
        bits.advance(1),
        bits.reserve(usize::MAX),
    ] {
        let refused = refused.unwrap_err();
        let limit = matches!(
            refused,
            AllocError::OutOfMemory { .. } | AllocError::SizeOverflow { .. }
        );
        assert!(limit, "{refused}");
    }

    assert_eq!(
        (bytes.as_slice(), values.as_slice()),
        (&[1; 64][..], &[2; 16][..])
    );
    assert_eq!(
        (bits.len(), bits.capacity(), root.allocated_memory()),
        (0, 0, 128)
    );
    drop(values.finish());
    bits.append(true).unwrap();
    assert_eq!(bits.as_slice(), [1]);
}

#[test]
fn typed_builders_count_in_values() {
    let (_, root) = tracked(1 << 20);
    let mut builder = TypedBufferBuilder::<u64>::new(&root);

    builder.reserve(3).unwrap();
    assert_eq!((builder.len(), builder.capacity()), (0, 8));
    builder.append(u64::MAX).unwrap();
    builder.append_n(2, 7).unwrap();
    builder.append_slice(&[1, 2]).unwrap();
    builder.advance(1).unwrap();

    assert_eq!(builder.as_slice(), [u64::MAX, 7, 7, 1, 2, 0]);
    assert_eq!((builder.len(), builder.is_empty()), (6, false));
    let buffer = builder.finish();
    assert_eq!((buffer.len(), buffer.typed::<u64>().unwrap()[3]), (48, 1));
}

#[test]
fn bitmaps_are_right_whatever_pieces_they_are_appended_in() {
    let (_, root) = tracked(1 << 20);
    // Numbers without a pattern that a byte boundary would hide.
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        let (mut builder, mut naive) = (BooleanBufferBuilder::new(&root), Vec::new());
        for _ in 0..20 {
            let (n, bit) = (random.usize(..40), random.bool());
            match random.u32(..4) {
                0 => {
                    builder.append(bit).unwrap();
                    naive.push(bit);
                }
                1 => {
                    builder.append_n(n, bit).unwrap();
                    naive.extend(std::iter::repeat_n(bit, n));
                }
                2 => {
                    let bits: Vec<bool> = (0..n).map(|_| random.bool()).collect();
                    builder.append_slice(&bits).unwrap();
                    naive.extend(bits);
                }
                _ => {
                    builder.advance(n).unwrap();
                    naive.extend(std::iter::repeat_n(false, n));
                }
            }
            assert_eq!(builder.len(), naive.len());
        }
        assert!(
            naive
                .iter()
                .enumerate()
                .all(|(at, &bit)| builder.bit(at) == bit)
        );
        let mut expected = vec![0_u8; naive.len().div_ceil(8)];
        for (at, _) in naive.iter().enumerate().filter(|(_, bit)| **bit) {
            expected[at / 8] |= 1 << (at % 8);
        }
        assert_eq!(builder.finish().as_slice(), expected);
        assert!(builder.is_empty());
    }
}

#[test]
fn an_idle_builder_keeps_its_allocator_and_a_closed_one_refuses_it() {
    let (_, root) = tracked(1 << 20);
    let scan = child(&root, "scan");
    let mut builder = BufferBuilder::new(&scan);
    let weak = scan.downgrade();
    drop(scan);
    let scan = weak.upgrade().unwrap();
    assert_eq!(root.child_allocators().first(), Some(&scan));

    let _ = scan.close();

    let refused = builder.append(1).unwrap_err();
    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
    assert!(builder.finish().is_empty());
}

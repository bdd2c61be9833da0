//! Resizing buffers after they moved to another allocator: then their ledger is not the first one of the
//! allocation, whose slot holds the address of the memory.

use std::array;

use arrow_memory_core::{ArrowBuf, ArrowBufMut, BufferAllocator};

use crate::support::{allocated, child, tracked};

/// The contents of the buffers. If the bytes were used as an address, the access would fail.
const BYTE: u8 = 0xff;

/// So many children that the keys of their ledgers in an index begin with either bit.
fn children(root: &BufferAllocator) -> [BufferAllocator; 12] {
    array::from_fn(|number| child(root, &number.to_string()))
}

/// A buffer of 192 bytes that `root` allocated, and that was grown and shrunk while `owner` had it.
fn resized_there(root: &BufferAllocator, owner: &BufferAllocator) -> ArrowBufMut {
    let mut buffer = root.buffer(128).unwrap();
    buffer.resize(100, BYTE).unwrap();
    assert!(buffer.transfer_ownership(owner).unwrap());
    buffer.resize(1000, BYTE).unwrap();
    buffer.truncate(192);
    buffer.shrink_to_fit().unwrap();
    assert_eq!(owner.allocated_memory(), 192);
    buffer
}

#[test]
fn a_buffer_that_moved_and_was_resized_moves_on_with_all_its_bytes() {
    let (manager, root) = tracked(1 << 20);
    let children = children(&root);
    for owner in &children {
        for next in children.iter().filter(|&next| next != owner) {
            let mut buffer = resized_there(&root, owner);

            assert!(buffer.transfer_ownership(next).unwrap());

            assert_eq!(allocated([owner, next]), [0, 192]);
            assert_eq!(buffer.as_slice(), [BYTE; 192]);
            buffer.resize(300, BYTE).unwrap();
            assert!(buffer.transfer_ownership(&root).unwrap());
            assert_eq!(buffer.as_slice(), [BYTE; 300]);
            root.verify().unwrap();
        }
    }
    drop(children);
    manager.assert_clean();
}

/// One of the orders in which four objects can be dropped.
fn order(mut number: usize) -> [usize; 4] {
    let mut left = vec![0, 1, 2, 3];
    array::from_fn(|_| {
        let at = number % left.len();
        number /= left.len();
        left.remove(at)
    })
}

#[test]
fn a_buffer_that_moved_and_was_resized_is_retained_elsewhere_and_let_go_of_in_any_order() {
    let (manager, root) = tracked(1 << 20);
    let children = children(&root);
    for (first, number) in (0..children.len()).flat_map(|first| (0..24).map(move |n| (first, n))) {
        let nearby = |distance| &children[(first + distance) % children.len()];
        let owner = resized_there(&root, nearby(0)).freeze();
        let retained = [1, 2, 3].map(|distance| owner.retain_in(nearby(distance)).unwrap());
        let mut buffers: Vec<_> = [owner].into_iter().chain(retained).map(Some).collect();
        let [others @ .., last] = order(number);

        for gone in others {
            buffers[gone] = None;
            assert_eq!(root.allocated_memory(), 192);
            for buffer in buffers.iter().flatten() {
                assert_eq!(buffer.as_slice(), [BYTE; 192]);
            }
        }

        let buffer = buffers[last].take().expect("the last one is left");
        let mut buffer = buffer.try_into_mut().unwrap();
        buffer.resize(500, BYTE).unwrap();
        assert!(buffer.transfer_ownership(nearby(4)).unwrap());
        assert_eq!(buffer.as_slice(), [BYTE; 500]);
        root.verify().unwrap();
    }
    drop(children);
    manager.assert_clean();
}

/// Makes the buffer writable, if it is the only handle, and resizes it.
fn resize(buffer: ArrowBuf, bytes: &mut Vec<u8>, len: usize) -> ArrowBuf {
    match buffer.try_into_mut() {
        Ok(mut buffer) => {
            buffer.resize(len, BYTE).unwrap();
            buffer.shrink_to_fit().unwrap();
            bytes.resize(len, BYTE);
            buffer.freeze()
        }
        Err(shared) => shared,
    }
}

#[test]
fn buffers_keep_their_bytes_however_they_are_resized_moved_and_retained() {
    let (manager, root) = tracked(1 << 20);
    let children = children(&root);
    let mut random = fastrand::Rng::with_seed(7);
    let mut buffers: Vec<(ArrowBuf, Vec<u8>)> = Vec::new();

    for step in 0..20_000 {
        let target = &children[random.usize(..children.len())];
        let len = random.usize(1..=400);
        if buffers.is_empty() || buffers.len() < 12 && random.usize(..6) == 0 {
            let bytes = vec![BYTE - random.u8(..16); len];
            buffers.push((target.buffer_from_slice(&bytes).unwrap(), bytes));
            continue;
        }
        let at = random.usize(..buffers.len());
        let (buffer, mut bytes) = buffers.swap_remove(at);
        assert_eq!(buffer.as_slice(), bytes, "step {step}");
        let buffer = match random.usize(..6) {
            0 => continue,
            1 => {
                let retained = buffer.retain_in(target).unwrap();
                buffers.push((retained, bytes.clone()));
                buffer
            }
            2 | 3 => buffer.transfer_ownership(target).unwrap().buffer,
            _ => resize(buffer, &mut bytes, len),
        };
        assert_eq!(buffer.as_slice(), bytes, "step {step}");
        buffers.push((buffer, bytes));
        if step % 64 == 0 {
            root.verify().unwrap();
        }
    }

    for (buffer, bytes) in buffers {
        assert_eq!(buffer.as_slice(), bytes);
    }
    assert_eq!(root.allocated_memory(), 0);
    drop(children);
    manager.assert_clean();
}

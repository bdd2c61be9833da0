//! The bytes of a device: written and read, in slices and pieces.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::{pattern, tree};
use crate::any::{AnyBuffer, AnyBufferMut};
use crate::copy::PIECE;
use crate::manager::DeviceManager;

/// A buffer of 0 bytes has no memory, and is not charged.
///
/// # Panics
///
/// If it has or is.
pub fn an_empty_buffer_has_no_memory(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);

    let mut empty = root.allocate(0).expect("there is no limit");
    assert_eq!((empty.len(), empty.capacity(), empty.address()), (0, 0, 0));
    empty.write_at(0, &[]).expect("there is nothing to copy");
    let empty = empty.freeze();
    assert!(empty.is_empty() && empty.slice(..).is_empty() && empty.ready().is_none());
    assert_eq!(
        (empty.device(), empty.allocator()),
        (manager.device(), root.to_allocator())
    );
    assert_eq!(
        empty
            .reader()
            .read(&mut [0; 8])
            .expect("there is nothing to copy"),
        0
    );
    assert_eq!(
        empty
            .copy_to(&root)
            .expect("there is nothing to copy")
            .len(),
        0
    );
    assert_eq!(root.allocated_memory(), 0);
}

/// Blocks start at multiples of 64 and do not overlap.
///
/// # Panics
///
/// If they do otherwise.
pub fn blocks_are_aligned_and_do_not_overlap(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let sizes = [1, 64, 65, 1000, 4096, 100_000, 1 << 20];
    let mut buffers: Vec<_> = sizes
        .iter()
        .map(|&size| root.allocate(size).expect("there is no limit"))
        .collect();

    for (seed, buffer) in buffers.iter_mut().enumerate() {
        assert_eq!(buffer.address() % 64, 0);
        let bytes = pattern(buffer.len(), seed as u8);
        buffer.write_at(0, &bytes).expect("the device copies");
    }
    for (seed, buffer) in buffers.iter().enumerate() {
        let mut bytes = vec![0; buffer.len()];
        buffer.read_at(0, &mut bytes).expect("the device copies");
        assert_eq!(bytes, pattern(buffer.len(), seed as u8));
    }
    let mut spans: Vec<(u64, u64)> = buffers
        .iter()
        .map(|buffer| {
            (
                buffer.address(),
                buffer.address() + buffer.capacity() as u64,
            )
        })
        .collect();
    spans.sort_unstable();
    assert!(
        spans.windows(2).all(|two| two[0].1 <= two[1].0),
        "{spans:x?}"
    );
}

/// What a writer has written a reader reads, around the size of a piece, too.
///
/// # Panics
///
/// If it reads anything else.
pub fn bytes_of_every_size_are_read_back(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);

    for len in [
        1,
        63,
        64,
        65,
        4096,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        3 * PIECE + 5,
    ] {
        let bytes = pattern(len, 1);
        let mut buffer = root.allocate(len).expect("there is no limit");
        buffer
            .writer()
            .write_all(&bytes)
            .expect("the device copies");
        let mut read = Vec::new();
        let mut reader = buffer.freeze().reader();
        reader.read_to_end(&mut read).expect("the device copies");
        assert!(read == bytes, "{len} bytes were not read back");
    }
}

/// A slice sees the bytes of its range, and keeps the whole block.
///
/// # Panics
///
/// If it does not.
pub fn a_slice_is_a_part_of_the_same_bytes(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let bytes = pattern(1000, 2);
    let mut buffer = root.allocate(1000).expect("there is no limit");
    buffer
        .write_at(0, &bytes[..400])
        .expect("the device copies");
    buffer
        .write_at(400, &bytes[400..])
        .expect("the device copies");
    let buffer = buffer.freeze();

    let slice = buffer.slice(100..900).slice(50..=99);
    assert_eq!((slice.len(), slice.address()), (50, buffer.address() + 150));
    assert_eq!((buffer.ref_count(), slice.capacity()), (2, 1024));
    drop(buffer);
    let mut read = Vec::new();
    slice
        .reader()
        .read_to_end(&mut read)
        .expect("the device copies");
    assert_eq!(read, bytes[150..200]);
    assert_eq!(root.allocated_memory(), 1024);
}

/// A reader is a cursor of std.
///
/// # Panics
///
/// If it is not.
pub fn a_reader_seeks_and_ends(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let bytes = pattern(2 * PIECE, 3);
    let mut buffer = root.allocate(bytes.len()).expect("there is no limit");
    buffer.write_at(0, &bytes).expect("the device copies");
    let mut reader = buffer.freeze().reader();
    let mut room = vec![0; bytes.len()];

    assert_eq!(reader.read(&mut room).expect("the device copies"), PIECE); // a piece at a time
    assert_eq!(
        reader.seek(SeekFrom::End(-3)).expect("within"),
        bytes.len() as u64 - 3
    );
    assert_eq!(reader.read(&mut room).expect("the device copies"), 3);
    assert_eq!(room[..3], bytes[bytes.len() - 3..]);
    assert_eq!(reader.read(&mut room).expect("the end"), 0);
    assert_eq!(
        reader.seek(SeekFrom::Current(-10)).expect("within"),
        bytes.len() as u64 - 10
    );
    assert!(reader.seek(SeekFrom::Current(i64::MIN)).is_err());
    assert_eq!(
        reader
            .seek(SeekFrom::Start(u64::MAX))
            .expect("beyond the end"),
        u64::MAX
    );
    assert_eq!(reader.read(&mut room).expect("beyond the end"), 0);
}

/// A writer ends where the buffer ends.
///
/// # Panics
///
/// If it does not.
pub fn a_writer_does_not_grow_the_buffer(manager: &Arc<dyn DeviceManager>) {
    let root = tree(manager);
    let mut buffer = root.allocate(10).expect("there is no limit");
    buffer.write_at(0, &[1; 10]).expect("the device copies");
    let mut writer = buffer.writer();

    writer.seek(SeekFrom::End(-4)).expect("within");
    assert_eq!(writer.write(&[2; 64]).expect("the device copies"), 4);
    assert_eq!(writer.write(&[2; 64]).expect("the end"), 0);
    writer.seek(SeekFrom::Start(1)).expect("within");
    writer.write_all(&[3; 2]).expect("the device copies");
    writer.flush().expect("there is nothing to flush");
    let mut bytes = [0; 10];
    buffer.read_at(0, &mut bytes).expect("the device copies");
    assert_eq!(bytes, [1, 3, 3, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(buffer.len(), 10);
}

//! Single buffers: into arrow's type and back.

use arrow_memory_core::__private::{ForeignRoom, heap};
use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::deps::arrow_buffer::{ArrowNativeType, Buffer, ScalarBuffer};
use super::known::{self, Adoption};
use super::region::Region;
use crate::error::MemoryError;

/// Makes a `Buffer` of arrow's on the same memory, which stays charged until the last `Buffer` on it is
/// dropped. An empty buffer keeps no memory.
///
/// This costs two small allocations, and an entry in a registry by which [`arrow_buf`] finds the buffer again.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::{arrow_buf, into_buffer};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let ours = root.buffer_from_slice(&[1, 2, 3])?;
/// let theirs = into_buffer(ours.clone());
/// assert_eq!(theirs.as_slice(), [1, 2, 3]);
/// assert_eq!(arrow_buf(&theirs).unwrap().as_ptr(), ours.as_ptr());
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[doc(alias = "Buffer")]
pub fn into_buffer(buffer: ArrowBuf) -> Buffer {
    known::wrap(buffer)
}

/// Makes a buffer of values of `T` on the same memory, by [`into_buffer`].
///
/// # Panics
///
/// If the length is not a multiple of the size of `T`, or the address is not aligned for `T` (the address of
/// a slice may not be).
///
/// ```
/// # use arrow_memory_system as _;
/// # use arrow_memory_core::{RootAllocator, TypedBufferBuilder};
/// use arrow_memory_arrow::deps::arrow_array::Int64Array;
/// use arrow_memory_arrow::into_scalar_buffer;
///
/// # let root = RootAllocator::new(1 << 20);
/// let mut builder = TypedBufferBuilder::<i64>::new(&root);
/// builder.append_slice(&[25, 1, 3])?;
/// let array = Int64Array::new(into_scalar_buffer(builder.finish()), None);
/// assert_eq!((array.value(2), root.allocated_memory()), (3, 64));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
pub fn into_scalar_buffer<T: ArrowNativeType>(buffer: ArrowBuf) -> ScalarBuffer<T> {
    let len = buffer.len() / size_of::<T>();
    assert_eq!(
        buffer.len() % size_of::<T>(),
        0,
        "a part of a value is left"
    );
    ScalarBuffer::new(into_buffer(buffer), 0, len)
}

/// The same bytes as an [`ArrowBuf`], if a tree is charged for the memory of `buffer` already: because
/// `buffer` was made of an [`ArrowBuf`], or because its memory was adopted.
///
/// The memory is recognised by the address where it starts, and by its size. A `Buffer` that starts in the
/// middle of a tree's memory, and is not a slice of a `Buffer` that was made here (one that came over the C
/// Data Interface, for instance), is not recognised.
#[track_caller]
pub fn arrow_buf(buffer: &Buffer) -> Option<ArrowBuf> {
    let known = known::find(Region::of(buffer)?, None).known?;
    Some(window(&known.view, buffer))
}

/// Puts a buffer of arrow's under `allocator`, without a copy, and charges its capacity in bytes: once, even
/// if several slices of it are adopted by several allocators of the tree.
///
/// Memory that the tree is charged for already is shared with `allocator`, as by [`ArrowBuf::retain_in`], and
/// not charged again; memory that came from the tree is, too. The empty buffer is adopted as
/// [`BufferAllocator::empty`].
///
/// The charge ends when the last buffer that was made of the memory *here* is dropped. Until then arrow-rs
/// cannot write to the memory in place (`into_mutable`, `unary_mut` and the like).
///
/// # Errors
///
/// [`MemoryError::Alloc`] if it does not fit, or [`MemoryError::Transfer`] if the tree is charged for the
/// memory already and `allocator` is closed. Nothing has changed then.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::adopt_buffer;
/// use arrow_memory_arrow::deps::arrow_buffer::Buffer;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let theirs = Buffer::from_vec(vec![0_u8; 1000]);
/// let first = adopt_buffer(&theirs, &root)?;
/// let second = adopt_buffer(&theirs.slice_with_length(500, 10), &root)?;
/// assert_eq!((root.allocated_memory(), second.len()), (1000, 10));
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
#[track_caller]
pub fn adopt_buffer(buffer: &Buffer, allocator: &BufferAllocator) -> Result<ArrowBuf, MemoryError> {
    let Some(region) = Region::of(buffer) else {
        return Ok(allocator.empty());
    };
    let lookup = known::find(region, Some(allocator));
    let view = match lookup.known {
        Some(known) => known.view,
        None => {
            let original = lookup.original.as_ref();
            let region = original.map_or(region, |original| region.on(original));
            let mut piece = heap::labels().and_then(|labels| region.piece(labels));
            let room = ForeignRoom::new(allocator, region.size, piece.as_mut_slice());
            let mut room = room.map_err(|error| error.for_buffer(buffer.len(), region.size))?;
            let original = original.unwrap_or(buffer);
            match known::adopt(allocator, &mut room, original, region, piece.as_mut())? {
                Adoption::Made(view) => view,
                Adoption::Found(known) => known.view,
            }
        }
    };
    let view = window(&view, buffer);
    if view.belongs_to(allocator) {
        return Ok(view);
    }
    Ok(view.retain_in(allocator)?)
}

/// The bytes that `buffer` views. `view` is on the same memory, from its start.
#[track_caller]
fn window(view: &ArrowBuf, buffer: &Buffer) -> ArrowBuf {
    let start = buffer.ptr_offset();
    view.slice(start..start + buffer.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;

    use super::super::Accounted;
    use super::*;

    #[test]
    fn a_buffer_of_ours_comes_back_as_the_same_ledger() {
        let root = RootAllocator::new(1 << 20);
        let ours = root.buffer_from_slice(&[7; 100]).unwrap();

        let theirs = into_buffer(ours.slice(10..60));
        let back = arrow_buf(&theirs.slice_with_length(5, 10)).unwrap();

        assert_eq!(back.as_ptr().addr(), ours.as_ptr().addr() + 15);
        assert_eq!((back.len(), ours.ref_count()), (10, 3));
        drop((theirs, back));
        assert_eq!(ours.ref_count(), 1);
    }

    #[test]
    fn capacity_is_charged_and_only_what_is_initialised_can_be_read() {
        let root = RootAllocator::new(1 << 20);
        let mut values = Vec::<u8>::with_capacity(1000);
        values.extend([1, 2, 3]);

        let ours = adopt_buffer(&Buffer::from_vec(values), &root).unwrap();

        assert_eq!(
            (ours.as_slice(), root.allocated_memory()),
            (&[1, 2, 3][..], 1000)
        );
        drop(ours);
        assert_eq!(root.allocated_memory(), 0);
    }

    #[test]
    fn a_wider_slice_of_adopted_memory_can_be_adopted_later() {
        let root = RootAllocator::new(1 << 20);
        let theirs = Buffer::from_vec((0..=255_u8).collect());

        let narrow = adopt_buffer(&theirs.slice_with_length(10, 5), &root).unwrap();
        let wide = adopt_buffer(&theirs, &root).unwrap();

        assert_eq!(
            (narrow.as_slice(), wide.len()),
            (&[10, 11, 12, 13, 14][..], 256)
        );
        assert_eq!(root.allocated_memory(), 256);
        drop((theirs, narrow));
        assert_eq!(wide[255], 255);
    }

    #[test]
    fn memory_that_a_sibling_adopted_is_shared_and_not_charged_again() {
        let root = RootAllocator::new(1 << 20);
        let scan = root.new_child_allocator("scan", 0, 1 << 20).unwrap();
        let join = root.new_child_allocator("join", 0, 1 << 20).unwrap();
        let theirs = Buffer::from_vec(vec![1_u8; 500]);

        let first = adopt_buffer(&theirs, &scan).unwrap();
        let second = adopt_buffer(&theirs, &join).unwrap();
        assert_eq!((scan.allocated_memory(), join.allocated_memory()), (500, 0));

        drop(first);
        assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 500));
        // The first ledger was dropped, so the memory is found by the second.
        let third = adopt_buffer(&theirs, &scan).unwrap();
        assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 500));
        drop((second, third));
        assert_eq!(root.allocated_memory(), 0);
    }

    #[test]
    fn another_tree_charges_for_itself() {
        let (one, two) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
        let theirs = Buffer::from_vec(vec![1_u8; 500]);

        let held = (
            adopt_buffer(&theirs, &one).unwrap(),
            adopt_buffer(&theirs, &two).unwrap(),
        );

        assert_eq!((one.allocated_memory(), two.allocated_memory()), (500, 500));
        drop(held);
        assert_eq!((one.allocated_memory(), two.allocated_memory()), (0, 0));
    }

    #[test]
    fn what_another_tree_adopted_is_adopted_whole_and_does_not_keep_its_charge() {
        let (one, two) = (RootAllocator::new(1 << 20), RootAllocator::new(1 << 20));
        let mut values = Vec::<u8>::with_capacity(1000);
        values.extend([1, 2, 3]);
        let theirs = Buffer::from_vec(values);

        let first = theirs.clone().adopt(&one).unwrap();
        assert_eq!(first.capacity(), 3);
        let arrays = first.slice(1).adopt(&two).unwrap();
        let ours = adopt_buffer(&first, &two).unwrap();
        drop(first);

        assert_eq!((one.allocated_memory(), two.allocated_memory()), (0, 1000));
        assert_eq!(
            (arrays.as_slice(), ours.as_slice()),
            (&[2, 3][..], &[1, 2, 3][..])
        );
        drop(theirs);
        let back = ours.transfer_ownership(&two).unwrap().buffer;
        drop((arrays, ours));
        assert_eq!((two.allocated_memory(), &back[..]), (1000, &[1, 2, 3][..]));
        drop(back);
        assert_eq!(two.allocated_memory(), 0);
    }

    #[test]
    fn a_refused_adoption_leaves_no_trace() {
        let root = RootAllocator::new(100);
        let theirs = Buffer::from_vec(vec![1_u8; 500]);

        let refused = adopt_buffer(&theirs, &root).unwrap_err();

        assert!(refused.is_out_of_memory(), "{refused}");
        assert_eq!(theirs.strong_count(), 1);
        assert!(arrow_buf(&theirs).is_none());
        assert_eq!(
            (root.allocated_memory(), root.peak_memory_allocation()),
            (0, 0)
        );
    }

    #[test]
    fn empty_buffers_are_never_charged() {
        let root = RootAllocator::new(0);

        assert!(into_buffer(root.empty()).is_empty());
        assert!(adopt_buffer(&Buffer::default(), &root).unwrap().is_empty());
        assert!(arrow_buf(&Buffer::default()).is_none());
    }

    #[test]
    fn adoptions_and_drops_of_one_buffer_race_without_a_trace() {
        let root = RootAllocator::new(10_000);
        let children: Vec<_> = (0..4)
            .map(|index| root.child(&format!("{index}")).build().unwrap())
            .collect();
        let theirs = Buffer::from_vec((0..1000_u32).map(|n| n as u8).collect::<Vec<u8>>());
        let start = Barrier::new(4);

        std::thread::scope(|threads| {
            for child in &children {
                threads.spawn(|| {
                    start.wait();
                    for round in 0..5000 {
                        let ours = adopt_buffer(&theirs, child).unwrap();
                        assert_eq!(ours[999], 231);
                        if round % 3 == 0 {
                            let again = into_buffer(ours.clone());
                            drop(ours);
                            assert_eq!(arrow_buf(&again).unwrap()[998], 230);
                        } else if round % 3 == 1 {
                            let moved = ours.transfer_ownership(&children[0]).unwrap();
                            drop(ours);
                            assert_eq!(moved.buffer[0], 0);
                        }
                    }
                });
            }
        });

        assert_eq!((root.allocated_memory(), theirs.strong_count()), (0, 1));
        assert!(arrow_buf(&theirs).is_none());
        root.verify().unwrap();
    }
}

//! The trait that adopts, moves, measures and detaches arrays and batches as wholes.

use arrow_memory_core::{AllocError, AllocationReservation, BufferAllocator, ForeignRoom};
use hashbrown::HashTable;

use super::deps::arrow_array::{ArrayRef, RecordBatch, make_array};
use super::deps::arrow_buffer::Buffer;
use super::deps::arrow_data::ArrayData;
use super::known::{self, Region};
use super::parts::Parts;
use super::regions::{Regions, mix};
use crate::error::{MemoryError, Refused};

/// A value that owns buffers of arrow's: a buffer, an array of any type, a batch.
///
/// **What is not adopted is not charged.** Memory of arrow-rs' own is charged from its adoption until
/// the last result of it is dropped, and at no other time. So adopt what you keep, and keep what was
/// adopted: [`adopt`](Self::adopt) consumes its source, so that no array with uncharged memory stays
/// behind. A clone that was made before the adoption does stay behind.
///
/// Nothing is copied. The results have the same values, offsets and lengths, on buffers that hold a
/// tree's memory. A slice of a result shares its memory and adds no charge. The buffers of children,
/// dictionaries, views and null masks are included, and each allocation is charged once.
///
/// Adopted arrays lose one ability: arrow-rs can no longer write to their memory in place, since it does not
/// own it any more (`unary_mut`, `into_builder`, `into_vec` and the like copy, or refuse).
/// [`detach`](Self::detach) gives the arrow-rs memory back.
///
/// An operation costs a lookup in a registry for each allocation, two small allocations for each one that is
/// adopted, and the rebuilding of the arrays around the new buffers. It does not read the values.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::Accounted;
/// use arrow_memory_arrow::deps::arrow_array::{Array, Int64Array};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let query = root.new_child_allocator("query", 0, 1 << 20)?;
///
/// let array = Int64Array::from(vec![1, 2, 3, 4]).adopt(&root)?;
/// let slice = array.slice(1, 2);
/// assert_eq!((root.allocated_memory(), slice.accounted_size()), (32, 32));
///
/// let moved = array.try_move_to(&query)?;
/// assert_eq!((query.allocated_memory(), root.allocated_memory()), (32, 32));
/// drop((slice, moved));
/// assert_eq!(root.allocated_memory(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Accounted: Sized {
    /// Puts all memory of this value under `allocator`. Memory that no allocator of the tree is charged for is
    /// charged at its capacity in bytes. Memory that the tree is charged for already is shared, as by
    /// [`ArrowBuf::retain_in`](arrow_memory_core::ArrowBuf::retain_in), and not charged again.
    ///
    /// The charge lasts as long as the result, its clones and slices do.
    ///
    /// # Errors
    ///
    /// The value is refused as a whole, and handed back in the error. No limit, peak or other request sees a
    /// part of it.
    ///
    /// * [`MemoryError::Alloc`] if the memory does not fit, or if the listener or a closed allocator refuses.
    /// * [`MemoryError::Transfer`] if the tree is charged for the memory already, and `allocator` is closed and
    ///   does not share it yet.
    #[track_caller]
    fn adopt(self, allocator: &BufferAllocator) -> Result<Self, Refused<Self>>;

    /// Puts all memory of this value under the reservation's allocator, like [`adopt`](Self::adopt), and takes
    /// the bytes for it out of the reservation. Use this for the output of a kernel, which exists before it
    /// can be charged: reserve room for it before the kernel runs.
    ///
    /// The reservation shrinks by exactly the bytes that are charged. If it has fewer, all of it is used, and
    /// the rest is charged besides. The bytes stay charged throughout, so no other request can take them in
    /// between. Memory that the tree is charged for already is shared, and takes nothing.
    ///
    /// # Errors
    ///
    /// The same as for [`adopt`](Self::adopt); the bytes beyond the reservation have to fit. The listener is
    /// asked once, for all the bytes. The reservation is as it was, also if the listener panics. There is one exception:
    /// memory that another thread found and shared while this ran stays charged, to the other thread's
    /// allocator, and its bytes do not return to the reservation.
    ///
    /// If another thread adopts a part of the memory first, the bytes for that part return to the reservation.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_arrow::Accounted;
    /// use arrow_memory_arrow::deps::arrow_array::Int64Array;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1000);
    /// let mut room = root.new_reservation();
    /// room.add(900)?; // as much as the kernel may make
    /// let output = Int64Array::from(vec![7; 100]); // the kernel
    /// let output = output.adopt_from(&mut room)?;
    /// assert_eq!((room.size(), root.allocated_memory()), (100, 900));
    /// # drop(output);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn adopt_from(self, reservation: &mut AllocationReservation) -> Result<Self, Refused<Self>>;

    /// Moves this value to `target` as a whole. Memory that the tree is charged for already is charged to
    /// `target` from now on; memory that is not charged yet is adopted there. The value is consumed, so its
    /// handles on other allocators are dropped.
    ///
    /// Clones and slices of it stay valid, and `target` pays for them.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Transfer`], with the core's error, or [`MemoryError::Alloc`], if the value does not fit
    /// as a whole. It is handed back. Allocations that had moved by then are moved back; other threads may
    /// have seen them at `target`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_arrow::Accounted;
    /// use arrow_memory_arrow::deps::arrow_array::Int64Array;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let (aggregate, results) = (root.child("aggregate").build()?, root.child("results").build()?);
    /// let output = Int64Array::from(vec![7; 100]).adopt(&aggregate)?;
    /// let output = output.try_move_to(&results)?;
    /// aggregate.close()?; // nothing was left behind
    /// assert_eq!(results.allocated_memory(), 800);
    /// # drop(output);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn try_move_to(self, target: &BufferAllocator) -> Result<Self, Refused<Self>>;

    /// Moves the charge of this value to `target`, and leaves the value alive. Memory that is not charged yet
    /// is adopted by `target`. [`try_move_to`](Self::try_move_to) does the same and consumes the value.
    ///
    /// `self` stays valid, and `target` pays for it. The ledgers of its own allocator stay outstanding until
    /// `self` is dropped, and `close` of that allocator fails until then. Unless you need both values, use
    /// `try_move_to`.
    ///
    /// # Errors
    ///
    /// The same as for `try_move_to`.
    #[track_caller]
    fn transfer_to(&self, target: &BufferAllocator) -> Result<Self, MemoryError>;

    /// The bytes that trees are charged for the memory of this value. Each allocation counts once, and as a
    /// whole, even if other values share it. (Null masks without nulls are not seen where arrow-rs does
    /// not show them.)
    fn accounted_size(&self) -> usize;

    /// Returns the same values in memory that no tree is charged for. Adopted memory is arrow-rs' own again,
    /// without a copy; memory that came from a tree is copied to the global allocator. The charge of `self`
    /// ends when `self` is dropped.
    fn detach(&self) -> Self;
}

/// Moves the charge of a buffer to `allocator`, by [`Accounted::transfer_to`]. Memory that is not charged yet
/// is adopted. The source stays alive, and so does its handle on another allocator, if it has one;
/// [`Accounted::try_move_to`] consumes both.
///
/// arrow-rs' own `Buffer::claim` charges by force and sees only a size. This function recognises memory
/// that is charged already, and can refuse.
///
/// # Errors
///
/// The same as for [`Accounted::try_move_to`].
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::claim;
/// use arrow_memory_arrow::deps::arrow_buffer::Buffer;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1000);
/// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
/// let buffer = Buffer::from_vec(vec![0_u8; 800]);
/// let scanned = claim(&buffer, &scan)?;
/// let joined = claim(&buffer, &join)?;
/// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 800));
/// # drop((scanned, joined));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn claim(buffer: &Buffer, allocator: &BufferAllocator) -> Result<Buffer, MemoryError> {
    buffer.transfer_to(allocator)
}

/// Moves the charge of a batch to `allocator` as a whole, by [`Accounted::transfer_to`]. Memory that is not
/// charged yet is adopted. The source stays alive; [`Accounted::try_move_to`] consumes it.
///
/// # Errors
///
/// The same as for [`Accounted::try_move_to`].
#[track_caller]
pub fn claim_batch(
    batch: &RecordBatch,
    allocator: &BufferAllocator,
) -> Result<RecordBatch, MemoryError> {
    batch.transfer_to(allocator)
}

/// Makes an array of array data, by arrow's `make_array`. For callers that depend on none of arrow's crates.
pub fn to_array(data: ArrayData) -> ArrayRef {
    make_array(data)
}

impl<T: Parts> Accounted for T {
    #[track_caller]
    fn adopt(self, allocator: &BufferAllocator) -> Result<Self, Refused<Self>> {
        match adopted(&self, allocator, |bytes| allocator.room_for_foreign(bytes)) {
            Ok(adopted) => Ok(adopted),
            Err(source) => Err(Refused {
                value: self,
                source,
            }),
        }
    }

    #[track_caller]
    fn adopt_from(self, reservation: &mut AllocationReservation) -> Result<Self, Refused<Self>> {
        let allocator = reservation.allocator().clone();
        match adopted(&self, &allocator, |bytes| {
            reservation.room_for_foreign(bytes)
        }) {
            Ok(adopted) => Ok(adopted),
            Err(source) => Err(Refused {
                value: self,
                source,
            }),
        }
    }

    #[track_caller]
    fn try_move_to(self, target: &BufferAllocator) -> Result<Self, Refused<Self>> {
        match self.transfer_to(target) {
            Ok(moved) => Ok(moved),
            Err(source) => Err(Refused {
                value: self,
                source,
            }),
        }
    }

    #[track_caller]
    fn transfer_to(&self, target: &BufferAllocator) -> Result<Self, MemoryError> {
        moved(self, target, None)
    }

    fn accounted_size(&self) -> usize {
        let mut seen = HashTable::new();
        let mut sum = 0;
        let mut add = |buffer: &Buffer| {
            let find = |region| known::find(region, None).known;
            let Some(known) = Region::held(buffer).and_then(find) else {
                return;
            };
            let Some(id) = known.view.allocation_id() else {
                return;
            };
            if seen.find(mix(id), |&other| other == id).is_none() {
                seen.insert_unique(mix(id), id, |&id| mix(id));
                sum += known.view.allocation_size();
            }
        };
        let parts = self.parts();
        for part in &parts {
            part.visit(&mut add);
        }
        sum
    }

    fn detach(&self) -> Self {
        let parts = self.parts();
        let mut regions = Regions::of(&parts);
        regions.detach();
        self.assemble(regions.rebuild(&parts))
    }
}

/// `whole` under `target`. Memory that is charged to `from`, or to any allocator of the tree without `from`, is
/// moved; memory that is charged to another allocator is shared; the rest is adopted.
#[track_caller]
pub(super) fn moved<T: Parts>(
    whole: &T,
    target: &BufferAllocator,
    from: Option<&BufferAllocator>,
) -> Result<T, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    // Adopting comes first: a move can be undone if it fails, and after it nothing else can fail.
    let missing = regions.find(target);
    if missing.bytes > 0 {
        let room = target.room_for_foreign(missing.bytes);
        let mut room = room.map_err(|error| missing.refused(error))?;
        regions.adopt(target, &mut room)?.keep();
    }
    regions.transfer(target, from)?;
    Ok(whole.assemble(regions.rebuild(&parts)))
}

/// `whole` under `allocator`. `room` charges the bytes of all memory that is not charged yet, at once.
#[track_caller]
fn adopted<'r, T: Parts>(
    whole: &T,
    allocator: &BufferAllocator,
    room: impl FnOnce(usize) -> Result<ForeignRoom<'r>, AllocError>,
) -> Result<T, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    let missing = regions.find(allocator);
    // Sharing charges nothing. It comes first, so that its failure leaves no charge to be undone.
    regions.share(allocator)?;
    if missing.bytes > 0 {
        let mut room = room(missing.bytes).map_err(|error| missing.refused(error))?;
        let mut adopting = regions.adopt(allocator, &mut room)?;
        adopting.share(allocator)?;
        adopting.keep();
    }
    Ok(whole.assemble(regions.rebuild(&parts)))
}

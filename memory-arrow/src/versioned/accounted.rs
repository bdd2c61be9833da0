//! Arrays and batches: adopted, moved, measured and let go as wholes.

use arrow_memory_core::{AllocError, AllocationReservation, BufferAllocator, ForeignRoom};
use hashbrown::HashTable;

use super::deps::arrow_array::{ArrayRef, RecordBatch, make_array};
use super::deps::arrow_buffer::Buffer;
use super::deps::arrow_data::ArrayData;
use super::known::{self, Region};
use super::parts::Parts;
use super::regions::{Regions, mix};
use crate::error::{MemoryError, Refused};

/// What has buffers of arrow's: a buffer, an array of any type, a batch.
///
/// **What is not adopted is not charged.** Memory of arrow-rs' own is charged from its adoption until
/// the last result of it is dropped, and at no other time. So adopt what you keep, and keep what was
/// adopted: [`adopt`](Self::adopt) consumes its source, so that no array stays behind whose memory
/// nobody accounts for. A clone that was made before does stay behind.
///
/// Nothing is copied. The results have the same values, offsets and lengths, on buffers that hold a
/// tree's memory. A slice of a result shares its memory and adds nothing. All buffers are taken
/// together: of children, dictionaries, views and null masks, each allocation once.
///
/// What adopted arrays lose: arrow-rs can no longer write to their memory in place (`unary_mut`,
/// `into_builder`, `into_vec` and the like copy, or refuse), since it does not own it any more.
/// [`detach`](Self::detach) gives the arrow-rs memory back.
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
    /// Puts all memory of this under `allocator`: what no allocator of its tree is charged for is
    /// charged at its capacity, the rest is shared (as by
    /// [`ArrowBuf::retain_in`](arrow_memory_core::ArrowBuf::retain_in)) and not charged again.
    ///
    /// The charge lasts as long as the result, its clones and slices do.
    ///
    /// # Errors
    ///
    /// It is refused as a whole, and hands this back: no limit, peak or other request sees a part of
    /// it.
    ///
    /// * [`MemoryError::Alloc`] if it does not fit, or the listener or a closed allocator refuses.
    /// * [`MemoryError::Transfer`] if memory is known, and `allocator` is closed and has none of it yet.
    #[track_caller]
    #[doc(alias = "claim")]
    fn adopt(self, allocator: &BufferAllocator) -> Result<Self, Refused<Self>>;

    /// Puts all memory of this under the reservation's allocator, as [`adopt`](Self::adopt), and takes
    /// the bytes that are to be charged out of the reservation. For the output of kernels, which exists
    /// before it can be charged: reserve room for it first.
    ///
    /// The reservation shrinks by exactly what is charged. If it has less, all of it is used, and the
    /// rest is charged besides. This is one step: the bytes are charged throughout, so nobody else can
    /// take them in between. Memory that the tree is charged for already is shared, and takes nothing.
    ///
    /// # Errors
    ///
    /// The same as for [`adopt`](Self::adopt); what exceeds the reservation has to fit. The listener is
    /// asked once, for all the bytes. The reservation is as it was. (With one exception: if another
    /// thread adopts a part of this memory and a third closes the allocator while this runs, what had
    /// come out of the reservation by then is released.) Where another thread adopts a part first, its
    /// bytes are the reservation's again.
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

    /// Moves this to `target`: what its tree is charged for already is charged to `target` from now on,
    /// and what is not charged yet is adopted there; all of it, if it fits. This is consumed, so its
    /// handles on other allocators go.
    ///
    /// Clones and slices that others hold stay valid, at the target's expense.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Transfer`], with what the core said, or [`MemoryError::Alloc`], if it does not fit
    /// as a whole; this is handed back. Allocations that had moved by then are moved back; others may
    /// have seen them.
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

    /// As [`try_move_to`](Self::try_move_to), and leaves the source alive.
    ///
    /// `self` stays valid, at the target's expense, and keeps the ledgers of its own allocator
    /// outstanding until it is dropped: `close` of that allocator fails until then. Unless you need
    /// both, use `try_move_to`.
    ///
    /// # Errors
    ///
    /// The same as for `try_move_to`.
    #[track_caller]
    fn transfer_to(&self, target: &BufferAllocator) -> Result<Self, MemoryError>;

    /// The bytes that trees are charged for the memory of this, each allocation once: whole
    /// allocations, whoever shares them. (Null masks without nulls are not seen, where arrow-rs does
    /// not show them.)
    fn accounted_size(&self) -> usize;

    /// The same values in memory that no tree is charged for: what was adopted is arrow-rs' own
    /// memory again, without a copy; what came from a tree is copied to the global allocator. The
    /// charge of `self` ends when it goes.
    fn detach(&self) -> Self;
}

/// Puts a buffer under `allocator`, as [`Accounted::transfer_to`]: memory that its tree is charged
/// for already is moved there and not charged again. The source stays alive, and so does its handle on
/// another allocator, if it has one; [`Accounted::try_move_to`] takes it along.
///
/// Beside arrow-rs' own `Buffer::claim`, which charges by force and sees only a size, this recognises
/// memory and can refuse.
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

/// Puts a batch under `allocator`, as [`claim`] does a buffer, as a whole. The source stays alive;
/// [`Accounted::try_move_to`] takes it along.
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

/// An array of the data's type, as arrow's `make_array`, for those who have none of arrow's crates
/// at hand.
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

/// What `whole` is under `target`: what is charged to `from` moves, or to any allocator of the tree, if
/// `from` is not given; what is charged to another is shared, and the rest is adopted.
#[track_caller]
pub(super) fn moved<T: Parts>(
    whole: &T,
    target: &BufferAllocator,
    from: Option<&BufferAllocator>,
) -> Result<T, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    // What moves can be moved back, so it comes last.
    let missing = regions.find(target);
    if missing.bytes > 0 {
        let room = target.room_for_foreign(missing.bytes);
        let mut room = room.map_err(|error| missing.refused(error))?;
        regions.adopt(target, &mut room)?;
    }
    regions.transfer(target, from)?;
    Ok(whole.assemble(regions.rebuild(&parts)))
}

/// What `whole` is under `allocator`, with new charges made by `room`, once, for all of them.
#[track_caller]
fn adopted<'r, T: Parts>(
    whole: &T,
    allocator: &BufferAllocator,
    room: impl FnOnce(usize) -> Result<ForeignRoom<'r>, AllocError>,
) -> Result<T, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    let missing = regions.find(allocator);
    // Sharing charges nothing, so it is done before there is a charge to be undone.
    regions.share(allocator)?;
    if missing.bytes > 0 {
        let mut room = room(missing.bytes).map_err(|error| missing.refused(error))?;
        regions.adopt(allocator, &mut room)?;
        // What other threads adopted meanwhile.
        regions.share(allocator)?;
    }
    Ok(whole.assemble(regions.rebuild(&parts)))
}

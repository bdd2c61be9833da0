//! The trait that adopts, moves, measures and detaches arrays and batches as wholes.

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::__private::heap::Piece;
use arrow_memory_core::{AllocError, AllocationReservation, BufferAllocator};
use hashbrown::HashTable;

use super::deps::arrow_buffer::Buffer;
use super::handing::{Aside, TransferResult, handed_over, moved, transferred};
use super::known;
use super::parts::Parts;
use super::region::Region;
use super::regions::Regions;
use super::transfer::{Moves, Transfer};
use crate::error::{MemoryError, Refused};
use crate::hand_over::HandOver;
use crate::shares::mix;

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
    /// What the program's heap is charged for, since it was allocated in a scope of `arrow-memory-global`, is not charged
    /// again either: the bytes move here in the same step, and back when the result is dropped.
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
    #[doc(alias = "claim")]
    fn adopt(self, allocator: &BufferAllocator) -> Result<Self, Refused<Self>>;

    /// Puts all memory of this value under the reservation's allocator, like [`adopt`](Self::adopt), and takes
    /// the bytes for it out of the reservation. Use this for the output of a kernel, which exists before it
    /// can be charged: reserve room for it before the kernel runs.
    ///
    /// The reservation shrinks by exactly the bytes that are charged, and what the program's heap was charged for the
    /// same memory is released. If it has fewer, all of it is used, and
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

    /// Moves this to `target`, whatever the limits say: what its tree is charged for already is charged to
    /// `target` from now on, and what is not charged yet is adopted there. The listener is told of what is
    /// adopted, and not asked.
    ///
    /// `self` stays valid, at the target's expense, and keeps the ledgers of its own allocator
    /// outstanding until it is dropped: `close` of that allocator fails until then. Takes the tree's lock
    /// for each allocation.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Transfer`] or [`MemoryError::Alloc`] if `target` is closed, or if a sum would pass
    /// `isize::MAX`. Allocations that had moved by then are moved back; others may have seen them.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_arrow::Accounted;
    /// use arrow_memory_arrow::deps::arrow_array::Int64Array;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let (scan, small) = (root.child("scan").build()?, root.child("small").limit(100).build()?);
    /// let array = Int64Array::from(vec![7; 100]).adopt(&scan)?;
    /// let moved = array.transfer_ownership(&small)?; // never refused for a limit
    /// assert!(!moved.allocation_fit && small.is_over_limit());
    /// assert_eq!((scan.allocated_memory(), small.allocated_memory()), (0, 800));
    /// # drop((array, moved));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn transfer_ownership(
        &self,
        target: &BufferAllocator,
    ) -> Result<TransferResult<Self>, MemoryError>;

    /// Moves this to `target`, as [`transfer_ownership`](Self::transfer_ownership), if all of it fits at
    /// every level that it reaches. The source stays alive; [`try_move_to`](Self::try_move_to) takes it
    /// along.
    ///
    /// Beside arrow-rs' own `Buffer::claim`, which charges by force and sees only a size, this recognises
    /// memory and can refuse.
    ///
    /// # Errors
    ///
    /// The same as for `try_move_to`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use arrow_memory_arrow::Accounted;
    /// use arrow_memory_arrow::deps::arrow_buffer::Buffer;
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1000);
    /// let (scan, join) = (root.child("scan").build()?, root.child("join").build()?);
    /// let buffer = Buffer::from_vec(vec![0_u8; 800]);
    /// let scanned = buffer.try_transfer_ownership(&scan)?;
    /// let joined = buffer.try_transfer_ownership(&join)?;
    /// assert_eq!((scan.allocated_memory(), join.allocated_memory()), (0, 800));
    /// # drop((scanned, joined));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn try_transfer_ownership(&self, target: &BufferAllocator) -> Result<Self, MemoryError>;

    /// Hands this value over from one allocator to another as a whole: from the operator that produced it, for
    /// example, to the one that holds it next.
    ///
    /// | memory that | |
    /// |---|---|
    /// | no allocator of the receiver's tree is charged for | is adopted by the receiver, as by [`adopt`](Self::adopt) |
    /// | the tree charges to the giver | moves: the receiver is charged for it from now on |
    /// | the tree charges to any other allocator, such as a cache or an operator that shares the buffer | stays charged there while it has a buffer, and is shared with the receiver |
    /// | the hand-over [excepts](HandOver::except) | is left alone |
    ///
    /// Each allocation counts once, and as a whole, however many buffers and slices are on it. The value is
    /// consumed, so its handles on the giver are dropped. Clones and slices of it stay valid, at the receiver's
    /// expense.
    ///
    /// Within the limits, the listener is asked for what is adopted. A [forced](HandOver::forced) hand-over is
    /// never refused for a limit: the listener is told and not asked, and
    /// [`allocation_fit`](TransferResult::allocation_fit) says whether all fitted.
    ///
    /// # Errors
    ///
    /// The value is refused as a whole, and handed back in the error. Allocations that had moved by then are moved
    /// back; other threads may have seen them at the receiver. The value may be on other buffers then, which are charged
    /// as before; what the owner of a buffer kept besides, if another crate made that owner, may have been dropped.
    ///
    /// * [`MemoryError::Transfer`] or [`MemoryError::Alloc`] if the value does not fit, and the hand-over is not
    ///   forced.
    /// * The same, if the receiver is closed, or if a sum would pass `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use std::sync::Arc;
    ///
    /// use arrow_memory_arrow::deps::arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// use arrow_memory_arrow::{Accounted, HandOver};
    /// use arrow_memory_core::RootAllocator;
    ///
    /// let root = RootAllocator::new(1 << 20);
    /// let [cache, scan, sort] = ["cache", "scan", "sort"].map(|name| root.child(name).build().unwrap());
    /// let cached: ArrayRef = Arc::new(Int64Array::from(vec![7; 100]).adopt(&cache)?);
    /// let sum: ArrayRef = Arc::new(Int64Array::from(vec![1; 100]).adopt(&scan)?);
    /// let rank: ArrayRef = Arc::new(Int64Array::from(vec![2; 100]));
    /// let columns = [("key", cached.clone()), ("sum", sum), ("rank", rank)];
    /// let batch = RecordBatch::try_from_iter(columns)?;
    ///
    /// let held = batch.hand_over(&HandOver::new(&scan, &sort))?.value;
    /// let allocated = [&cache, &scan, &sort].map(|it| it.allocated_memory());
    /// assert_eq!(allocated, [800, 0, 1600]); // the key is only shared
    /// scan.close()?; // nothing was left behind
    /// # drop((cached, held));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn hand_over(self, by: &HandOver<'_>) -> Result<TransferResult<Self>, Refused<Self>>;

    /// The bytes that trees are charged for the memory of this value. Each allocation counts once, and as a
    /// whole, even if other values share it. (Null masks without nulls are not seen where arrow-rs does
    /// not show them.)
    fn accounted_size(&self) -> usize;

    /// Returns the same values in memory that no tree is charged for. Adopted memory is arrow-rs' own again,
    /// without a copy; memory that came from a tree is copied to the global allocator. The charge of `self`
    /// ends when `self` is dropped.
    fn detach(&self) -> Self;
}

impl<T: Parts> Accounted for T {
    #[track_caller]
    fn adopt(self, allocator: &BufferAllocator) -> Result<Self, Refused<Self>> {
        match adopted(&self, allocator, |bytes, pieces| {
            ForeignRoom::new(allocator, bytes, pieces)
        }) {
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
        match adopted(&self, &allocator, |bytes, pieces| {
            ForeignRoom::out_of(reservation, bytes, pieces)
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
        match self.try_transfer_ownership(target) {
            Ok(moved) => Ok(moved),
            Err(source) => Err(Refused {
                value: self,
                source,
            }),
        }
    }

    #[track_caller]
    fn transfer_ownership(
        &self,
        target: &BufferAllocator,
    ) -> Result<TransferResult<Self>, MemoryError> {
        transferred(self, &Transfer::forced(target), &mut Aside::default())
    }

    #[track_caller]
    fn try_transfer_ownership(&self, target: &BufferAllocator) -> Result<Self, MemoryError> {
        moved(self, target, None, &mut Moves::default())
    }

    #[track_caller]
    fn hand_over(self, by: &HandOver<'_>) -> Result<TransferResult<Self>, Refused<Self>> {
        handed_over(self, by)
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

/// `whole` under `allocator`. `room` charges the bytes of all memory that no ledger is charged for yet, at once.
#[track_caller]
fn adopted<'r, T: Parts>(
    whole: &T,
    allocator: &BufferAllocator,
    room: impl FnOnce(usize, &mut [Piece]) -> Result<ForeignRoom<'r>, AllocError>,
) -> Result<T, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    let missing = regions.find(allocator);
    // Sharing charges nothing. It comes first, so that its failure leaves no charge to be undone.
    regions.share(allocator)?;
    if missing.bytes > 0 {
        let room = room(missing.bytes, regions.pieces());
        let mut room = room.map_err(|error| missing.refused(error))?;
        let mut adopting = regions.adopt(allocator, &mut room)?;
        adopting.share(allocator)?;
        adopting.keep();
    }
    Ok(whole.assemble(regions.rebuild(&parts)))
}

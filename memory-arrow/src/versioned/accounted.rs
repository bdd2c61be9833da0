//! Arrays and batches: adopted, moved, measured and let go as wholes.

use arrow_memory_core::{ALIGNMENT, ArrowBuf, BufferAllocator};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::deps::arrow_array::{ArrayRef, RecordBatch, make_array};
use super::deps::arrow_buffer::{Buffer, MutableBuffer};
use super::deps::arrow_data::ArrayData;
use super::known::{self, Adoption, Known, Region};
use super::parts::{Part, Parts, Whole};
use crate::error::MemoryError;

/// What has buffers of arrow's: a buffer, an array of any type, a batch.
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
/// let moved = array.transfer_to(&query)?;
/// assert_eq!((query.allocated_memory(), root.allocated_memory()), (32, 32));
/// drop((array, slice, moved));
/// assert_eq!(root.allocated_memory(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Accounted: Sized {
    /// Puts all memory of this under `allocator`: what no allocator of its tree is charged for is
    /// charged at its capacity, the rest is shared (as by [`ArrowBuf::retain_in`]).
    ///
    /// The charge lasts as long as the result, its clones and slices do.
    ///
    /// # Errors
    ///
    /// As [`adopt_buffer`](super::adopt_buffer). It is refused as a whole: no limit, peak or other
    /// request sees a part of it.
    fn adopt(&self, allocator: &BufferAllocator) -> Result<Self, MemoryError>;

    /// As [`adopt`](Self::adopt), and what this tree is charged for already is charged to `target`
    /// from now on, if it fits there. `self` stays valid, at the target's expense.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Transfer`] or [`MemoryError::Alloc`] if it does not fit as a whole. Allocations
    /// that had moved by then are moved back; others may have seen them.
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
/// for already is moved there and not charged again.
///
/// Beside arrow-rs' own `Buffer::claim`, which charges by force and sees only a size, this recognises
/// memory and can refuse.
///
/// # Errors
///
/// As [`Accounted::transfer_to`].
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
pub fn claim(buffer: &Buffer, allocator: &BufferAllocator) -> Result<Buffer, MemoryError> {
    buffer.transfer_to(allocator)
}

/// As [`claim`], for a batch, as a whole.
///
/// # Errors
///
/// As [`Accounted::transfer_to`].
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
    fn adopt(&self, allocator: &BufferAllocator) -> Result<Self, MemoryError> {
        let parts = self.parts();
        let mut regions = Regions::of(&parts);
        regions.charge(allocator)?;
        regions.share(allocator)?;
        Ok(self.assemble(regions.rebuild(&parts)))
    }

    fn transfer_to(&self, target: &BufferAllocator) -> Result<Self, MemoryError> {
        let parts = self.parts();
        let mut regions = Regions::of(&parts);
        regions.charge(target)?;
        regions.transfer(target)?;
        Ok(self.assemble(regions.rebuild(&parts)))
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
        for slot in &mut regions.slots {
            let lookup = known::find(slot.region, None);
            slot.ready = lookup.known.map(|known| match lookup.original {
                Some(original) if covers(&original, slot.region) => original,
                _ => copy(known.view.as_slice()),
            });
        }
        self.assemble(regions.rebuild(&parts))
    }
}

/// A copy in arrow-rs' own memory, aligned to 64 bytes as well as `bytes` are: what lies at an offset
/// in them is so, too.
fn copy(bytes: &[u8]) -> Buffer {
    let before = bytes.as_ptr().addr() % ALIGNMENT;
    let mut copied = MutableBuffer::from_len_zeroed(before);
    copied.extend_from_slice(bytes);
    Buffer::from(copied).slice(before)
}

/// Whether slices of `original` can show all of `region`.
fn covers(original: &Buffer, region: Region) -> bool {
    original.data_ptr() == region.start
        && original.ptr_offset() == 0
        && original.len() >= region.seen
}

/// The distinct regions of memory of some arrays.
struct Regions<'a> {
    slots: Vec<Slot<'a>>,
    /// The slots' indices, by address.
    table: HashTable<u32>,
    /// For each buffer that is not empty, in the order of [`Part::visit`], the index of its slot.
    order: Vec<u32>,
    /// Whether any was known before.
    known: bool,
}

struct Slot<'a> {
    region: Region,
    /// One that keeps all of the region, and views as much of it as any that does.
    widest: &'a Buffer,
    /// How many of the buffers are on it.
    uses: u32,
    /// What was found of it.
    found: Found,
    /// The buffer on all of the region that the results are slices of; `None`: the old ones stay.
    ready: Option<Buffer>,
}

enum Found {
    /// No allocator of the tree is charged for it.
    Nothing,
    /// As `Nothing`, and another tree adopted this.
    Elsewhere(Buffer),
    /// To be shared or moved.
    Known(Known),
}

impl<'a> Regions<'a> {
    fn of(parts: &'a [Part<'_>]) -> Self {
        let expected = parts.len() * 2;
        let mut regions = Self {
            slots: Vec::with_capacity(expected),
            table: HashTable::with_capacity(expected),
            order: Vec::with_capacity(expected),
            known: false,
        };
        for part in parts {
            part.visit(&mut |buffer| regions.note(buffer));
        }
        regions
    }

    fn note(&mut self, buffer: &'a Buffer) {
        let Some(region) = Region::of(buffer) else {
            return;
        };
        let slots = &mut self.slots;
        let entry = self.table.entry(
            mix(region.address()),
            |&index| slots[index as usize].region.start == region.start,
            |&index| mix(slots[index as usize].region.address()),
        );
        let index = match entry {
            Entry::Occupied(entry) => {
                let index = *entry.get();
                slots[index as usize].widen(buffer, region);
                index
            }
            Entry::Vacant(place) => {
                let index = slots.len() as u32;
                place.insert(index);
                slots.push(Slot {
                    region,
                    widest: buffer,
                    uses: 1,
                    found: Found::Nothing,
                    ready: None,
                });
                index
            }
        };
        self.order.push(index);
    }

    /// Finds what is known, and charges the rest to `allocator`, as a whole.
    fn charge(&mut self, allocator: &BufferAllocator) -> Result<(), MemoryError> {
        let (mut total, mut viewed) = (0_usize, 0_usize);
        for slot in &mut self.slots {
            let lookup = known::find(slot.region, Some(allocator));
            if let Some(known) = lookup.known {
                slot.found = Found::Known(known);
                self.known = true;
                continue;
            }
            if let Some(original) = lookup.original {
                slot.region = slot.region.on(&original);
                slot.found = Found::Elsewhere(original);
            }
            total = total.saturating_add(slot.region.size);
            viewed = viewed.saturating_add(slot.widest.len());
        }
        if total == 0 {
            return Ok(());
        }
        let room = allocator.room_for_foreign(total);
        let mut room = room.map_err(|error| error.for_buffer(viewed, total))?;
        for slot in &mut self.slots {
            let original = match &slot.found {
                Found::Nothing => slot.widest,
                Found::Elsewhere(original) => original,
                Found::Known(_) => continue,
            };
            match known::adopt(allocator, &mut room, original, slot.region)? {
                Adoption::Made(view) => slot.ready = Some(known::on_adopted(view)),
                Adoption::Found(known) => {
                    slot.found = Found::Known(known);
                    self.known = true;
                }
            }
        }
        Ok(())
    }

    /// Puts all of them on the ledgers of `allocator`.
    fn share(&mut self, allocator: &BufferAllocator) -> Result<(), MemoryError> {
        if !self.known {
            return Ok(());
        }
        for slot in &mut self.slots {
            if let Some(mut known) = slot.take_known() {
                if !known.view.belongs_to(allocator) {
                    known.view = known.view.retain_in(allocator)?;
                }
                slot.ready = Some(known.into_buffer());
            }
        }
        Ok(())
    }

    /// As `share`, with their charges, or not at all.
    fn transfer(&mut self, target: &BufferAllocator) -> Result<(), MemoryError> {
        let mut moved: Vec<(ArrowBuf, BufferAllocator)> = Vec::new();
        for slot in &mut self.slots {
            let Some(mut known) = slot.take_known() else {
                continue;
            };
            // Of the ledgers in this tree, the one that owns: its charge is what moves.
            let owner = known::find(slot.region, None).known;
            if let Some(owner) = owner
                && owner.view.shares_root(target)
                && owner.view.allocation_id() == known.view.allocation_id()
            {
                known.view = owner.view;
            }
            if known.view.belongs_to(target) {
                slot.ready = Some(known.into_buffer());
                continue;
            }
            let owns = known.view.accounted_size() > 0;
            match known.view.try_transfer_ownership(target) {
                Ok(view) => {
                    if owns {
                        moved.push((view.clone(), known.view.allocator()));
                    }
                    known.view = view;
                    slot.ready = Some(known.into_buffer());
                }
                Err(error) => {
                    for (view, from) in moved {
                        // By force: it was there before. A closed allocator does not take it back.
                        if let Err(error) = view.transfer_ownership(&from) {
                            tracing::warn!(%error, "a transfer could not be undone");
                        }
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// The arrays on the slots' buffers.
    fn rebuild(self, parts: &[Part<'_>]) -> Vec<Whole> {
        let Self {
            mut slots, order, ..
        } = self;
        let mut order = order.into_iter();
        let mut next = |buffer: &Buffer| {
            if buffer.is_empty() {
                return Buffer::default();
            }
            // `visit` went the same way, so there is one for each.
            let slot = order.next().and_then(|index| slots.get_mut(index as usize));
            let Some(slot) = slot else {
                return buffer.clone();
            };
            slot.uses -= 1;
            // The last, on all of it, takes it: no need to count up and down.
            if slot.uses == 0
                && let Some(whole) = slot.ready.take_if(|whole| whole.len() == buffer.len())
            {
                return whole;
            }
            match &slot.ready {
                Some(whole) => whole.slice_with_length(buffer.ptr_offset(), buffer.len()),
                None => buffer.clone(),
            }
        };
        parts.iter().map(|part| part.replace(&mut next)).collect()
    }
}

impl<'a> Slot<'a> {
    /// Notes another buffer on it.
    fn widen(&mut self, buffer: &'a Buffer, region: Region) {
        self.uses += 1;
        let known = &mut self.region;
        // Usually the same memory. Producers may also hand out parts of one piece that start
        // together: then the one that keeps more of it keeps the other's too.
        if (region.size, region.seen) > (known.size, known.seen) {
            self.widest = buffer;
        }
        known.size = known.size.max(region.size);
        known.seen = known.seen.max(region.seen);
    }

    fn take_known(&mut self) -> Option<Known> {
        match std::mem::replace(&mut self.found, Found::Nothing) {
            Found::Known(known) => Some(known),
            Found::Nothing | Found::Elsewhere(_) => None,
        }
    }
}

fn mix(address: usize) -> u64 {
    let spread = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread ^ (spread >> 32)
}

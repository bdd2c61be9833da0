//! The memory under some arrays, as distinct regions, each of which is found, charged and replaced once.

use std::ptr::NonNull;

use arrow_memory_core::__private::heap::{Labels, Piece};
use arrow_memory_core::__private::{ForeignRoom, heap};
use arrow_memory_core::{ALIGNMENT, AllocError, ArrowBuf, BufferAllocator};

use super::deps::arrow_buffer::{Buffer, MutableBuffer};
use super::known::{self, Adoption, Known};
use super::parts::{Part, Whole};
use super::region::Region;
use crate::error::MemoryError;
use crate::shares::{Shares, mix};

/// The distinct regions of memory of some arrays.
pub(super) struct Regions<'a> {
    pub(super) slots: Vec<Slot<'a>>,
    /// The slots' indices by the hashes of their addresses, or [`VACANT`]. An index stands at its hash or, if that
    /// place is taken, at the next free one behind it. The number of places is a power of two, and no more than
    /// half of them are taken.
    places: Vec<u32>,
    /// For each buffer that is not empty, in the order of [`Part::visit`], the index of its slot.
    order: Vec<u32>,
    /// Whether one of them is known and is to be shared.
    known: bool,
    /// Whether the arrays have memory that is no region: that of empty slices, which are not on it any more when the arrays
    /// are made anew.
    pub(super) hides: bool,
    /// The regions that are to be adopted and that the program's heap pays for.
    pieces: Vec<Piece>,
}

pub(super) struct Slot<'a> {
    pub(super) region: Region,
    /// The buffer that keeps the largest part of the memory, and among several of those the one that views the
    /// largest part.
    pub(super) widest: &'a Buffer,
    /// The number of buffers on it that were not replaced yet.
    pub(super) uses: u32,
    /// The number of buffers that the value has on it, and its parts, if each of the value's is shown once.
    pub(super) owned: u32,
    /// The index of its piece, or [`VACANT`].
    piece: u32,
    pub(super) state: State,
}

/// What is known of a region. Only a region that is adopted or ready gets new buffers.
pub(super) enum State {
    /// No allocator of the tree is charged for it.
    Nothing,
    /// No allocator of the tree is charged for it, but another tree has adopted this buffer.
    Elsewhere(Buffer),
    /// An allocator of the tree is charged for it, so it is to be shared or moved.
    Known(Known),
    /// It was adopted, and this is the adoption's view of it. The new buffer is made from the view when the arrays
    /// are rebuilt, so that until then the adoption can be undone.
    Adopted(ArrowBuf),
    /// The new buffer on all of it, which the results are slices of.
    Ready(Buffer),
    /// It is left alone: the results are on it as the sources are.
    Left,
}

/// The content of a place that has no index.
const VACANT: u32 = u32::MAX;

/// The regions that a tree is not charged for yet, added up.
#[derive(Default)]
pub(super) struct Missing {
    /// The sum of their sizes in bytes, which is to be charged.
    pub(super) bytes: usize,
    /// How many bytes of them the buffers show.
    viewed: usize,
}

impl Missing {
    /// Rewrites a refusal to charge for them, so that it gives the sizes of the caller's buffers.
    #[cold]
    pub(super) fn refused(&self, error: AllocError) -> AllocError {
        error.for_buffer(self.viewed, self.bytes)
    }
}

impl<'a> Regions<'a> {
    pub(super) fn of(parts: &'a [Part<'_>]) -> Self {
        let expected = parts.len() * 2;
        let mut regions = Self {
            slots: Vec::with_capacity(expected),
            places: vec![VACANT; (expected * 2).next_power_of_two()],
            order: Vec::with_capacity(expected),
            known: false,
            hides: false,
            pieces: Vec::new(),
        };
        for part in parts {
            let owned = if part.is_clone() { 2 } else { 1 };
            part.visit(&mut |buffer| regions.note(buffer, owned));
        }
        regions
    }

    /// Notes a buffer of a part. The value and the part have `owned` buffers like it.
    fn note(&mut self, buffer: &'a Buffer, owned: u32) {
        let Some(region) = Region::of(buffer) else {
            self.hides |= buffer.capacity() > 0;
            return;
        };
        if self.slots.len() * 2 >= self.places.len() {
            self.spread();
        }
        let place = self.place_of(&region);
        let index = self.places[place];
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.widen(buffer, region);
            slot.owned += owned;
            self.order.push(index);
            return;
        }
        let index = self.slots.len() as u32;
        self.places[place] = index;
        self.order.push(index);
        self.slots.push(Slot {
            region,
            widest: buffer,
            uses: 1,
            owned,
            piece: VACANT,
            state: State::Nothing,
        });
    }

    /// The place of the index of the slot at this region's address, or the vacant one where it belongs.
    #[inline]
    fn place_of(&self, region: &Region) -> usize {
        let mask = self.places.len() - 1;
        let mut place = mix(region.address()) as usize & mask;
        while let Some(slot) = self.slots.get(self.places[place] as usize) {
            if slot.region.start == region.start {
                break;
            }
            place = (place + 1) & mask;
        }
        place
    }

    /// Doubles the number of places.
    #[cold]
    fn spread(&mut self) {
        self.places = vec![VACANT; self.places.len() * 2];
        for index in 0..self.slots.len() {
            let place = self.place_of(&self.slots[index].region);
            self.places[place] = index as u32;
        }
    }

    /// Leaves the regions alone that start where `except` returns `true`.
    pub(super) fn leave(&mut self, except: &dyn Fn(NonNull<u8>) -> bool) {
        for slot in &mut self.slots {
            if except(slot.region.start) {
                slot.state = State::Left;
            }
        }
    }

    /// Puts new buffers on the regions that the receiver shares already.
    pub(super) fn find_shared(&mut self, shares: &Shares, to: &BufferAllocator) {
        if !shares.count_value() {
            return;
        }
        for slot in &mut self.slots {
            let Region { size, seen, .. } = slot.region;
            if !matches!(slot.state, State::Left)
                && let Some((view, adopted)) = shares.find(slot.region.address(), (seen, size), to)
            {
                slot.state = State::Ready(Known::of(view, adopted).into_buffer());
            }
        }
    }

    /// Finds the regions that the tree of `allocator` is charged for already, and adds up the others.
    #[track_caller]
    pub(super) fn find(&mut self, allocator: &BufferAllocator) -> Missing {
        let mut missing = Missing::default();
        let labels = heap::labels();
        for slot in &mut self.slots {
            if matches!(slot.state, State::Left | State::Ready(_)) {
                continue;
            }
            let lookup = known::find(slot.region, Some(allocator));
            if let Some(known) = lookup.known {
                slot.state = State::Known(known);
                self.known = true;
                continue;
            }
            if let Some(original) = lookup.original {
                slot.region = slot.region.on(&original);
                slot.state = State::Elsewhere(original);
            }
            if let Some(labels) = labels {
                slot.find_piece(labels, &mut self.pieces);
            }
            missing.bytes = missing.bytes.saturating_add(slot.region.size);
            missing.viewed = missing.viewed.saturating_add(slot.widest.len());
        }
        missing
    }

    /// The parts of blocks of the program's heap that are to be adopted.
    pub(super) fn pieces(&mut self) -> &mut [Piece] {
        &mut self.pieces
    }

    /// Adopts the regions that were not found, for `allocator` and out of `room`, which was created with the pieces. A
    /// region that another thread
    /// adopted meanwhile becomes known, and remains to be shared or moved.
    #[track_caller]
    pub(super) fn adopt<'s, 'r>(
        &'s mut self,
        allocator: &BufferAllocator,
        room: &'s mut ForeignRoom<'r>,
    ) -> Result<Adopting<'s, 'a, 'r>, MemoryError> {
        let mut adopting = Adopting {
            regions: self,
            room,
        };
        adopting.adopt(allocator)?;
        Ok(adopting)
    }

    /// Shares the known regions with `allocator`.
    #[track_caller]
    pub(super) fn share(&mut self, allocator: &BufferAllocator) -> Result<(), MemoryError> {
        if !std::mem::take(&mut self.known) {
            return Ok(());
        }
        for slot in &mut self.slots {
            if let Some(mut known) = slot.take_known() {
                if !known.view.belongs_to(allocator) {
                    known.view = known.view.retain_in(allocator)?;
                }
                slot.state = State::Ready(known.into_buffer());
            }
        }
        Ok(())
    }

    /// Replaces the regions that trees are charged for by memory that no tree is charged for.
    pub(super) fn detach(&mut self) {
        for slot in &mut self.slots {
            let lookup = known::find(slot.region, None);
            let Some(known) = lookup.known else {
                continue;
            };
            slot.state = State::Ready(match lookup.original {
                Some(original) if covers(&original, slot.region) => original,
                _ => copy(&known.view[..slot.region.seen]),
            });
        }
    }

    /// Makes the arrays anew, on the slots' buffers.
    pub(super) fn rebuild(self, parts: &[Part<'_>]) -> Vec<Whole> {
        let Self {
            mut slots, order, ..
        } = self;
        let mut order = order.into_iter();
        let mut next = |buffer: &Buffer| {
            if buffer.is_empty() {
                return Buffer::default();
            }
            // `Part::visit` and `Part::replace` are the same traversal, so there is one for each.
            let slot = order.next().and_then(|index| slots.get_mut(index as usize));
            let Some(slot) = slot else {
                return buffer.clone();
            };
            debug_assert_eq!(
                slot.region.start,
                buffer.data_ptr(),
                "another order of buffers"
            );
            slot.replacement(buffer)
        };
        parts.iter().map(|part| part.replace(&mut next)).collect()
    }
}

impl<'a> Slot<'a> {
    /// Notes another buffer on it.
    fn widen(&mut self, buffer: &'a Buffer, region: Region) {
        self.uses += 1;
        let known = &mut self.region;
        // Usually both buffers keep the same memory. A producer may also hand out parts of one piece that
        // start at the same address; then the larger part keeps the smaller one.
        if (region.size, region.seen) > (known.size, known.seen) {
            self.widest = buffer;
        }
        known.size = known.size.max(region.size);
        known.seen = known.seen.max(region.seen);
    }

    /// Adds the region to the pieces if the program's heap pays for it.
    #[cold]
    fn find_piece(&mut self, labels: &dyn Labels, pieces: &mut Vec<Piece>) {
        if let Some(piece) = self.region.piece(labels) {
            self.piece = pieces.len() as u32;
            pieces.push(piece);
        }
    }

    /// The known memory, of which nothing is known any more afterwards. Any other state stays.
    pub(super) fn take_known(&mut self) -> Option<Known> {
        match std::mem::replace(&mut self.state, State::Nothing) {
            State::Known(known) => Some(known),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The new buffer for `buffer`, which is on this region.
    #[inline]
    fn replacement(&mut self, buffer: &Buffer) -> Buffer {
        let whole = match std::mem::replace(&mut self.state, State::Nothing) {
            State::Adopted(view) => known::on_adopted(view),
            State::Ready(whole) => whole,
            _ => return buffer.clone(),
        };
        self.uses -= 1;
        // The last buffer on the region takes the new one itself: a clone would cost a count up and down.
        if self.uses == 0 && whole.len() == buffer.len() {
            return whole;
        }
        let part = whole.slice_with_length(buffer.ptr_offset(), buffer.len());
        self.state = State::Ready(whole);
        part
    }
}

/// An adoption of all regions that were not found, as a whole.
///
/// Unless it is kept, each piece that was adopted is taken back, and its bytes are the room's again. So a room
/// that was lent by a reservation returns them there when an error or a panic of a listener ends the adoption
/// in its middle.
#[must_use = "dropping it undoes the adoption"]
pub(super) struct Adopting<'s, 'a, 'r> {
    regions: &'s mut Regions<'a>,
    room: &'s mut ForeignRoom<'r>,
}

impl Adopting<'_, '_, '_> {
    #[track_caller]
    fn adopt(&mut self, allocator: &BufferAllocator) -> Result<(), MemoryError> {
        for slot in &mut self.regions.slots {
            let original = match &slot.state {
                State::Nothing => slot.widest,
                State::Elsewhere(original) => original,
                State::Known(_) | State::Adopted(_) | State::Ready(_) | State::Left => continue,
            };
            let piece = self.regions.pieces.get_mut(slot.piece as usize);
            match known::adopt(allocator, self.room, original, slot.region, piece)? {
                Adoption::Made(view) => slot.state = State::Adopted(view),
                Adoption::Found(known) => {
                    slot.state = State::Known(known);
                    self.regions.known = true;
                }
            }
        }
        Ok(())
    }

    /// Shares the regions that another thread adopted meanwhile with `allocator`.
    #[track_caller]
    pub(super) fn share(&mut self, allocator: &BufferAllocator) -> Result<(), MemoryError> {
        self.regions.share(allocator)
    }

    /// Keeps the adopted regions charged.
    pub(super) fn keep(self) {
        // Only `drop` undoes the adoption. Apart from that there is nothing to drop: the fields are references.
        std::mem::forget(self);
    }
}

impl Drop for Adopting<'_, '_, '_> {
    fn drop(&mut self) {
        for slot in &mut self.regions.slots {
            match std::mem::replace(&mut slot.state, State::Nothing) {
                State::Adopted(view) => {
                    self.room.take_back(view);
                }
                other => {
                    if let Some(piece) = self.regions.pieces.get_mut(slot.piece as usize) {
                        known::return_piece(self.room, piece, slot.widest);
                    }
                    slot.state = other;
                }
            }
        }
    }
}

/// A copy in arrow-rs' own memory, at the same distance from a multiple of 64 as `bytes`. So a value at any
/// offset in the copy is aligned like the value at that offset in `bytes`.
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

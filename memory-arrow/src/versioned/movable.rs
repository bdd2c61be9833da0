//! Values whose memory is all charged to the giver of a hand-over, and which nobody else has: their charges move in
//! place, at once.

use arrow_memory_core::__private::may_move_in_place;
use arrow_memory_core::{BufferAllocator, WeakForeign};

use super::deps::arrow_buffer::Buffer;
use super::parts::Part;
use super::regions::{Regions, State};
use super::transfer::Transfer;

/// Allocations that can probably move in place.
#[derive(Default)]
pub(super) struct Movable {
    pub(super) allocations: Vec<WeakForeign>,
    /// A new buffer on each. A value that is rebuilt on these may leave some out, such as a null mask without nulls.
    _buffers: Vec<Buffer>,
}

impl Regions<'_> {
    /// Puts new buffers on the known regions, which stay charged as they are, if it is likely that all of them can move
    /// in place once the value that `parts` are of is dropped. If not, the result is empty, and nothing has changed.
    pub(super) fn stay_for_now(&mut self, parts: &[Part<'_>], transfer: &Transfer<'_>) -> Movable {
        let suits =
            |part: &Part<'_>| part.is_whole() && part.owners().is_none_or(|owners| owners == 1);
        let from = transfer
            .from
            .filter(|_| !self.hides && parts.iter().all(suits));
        let allocations = from.and_then(|from| self.all_movable(from, transfer.target));
        let Some(allocations) = allocations else {
            return Movable::default();
        };
        let mut buffers = Vec::with_capacity(allocations.len());
        for slot in &mut self.slots {
            if let Some(known) = slot.take_known() {
                let buffer = known.into_buffer();
                buffers.push(buffer.clone());
                slot.state = State::Ready(buffer);
            }
        }
        Movable {
            allocations,
            _buffers: buffers,
        }
    }

    /// The allocations that are not left alone, if nobody but the value has a buffer on any of them, and all are charged to
    /// `from`.
    fn all_movable(
        &self,
        from: &BufferAllocator,
        target: &BufferAllocator,
    ) -> Option<Vec<WeakForeign>> {
        let mut allocations = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            match &slot.state {
                State::Left => {}
                // If it was not adopted, the new buffer needs an entry, by which other threads find it. If something else
                // of the memory is known, the value's buffer may be of that, and end another charge when it is dropped.
                // The registry has a buffer of its own on what was adopted, and none on what the value has, which came
                // of that.
                State::Known(known)
                    if known.adopted
                        && known.by_one_allocation
                        && slot.widest.strong_count() == slot.owned as usize
                        && may_move_in_place(&known.view, from, target) =>
                {
                    allocations.push(known.view.downgrade()?);
                }
                _ => return None,
            }
        }
        Some(allocations)
    }
}

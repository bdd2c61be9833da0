//! Adopted memory on which the giver of a hand-over may still have buffers.

use arrow_memory_core::BufferAllocator;

use super::deps::arrow_buffer::Buffer;
use super::known;
use super::parts::Part;
use super::region::Region;
use super::regions::{Regions, State};
use crate::kept::{Entry, Original};

/// Adopted memory that seemed to have buffers beside those of the value that was handed over.
pub(super) struct Shared {
    region: Region,
    /// A buffer like that which was adopted.
    original: Buffer,
}

/// How many buffers there are on adopted memory that nobody else has: one of the registry, and that of a `Shared`.
const OURS: usize = 2;

impl Shared {
    /// Returns the entry by which the giver goes on to be charged, if it still has a buffer.
    pub(super) fn entry(self, giver: &BufferAllocator) -> Option<Entry> {
        // The usual case. With more trees there are more buffers of ours.
        if self.original.strong_count() <= OURS {
            return None;
        }
        let Self { region, original } = self;
        drop(original);
        let adopted = known::find(region, Some(giver)).known?.view;
        let original = Original {
            start: region.address(),
            id: adopted.downgrade()?.id(),
            is_let_go: known::is_let_go,
        };
        if original.is_let_go() {
            return None;
        }
        Entry::new(&adopted, giver, original)
    }
}

impl Regions<'_> {
    /// Adds the regions that were adopted, and that have other buffers than those of `parts`, as far as can be told
    /// while the parts exist: some that have none are added, too.
    pub(super) fn note_shared(&self, parts: &[Part<'_>], shared: &mut Vec<Shared>) {
        // The owner of a part's array may have another owner, whose buffers are not counted by themselves.
        let owned = |part: &Part<'_>| part.owners() == Some(1);
        let arrays_are_shared = !parts.iter().all(owned);
        for slot in &self.slots {
            // One of the registry, and those of the parts.
            let known = slot.uses as usize + 1;
            let adopted = matches!(slot.state, State::Adopted(_));
            if adopted && (arrays_are_shared || slot.widest.strong_count() != known) {
                shared.push(Shared {
                    region: slot.region,
                    original: slot.widest.clone(),
                });
            }
        }
    }
}

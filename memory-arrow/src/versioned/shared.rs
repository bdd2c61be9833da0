//! Adopted memory on which the giver of a hand-over may still have buffers.

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::known;
use super::parts::Part;
use super::regions::{Regions, State};
use crate::kept::{Entry, Original};

/// Adopted memory that seemed to have buffers beside those of the value that was handed over.
pub(super) struct Shared {
    /// The adoption's view.
    adopted: ArrowBuf,
    original: Original,
}

impl Shared {
    /// Returns the entry by which the giver goes on to be charged, if it still has a buffer.
    pub(super) fn entry(self, giver: &BufferAllocator) -> Option<Entry> {
        if self.original.is_let_go() {
            return None;
        }
        Entry::new(&self.adopted, giver, self.original)
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
            let State::Adopted(view) = &slot.state else {
                continue;
            };
            // One of the registry, and those of the parts.
            let known = slot.uses as usize + 1;
            if !arrays_are_shared && slot.widest.strong_count() == known {
                continue;
            }
            if let Some(weak) = view.downgrade() {
                shared.push(Shared {
                    adopted: view.clone(),
                    original: Original {
                        start: slot.region.address(),
                        id: weak.id(),
                        is_let_go: known::is_let_go,
                    },
                });
            }
        }
    }
}

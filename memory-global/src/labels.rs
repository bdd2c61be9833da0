//! The labels of blocks, for crates that adopt memory: they find who pays for a block, and move its bytes.

use std::ptr::NonNull;

use crate::shadow;
use arrow_memory_core::__private::heap::{self, Label, Labels};

/// The labels that [`Attributed`](crate::Attributed) gives.
struct OfBlocks;

impl Labels for OfBlocks {
    fn find(&self, part: NonNull<u8>, size: usize) -> Option<Label> {
        let found = shadow::find(part.as_ptr(), size)?;
        Some(Label {
            id: found.label,
            start: found.start,
            size: found.size,
        })
    }

    fn id(&self, start: usize) -> u32 {
        shadow::get_acquire(start)
    }

    fn relabel(&self, start: usize, from: u32, to: u32) -> bool {
        shadow::relabel(start, from, to)
    }
}

/// Makes the labels known to the other crates.
pub(crate) fn publish() {
    static LABELS: &dyn Labels = &OfBlocks;
    if shadow::SUPPORTED && heap::labels().is_none() {
        heap::set_labels(&LABELS);
    }
}

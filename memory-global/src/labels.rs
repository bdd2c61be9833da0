//! The labels of blocks, for crates that adopt memory: they find who pays for a block, and move its bytes.

use std::ptr::{self, NonNull};

use crate::shadow;
use arrow_memory_core::__private::heap::{self, Label, Labels};

/// The labels that [`Attributed`](crate::Attributed) gives.
struct OfBlocks;

impl Labels for OfBlocks {
    fn find(&self, at: NonNull<u8>) -> Option<Label> {
        let found = shadow::find(at.as_ptr())?;
        Some(Label {
            id: found.label,
            start: NonNull::new(ptr::with_exposed_provenance_mut(found.start))?,
            size: found.size,
        })
    }

    fn relabel(&self, start: NonNull<u8>, from: u32, to: u32) -> bool {
        shadow::relabel(start.as_ptr(), from, to)
    }
}

/// Makes the labels known to the other crates. If two threads come first, both do, and one of them leaks a pointer.
pub(crate) fn publish() {
    if shadow::SUPPORTED && heap::labels().is_none() {
        heap::set_labels(&OfBlocks);
    }
}

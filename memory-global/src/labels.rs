//! The labels of blocks, for crates that adopt memory: they find who pays for a block, and move its bytes.

use std::ptr::{self, NonNull};
use std::sync::Once;

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

/// Makes the labels known to the other crates.
pub(crate) fn publish() {
    static PUBLISHED: Once = Once::new();
    if shadow::SUPPORTED {
        PUBLISHED.call_once(|| heap::set_labels(&OfBlocks));
    }
}

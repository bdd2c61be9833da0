//! Whether anybody still has a buffer on memory that was adopted.

use std::ops::ControlFlow;

use arrow_memory_core::ForeignId;

use super::entry::{REGISTRY, Target};

/// Whether nobody has a buffer on the memory of that adoption, which starts at that address, but the registry.
///
/// The registry has one buffer of it for each tree that has adopted it. A thread that looks it up has one for a moment.
pub(in super::super) fn is_let_go(start: usize, id: ForeignId) -> bool {
    let mut ours = None;
    owners(start, |other, count| {
        if other == id {
            ours = Some(count);
        }
    });
    let Some(ours) = ours else { return true };
    // arrow-rs does not tell which buffers have the same owner. Those that do have the same count.
    let mut entries = 0;
    owners(start, |_, count| entries += usize::from(count == ours));
    ours <= entries
}

/// Calls `f` with each adoption at that address, and the number of buffers on what was adopted.
fn owners(start: usize, mut f: impl FnMut(ForeignId, usize)) {
    REGISTRY.visit(start, |target| {
        // Wrappers come after all adoptions.
        let Target::Adopted { weak, original, .. } = target else {
            return ControlFlow::Break(());
        };
        f(weak.id(), original.strong_count());
        ControlFlow::Continue(())
    });
}

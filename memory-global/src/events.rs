//! Every `tracing` event of this crate; `docs/events.md` lists them. None is emitted by the global allocator.

use arrow_memory_core::__private::events::once;

use crate::Overdraft;

pub(crate) fn over_limit(overdraft: &Overdraft) {
    once(|| {
        let Overdraft {
            allocator, scope, ..
        } = overdraft;
        let (limit, used) = (overdraft.limit, overdraft.used);
        tracing::warn!(%allocator, id = allocator.id.as_u64(), %scope, limit, used, "over limit by the heap of a scope");
    });
}

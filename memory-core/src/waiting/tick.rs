//! What happens at waiters by the passing of time.

use std::time::Instant;

use crate::accounting::{Handle, Shortage, tend};
use crate::reclaim::{make_room, may_ask};

/// Ends waits at their deadlines, asks others again where a level is stuck, and has waiters give way. Returns when to
/// call it again.
pub(super) fn tick(handle: &Handle, now: Instant) -> Option<Instant> {
    tend();
    let (next, asks) = handle.tick(now);
    if let Some((waits, bytes, age)) = asks.filter(|_| may_ask(handle)) {
        let shortage = Shortage::new(waits.info.clone(), false);
        // The request is in the queue: what is released is charged for it. It is not over when this returns.
        make_room(&waits, bytes, &shortage, true, true, || {
            !waits.waits_still(age)
        });
    }
    next
}

//! Which reclaimers are asked for a request that was refused, and until when.

use std::sync::Arc;

use crate::accounting::{Candidate, Handle, Refusal, Shortage, Turn, is_in_callback};

/// Charges `bytes` (at least 1) to the handle's node. After a refusal for a limit, those are asked who could make
/// room, and then it is charged once more.
#[inline]
pub(crate) fn charge(handle: &Handle, bytes: usize) -> Result<(), Box<Refusal>> {
    match handle.charge(bytes) {
        Ok(()) => Ok(()),
        Err(refusal) => charge_after_asking(handle, bytes, refusal),
    }
}

/// Does what `charge` does after the first refusal.
#[cold]
pub(crate) fn charge_after_asking(
    handle: &Handle,
    bytes: usize,
    refusal: Box<Refusal>,
) -> Result<(), Box<Refusal>> {
    retry_after_asking(handle, bytes, refusal, || handle.charge(bytes))
}

/// Asks those who could make room after a refusal for a limit, and has `attempt` try again after each.
#[cold]
pub(crate) fn retry_after_asking<T>(
    handle: &Handle,
    bytes: usize,
    refusal: Box<Refusal>,
    attempt: impl Fn() -> Result<T, Box<Refusal>>,
) -> Result<T, Box<Refusal>> {
    if !matches!(*refusal, Refusal::Limit(_)) || !may_ask(handle) {
        return Err(refusal);
    }
    /// Ends the shortage, also if an attempt unwinds.
    struct Ends(Arc<Shortage>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    let shortage = Ends(Shortage::new(handle.info.clone(), false));
    let mut result = Err(refusal);
    make_room(handle, bytes, Turn::TRY, &shortage.0, false, || {
        result = attempt();
        result.is_ok()
    });
    result
}

/// Whether a request of this node may ask others: not in a callback, which may be that of one who is asked, nor
/// for what spilling itself needs.
pub(crate) fn may_ask(handle: &Handle) -> bool {
    handle.has_reclaimers() && !handle.is_in_reserve() && may_call_others()
}

/// Whether this thread may call code of others, or wait: not in a callback, nor in a `Drop` while it unwinds.
pub(crate) fn may_call_others() -> bool {
    !is_in_callback() && !std::thread::panicking()
}

/// Asks those that could make room for a request of the handle's node, one after another. After each, `granted`
/// says whether it is enough. A request that waits does not ask more of them than seem to be needed: some answer
/// later. One that has waited for long insists: it asks those that are to be left alone, too, and relies on no answer
/// that may come later.
pub(crate) fn make_room(
    handle: &Handle,
    bytes: usize,
    turn: Turn,
    shortage: &Arc<Shortage>,
    insist: bool,
    mut granted: impl FnMut() -> bool,
) {
    let waits = turn != Turn::TRY;
    let (missing, candidates) = handle.who_could_help(bytes, turn);
    if missing == 0 {
        granted();
        return;
    }
    // A quarter more than is missing, since estimates are that.
    let wanted = missing.saturating_add(missing / 4);
    let mut expected = 0_usize;
    for Candidate {
        reclaimer,
        freeable,
        ..
    } in candidates
    {
        if waits && !insist && expected >= wanted {
            return;
        }
        let estimate = if waits { reclaimer.estimate() } else { 0 };
        let answer = reclaimer.ask(shortage, missing, insist);
        if granted() {
            return;
        }
        // What was answered is in the numbers, and what was not asked is not expected.
        if answer.out {
            expected = expected.saturating_add(estimate.min(freeable));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{Cost, RootAllocator};

    /// Requests do not panic by themselves, but users' code may run in the sections that they take.
    #[test]
    fn an_ask_is_over_once_its_request_has_unwound() {
        let manager = Arc::new(TrackingManager::new());
        let builder = RootAllocator::builder().allocation_manager(manager);
        let root = builder.limit(64).build().unwrap();
        let sort = root.child("sort").build().unwrap();
        let held = sort.buffer(64).unwrap();
        let inbox = sort.reclaim_inbox(Cost::Drop);
        let query = root.child("query").build().unwrap();
        let refusal = query.handle.charge(64).unwrap_err();

        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let attempt = || -> Result<(), Box<Refusal>> { panic!("as wished") };
            retry_after_asking(&query.handle, 64, refusal, attempt)
        }));

        assert!(unwound.is_err());
        assert!(inbox.try_ask().unwrap().is_over());
        drop(held);
    }
}

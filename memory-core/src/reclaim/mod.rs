//! Asking others for memory: [`Reclaim`], [`ReclaimInbox`] and [`Ask`].

mod arbitrate;
mod ask;
mod guard;
mod inbox;

use std::sync::Arc;

pub(crate) use self::arbitrate::{
    charge, charge_after_asking, make_room, may_ask, may_call_others, retry_after_asking,
};
pub use self::ask::{Ask, Cost, Reclaim};
pub use self::guard::ReclaimGuard;
pub use self::inbox::ReclaimInbox;
use crate::accounting::{Candidate, Shortage};
use crate::allocator::BufferAllocator;

impl BufferAllocator {
    /// Has `reclaim` asked when memory is short here or above, until the guard is dropped.
    ///
    /// The guard keeps this allocator. The docs of [`Reclaim`] have the rules and an example. Nothing is slower
    /// for it, except for requests that are refused.
    pub fn on_shortage(&self, cost: Cost, reclaim: impl Reclaim + 'static) -> ReclaimGuard {
        ReclaimGuard::new(self, cost, Arc::new(reclaim), false)
    }

    /// Returns an inbox for asks, for code that gives memory back on its own thread or task.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use arrow_memory_core::Cost;
    ///
    /// let sort = root.child("sort").build()?;
    /// let mut held = Some(sort.buffer(1 << 20)?);
    /// let inbox = sort.reclaim_inbox(Cost::Drop);
    /// inbox.set_reclaimable(1 << 20);
    /// assert!(root.buffer(4096).is_err()); // nobody waited for the sort
    /// if let Some(ask) = inbox.try_ask() {
    ///     held = None; // at its next batch
    ///     drop(ask);
    /// }
    /// assert!(root.buffer(4096).is_ok());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn reclaim_inbox(&self, cost: Cost) -> ReclaimInbox {
        ReclaimInbox::new(self, cost)
    }

    /// Asks all that are registered here and below for `bytes`, although nobody needs them now. Returns how many
    /// came back before this returned, as far as the numbers show: others may allocate and release meanwhile.
    ///
    /// For governors, before a sleep, and in tests. In a callback of this crate it does nothing.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// assert_eq!(root.reclaim(1 << 20), 0); // nobody is registered
    /// ```
    pub fn reclaim(&self, bytes: usize) -> usize {
        if !may_ask(&self.handle) {
            return 0;
        }
        let shortage = Shortage::new(self.info().clone(), false);
        let mut freed = 0;
        for Candidate { reclaimer, .. } in self.handle.reclaimers_below() {
            if freed >= bytes {
                shortage.end();
                break;
            }
            freed += reclaimer.ask(&shortage, bytes - freed, false).freed;
        }
        freed
    }
}

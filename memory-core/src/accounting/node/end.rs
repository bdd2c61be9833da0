//! The end of a section under the tree's mutex: waiters are served, the mutex is released, nodes that have left
//! are freed, and then waiters are woken.
#![expect(unsafe_code, reason = "frees nodes that the section has buried")]

use super::locked::Locked;
use super::wake;

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.queue().has_work() {
            // Here, so that no section can leave it out. Nothing panics while the mutex is held.
            self.serve();
        }
        let Some(mut shared) = self.shared.take() else {
            return;
        };
        let mut grave = shared.graveyard.take();
        let wakes = shared
            .queue
            .has_wakes()
            .then(|| self.tree().mutex.by_itself());
        drop(shared);
        // Nodes with their names and listeners are freed with no lock held, and the tree with the last
        // of them.
        while let Some(node) = grave {
            // SAFETY: a buried node is alive until it is retired below.
            let state = unsafe { node.node() }.state.get();
            // SAFETY: by `may_free` nobody else leads to this node but records, which do not touch
            // its state; the graveyard was ours under the mutex.
            grave = unsafe { (*state).next_dead };
            // SAFETY: it comes from the graveyard.
            unsafe { node.retire() };
        }
        if let Some(mutex) = wakes {
            wake::run(mutex);
        }
    }
}

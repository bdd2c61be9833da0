//! The end of a section under the tree's mutex: waiters are served, the mutex is released, nodes that have left
//! are freed, and then waiters are woken.
#![expect(unsafe_code, reason = "frees nodes that the section has buried")]

use std::mem::ManuallyDrop;

use super::NodePtr;
use super::locked::Locked;
use super::wake;

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.waits {
            return self.end_with_waiters();
        }
        self.finish();
    }
}

impl Locked<'_> {
    /// Serves those that wait; here, so that no section can leave it out. Nothing panics while the mutex is held.
    #[cold]
    #[inline(never)]
    fn end_with_waiters(&mut self) {
        /// Releases the mutex even if serving panics, which it does not.
        struct Finish<'a, 't>(&'a mut Locked<'t>);
        impl Drop for Finish<'_, '_> {
            fn drop(&mut self) {
                self.0.finish();
            }
        }
        let section = Finish(self);
        section.0.serve();
        let wakes = section.0.queue().has_wakes();
        let mutex = wakes.then(|| section.0.tree().mutex.by_itself());
        drop(section);
        if let Some(mutex) = mutex {
            wake::run(mutex);
        }
    }

    /// Releases the mutex, and frees what was buried under it. Called once, by `drop`.
    #[inline(always)] // Most sections end here.
    fn finish(&mut self) {
        // SAFETY: it is taken here only, and this is called once, by `drop`; nothing is done with it afterwards.
        let mut shared = unsafe { ManuallyDrop::take(&mut self.shared) };
        let grave = shared.graveyard.take();
        drop(shared);
        if grave.is_some() {
            free_all(grave);
        }
    }
}

/// Frees buried nodes, with their names and listeners, with no lock held; and the tree with the last of them.
fn free_all(mut grave: Option<NodePtr>) {
    while let Some(node) = grave {
        // SAFETY: a buried node is alive until it is retired below.
        let state = unsafe { node.node() }.state.get();
        // SAFETY: by `may_free` nobody else leads to this node but records, which do not touch
        // its state; the graveyard was the section's, under the mutex.
        grave = unsafe { (*state).next_dead };
        // SAFETY: it comes from the graveyard.
        unsafe { node.retire() };
    }
}

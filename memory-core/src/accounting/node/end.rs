//! The end of a section under the tree's mutex: waiters are served, the mutex is released, nodes that have left
//! are freed, and then waiters are woken. A quiet section, which started in the global allocator, does no more than
//! serve: the rest is left to others, by [`tend`].
#![expect(
    unsafe_code,
    reason = "takes the guard out of a value that is being dropped"
)]

use std::mem::ManuallyDrop;

use super::locked::Locked;
use super::retire::free_all;
use super::{tend, wake};

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

    /// Ends a section that started in the global allocator: serves those that wait, and leaves all else that is to be
    /// done to others.
    #[cold]
    pub(in crate::accounting) fn end_quietly(self) {
        let mut section = ManuallyDrop::new(self);
        if cfg!(loom) {
            // In a model no global allocator is below, and whoever is to be woken is woken at once.
            drop(ManuallyDrop::into_inner(section));
            return;
        }
        if section.waits {
            section.serve();
        }
        let mutex = section.tree().mutex.by_itself();
        // SAFETY: the section is not dropped, and nothing is done with it afterwards.
        let shared = unsafe { ManuallyDrop::take(&mut section.shared) };
        tend::leave(shared, mutex);
    }
}

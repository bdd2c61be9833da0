//! The queue's part in waiting for a share of the spill reserve: those that do are woken like waiters.

use std::sync::Arc;

use super::list::Queue;
use super::spillers::Spiller;

impl<N> Queue<N> {
    /// Lists somebody that waits for a share of the spill reserve, unless it is listed.
    ///
    /// # Errors
    ///
    /// The capacity that `spare` must have.
    pub(in crate::accounting) fn add_spiller(
        &mut self,
        spiller: &Arc<dyn Spiller>,
        spare: &mut Vec<Arc<dyn Spiller>>,
    ) -> Result<(), usize> {
        self.spillers.add(spiller, spare)
    }

    /// Takes one that waits for a share off the list. What is returned is dropped with the mutex free.
    pub(in crate::accounting) fn remove_spiller(
        &mut self,
        spiller: &Arc<dyn Spiller>,
    ) -> Option<Arc<dyn Spiller>> {
        let (gone, told) = self.spillers.remove(spiller)?;
        self.active -= usize::from(told);
        Some(gone)
    }

    /// Has all woken that wait for a share of the spill reserve; `true` if there are any.
    pub(in crate::accounting) fn share_is_free(&mut self) -> bool {
        self.active += self.spillers.share_is_free();
        self.spillers.has_wakes()
    }
}

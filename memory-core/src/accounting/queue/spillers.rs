//! Those that wait for a share of the spill reserve, to be woken when one is free.

use std::fmt;
use std::mem;
use std::sync::Arc;

use crate::sync::Ordering;
use crate::sync::plain::{AtomicBool, make_room};

/// Somebody that waits for a share of the spill reserve.
pub(crate) trait Spiller: fmt::Debug + Send + Sync {
    /// Whether it is in the tree's list; read and written under the tree's mutex.
    fn listed(&self) -> &AtomicBool;

    /// Notes that a share is free, or was. Foreign code: it calls a waker.
    fn share_is_free(&self);
}

/// All that wait for a share of the spill reserve of one tree. A free share is nobody's: each of them is woken, and takes
/// it if it is still there.
#[derive(Debug, Default)]
pub(super) struct Spillers {
    /// The first `told` of them are to be told that a share is free. It grows while the tree's mutex is free.
    list: Vec<Arc<dyn Spiller>>,
    told: usize,
}

impl Spillers {
    /// Lists a spiller; false if it is listed already.
    ///
    /// # Errors
    ///
    /// The capacity that `spare` must have.
    pub(super) fn add(
        &mut self,
        spiller: &Arc<dyn Spiller>,
        spare: &mut Vec<Arc<dyn Spiller>>,
    ) -> Result<bool, usize> {
        // Relaxed, here and below: the mutex orders it.
        if spiller.listed().load(Ordering::Relaxed) {
            return Ok(false);
        }
        make_room(&mut self.list, spare)?;
        spiller.listed().store(true, Ordering::Relaxed);
        self.list.push(Arc::clone(spiller));
        Ok(true)
    }

    /// Takes a spiller off the list, and says whether it was to be told. What is returned is dropped with the mutex free.
    pub(super) fn remove(
        &mut self,
        spiller: &Arc<dyn Spiller>,
    ) -> Option<(Arc<dyn Spiller>, bool)> {
        if !spiller.listed().load(Ordering::Relaxed) {
            return None;
        }
        let place = self.list.iter().position(|one| Arc::ptr_eq(one, spiller))?;
        let told = place < self.told;
        Some((self.take_at(place), told))
    }

    /// Notes that a share is free. The answer is how many more are to be told.
    pub(super) fn share_is_free(&mut self) -> usize {
        let more = self.list.len() - self.told;
        self.told = self.list.len();
        more
    }

    /// Whether any are to be told that a share is free.
    pub(super) fn has_wakes(&self) -> bool {
        self.told > 0
    }

    /// Takes one that is to be told off the list.
    pub(super) fn take_wake(&mut self) -> Option<Arc<dyn Spiller>> {
        let last = self.told.checked_sub(1)?;
        Some(self.take_at(last))
    }

    fn take_at(&mut self, place: usize) -> Arc<dyn Spiller> {
        let mut place = place;
        if place < self.told {
            // The last of those that are to be told takes its place.
            self.told -= 1;
            self.list.swap(place, self.told);
            place = self.told;
        }
        let gone = self.list.swap_remove(place);
        gone.listed().store(false, Ordering::Relaxed);
        gone
    }

    /// Empties the list in a forked child, whose other threads do not exist. Neither frees nor wakes.
    pub(super) fn fork(&mut self) {
        for spiller in self.list.drain(..) {
            spiller.listed().store(false, Ordering::Relaxed);
            mem::forget(spiller);
        }
        self.told = 0;
    }
}

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Named(AtomicBool);

    impl Spiller for Named {
        fn listed(&self) -> &AtomicBool {
            &self.0
        }

        fn share_is_free(&self) {}
    }

    fn add(spillers: &mut Spillers, one: &Arc<dyn Spiller>) -> bool {
        let mut spare = Vec::new();
        spillers.add(one, &mut spare).unwrap_or_else(|capacity| {
            spare = Vec::with_capacity(capacity);
            spillers.add(one, &mut spare).expect("there is room")
        })
    }

    #[test]
    fn each_that_waited_when_a_share_became_free_is_told_once_unless_it_left() {
        let mut random = fastrand::Rng::with_seed(3);
        let all: Vec<Arc<dyn Spiller>> = (0..8).map(|_| Arc::new(Named::default()) as _).collect();
        // Whether each is listed, and whether it is to be told.
        let (mut listed, mut told) = ([false; 8], [false; 8]);
        let mut spillers = Spillers::default();
        for _ in 0..10_000 {
            let at = random.usize(..all.len());
            match random.u32(..6) {
                0..=2 => {
                    assert_eq!(add(&mut spillers, &all[at]), !listed[at]);
                    listed[at] = true;
                }
                3 => {
                    let gone = spillers.remove(&all[at]);
                    let expected = listed[at].then_some(told[at]);
                    assert_eq!(gone.as_ref().map(|&(_, told)| told), expected);
                    assert!(gone.is_none_or(|(gone, _)| Arc::ptr_eq(&gone, &all[at])));
                    (listed[at], told[at]) = (false, false);
                }
                4 => {
                    let more = (0..8).filter(|&at| listed[at] && !told[at]).count();
                    assert_eq!(spillers.share_is_free(), more);
                    told = listed;
                }
                _ => {
                    let woken = spillers.take_wake();
                    assert_eq!(woken.is_some(), told.contains(&true));
                    if let Some(woken) = woken {
                        let at = all.iter().position(|one| Arc::ptr_eq(one, &woken));
                        let at = at.expect("one of them");
                        assert!(told[at]);
                        (listed[at], told[at]) = (false, false);
                    }
                }
            }
            assert_eq!(spillers.has_wakes(), told.contains(&true));
            for (one, listed) in all.iter().zip(listed) {
                assert_eq!(one.listed().load(Ordering::Relaxed), listed);
            }
        }
    }

    #[test]
    fn a_forked_child_has_nobody_to_tell() {
        let all: Vec<Arc<dyn Spiller>> = (0..3).map(|_| Arc::new(Named::default()) as _).collect();
        let mut spillers = Spillers::default();
        for one in &all {
            assert!(add(&mut spillers, one));
        }
        assert_eq!(spillers.share_is_free(), 3);

        spillers.fork();

        assert!(!spillers.has_wakes() && spillers.take_wake().is_none());
        for one in &all {
            assert!(spillers.remove(one).is_none());
            assert!(add(&mut spillers, one));
        }
    }
}

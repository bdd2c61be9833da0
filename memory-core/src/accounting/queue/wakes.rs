//! The part of the queue that is about waking: waiters with a verdict, a waiter that is to ask others for memory, and
//! those that wait for a share of the spill reserve.

use std::sync::Arc;

use super::level::NONE;
use super::list::Queue;
use super::spillers::Spiller;
use super::waiter::Wake;

impl<N: Copy + PartialEq> Queue<N> {
    /// Whether a waiter or a spiller is to be woken.
    pub(in crate::accounting) fn has_wakes(&self) -> bool {
        self.first_wake != NONE || self.is_to_ask() || self.spillers.has_wakes()
    }

    /// Has a waiter woken without a verdict, to ask others for memory: that is done by its owner, since those who are asked
    /// may be slow.
    pub(in crate::accounting) fn have_ask(&mut self, id: u32) {
        debug_assert!(!self.is_to_ask());
        self.to_ask = id;
        self.asked += 1;
        let asked = self.asked;
        let waiter = self.waiter_mut(id);
        (waiter.asks, waiter.told_to_ask) = (true, asked);
    }

    /// Whether a waiter is to be woken to ask others.
    pub(in crate::accounting) fn is_to_ask(&self) -> bool {
        self.to_ask != NONE
    }

    /// How the waiter is woken that is to ask others, if there is one. A task says anew how it is woken when it looks.
    fn take_to_ask(&mut self) -> Option<Wake> {
        let id = Some(std::mem::replace(&mut self.to_ask, NONE)).filter(|&id| id != NONE)?;
        match &mut self.waiter_mut(id).wake {
            Some(Wake::Thread(thread)) => Some(Wake::Thread(thread.clone())),
            task => task.take(),
        }
    }

    /// Takes a waiter off the wake list.
    pub(super) fn unlist_wake(&mut self, id: u32) {
        self.active -= 1;
        let waiter = self.waiter_mut(id);
        waiter.waking = false;
        let (next, previous) = (waiter.next, waiter.previous);
        match previous {
            NONE => self.first_wake = next,
            _ => self.waiter_mut(previous).next = next,
        }
        match next {
            NONE => self.last_wake = previous,
            _ => self.waiter_mut(next).previous = previous,
        }
    }

    /// Takes the next waiter or spiller off the wake list: how it is woken.
    pub(in crate::accounting) fn take_wake(&mut self) -> Option<Wake> {
        while self.first_wake != NONE {
            let id = self.first_wake;
            self.unlist_wake(id);
            if let Some(wake) = self.waiter_mut(id).wake.take() {
                return Some(wake);
            }
        }
        if let Some(wake) = self.take_to_ask() {
            return Some(wake);
        }
        let spiller = self.spillers.take_wake()?;
        self.active -= 1;
        Some(Wake::Spiller(spiller))
    }

    /// Lists somebody that waits for a share of the spill reserve; false if it is listed.
    ///
    /// # Errors
    ///
    /// The capacity that `spare` must have.
    pub(in crate::accounting) fn add_spiller(
        &mut self,
        spiller: &Arc<dyn Spiller>,
        spare: &mut Vec<Arc<dyn Spiller>>,
    ) -> Result<bool, usize> {
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

//! The memory of a queue: it is allocated, and freed, while the tree's mutex is free.

use std::mem;

use super::level::{Level, NONE};
use super::list::Queue;
use super::waiter::Waiter;
use crate::sync::plain::make_room;

/// So much memory is kept for the next waiters: room for this many.
const KEPT: usize = 64;

/// Memory for a queue that grows. It was allocated while the mutex was free.
pub(in crate::accounting) struct Spare<N> {
    waiters: Vec<Waiter<N>>,
    levels: Vec<Level<N>>,
}

impl<N> Spare<N> {
    /// Room for `capacity` waiters, each at a level of its own.
    pub(in crate::accounting) fn new(capacity: usize) -> Self {
        Self {
            waiters: Vec::with_capacity(capacity),
            levels: Vec::with_capacity(capacity),
        }
    }
}

impl<N: Copy + PartialEq> Queue<N> {
    /// Makes room for one more waiter at a level of its own, by what `spare` has.
    ///
    /// # Errors
    ///
    /// The capacity that `spare` must have.
    pub(in crate::accounting) fn make_room(&mut self, spare: &mut Spare<N>) -> Result<(), usize> {
        if self.free_waiter == NONE {
            make_room(&mut self.waiters, &mut spare.waiters)?;
        }
        // As many places as waiters, so that a waiter can move to another level at any time.
        let needed = self.waiters.capacity() + self.ghosts;
        if self.levels.capacity() < needed {
            if spare.levels.capacity() < needed {
                return Err(needed);
            }
            spare.levels.append(&mut self.levels);
            mem::swap(&mut self.levels, &mut spare.levels);
        }
        Ok(())
    }

    /// The memory of a queue in which nobody is any more, if many were. It is dropped with the mutex free.
    pub(in crate::accounting) fn take_unused(&mut self) -> Option<Spare<N>> {
        // In a forked child, nodes know places of levels.
        if self.used > 0 || self.waiters.capacity() <= KEPT || self.ghosts > 0 {
            return None;
        }
        debug_assert!(self.levels.iter().all(|level| level.waiters == 0));
        (self.free_waiter, self.free_level, self.look_from) = (NONE, NONE, 0);
        Some(Spare {
            waiters: mem::take(&mut self.waiters),
            levels: mem::take(&mut self.levels),
        })
    }
}

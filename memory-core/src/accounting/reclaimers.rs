//! The registrations of a tree that can give memory back, and which of them can help a request.
//!
//! The tree keeps them in one list under its mutex. They are called with no lock held: a request takes clones
//! of those that are below the level which lacks room, calls them one after another, and looks at the numbers again.

use std::cmp::Reverse;
use std::sync::Arc;

use super::charge::Mode;
use super::handle::Handle;
use super::node::{Locked, NodePtr};
use super::queue::Turn;
use super::reclaimer::{Candidate, Reclaimer, Registered};
use crate::sync::Ordering;
use crate::sync::plain::make_room;

impl Handle {
    /// Lists a registration of this node.
    pub(crate) fn register(&self, reclaimer: &Arc<dyn Reclaimer>) {
        let mut spare = Vec::new();
        loop {
            let mut locked = self.tree.lock();
            let list = locked.reclaimers();
            let room = make_room(list, &mut spare);
            if room.is_ok() {
                list.push(Registered {
                    node: self.ptr(),
                    reclaimer: Arc::clone(reclaimer),
                });
            }
            drop(locked);
            match room {
                // Relaxed: a hint, read by requests that were refused.
                Ok(()) => {
                    self.tree.reclaimers.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(capacity) => spare = Vec::with_capacity(capacity),
            }
        }
    }

    /// Takes a registration off the list.
    pub(crate) fn unregister(&self, reclaimer: &Arc<dyn Reclaimer>) {
        let mut locked = self.tree.lock();
        let list = locked.reclaimers();
        let place = list
            .iter()
            .position(|one| Arc::ptr_eq(&one.reclaimer, reclaimer));
        let gone = place.map(|place| list.swap_remove(place));
        drop(locked);
        if gone.is_some() {
            // Relaxed: see `register`.
            self.tree.reclaimers.fetch_sub(1, Ordering::Relaxed);
        }
        // Foreign code, perhaps.
        drop(gone);
    }

    /// Whether the tree has any registrations.
    pub(crate) fn has_reclaimers(&self) -> bool {
        // Relaxed: see `register`.
        self.tree.reclaimers.load(Ordering::Relaxed) > 0
    }

    /// The registrations that could make room for `bytes` more at this node, in the order in which they are asked,
    /// and how many bytes are missing; nothing is missing if the request fits.
    pub(crate) fn who_could_help(&self, bytes: usize) -> (usize, Vec<Candidate>) {
        self.collect(|locked, into| locked.who_could_help(self.ptr(), bytes, into))
    }

    /// All registrations of this node and those below it, in the order in which they are asked.
    pub(crate) fn reclaimers_below(&self) -> Vec<Candidate> {
        let found = self.collect(|locked, into| {
            locked.candidates(self.ptr(), None, into);
            0
        });
        found.1
    }

    fn collect(
        &self,
        find: impl Fn(&mut Locked<'_>, &mut Vec<Candidate>) -> usize,
    ) -> (usize, Vec<Candidate>) {
        let mut found: Vec<Candidate> = Vec::new();
        loop {
            let mut locked = self.tree.lock();
            let count = locked.reclaimers().len();
            if count <= found.capacity() {
                let missing = find(&mut locked, &mut found);
                drop(locked);
                found.sort_by_key(|candidate| candidate.order);
                return (missing, found);
            }
            drop(locked);
            found.reserve(count);
        }
    }
}

impl Locked<'_> {
    /// Whether the tree has any registrations.
    pub(super) fn has_reclaimers(&mut self) -> bool {
        !self.reclaimers().is_empty()
    }

    fn who_could_help(&mut self, node: NodePtr, bytes: usize, into: &mut Vec<Candidate>) -> usize {
        let Some((at, needed)) = self.short(node, bytes, Mode::Refusable(Turn::TRY)) else {
            return 0;
        };
        self.candidates(at, Some(node), into);
        let missing = needed.saturating_sub(self.look(at).room());
        // What is withheld has no other bound: those that wait come first.
        missing.min(bytes.saturating_add(self.queue().bytes()))
    }

    /// Appends the registrations at and below `top` whose allocators use more than they have reserved, but not
    /// those of `requester`. There is room for all.
    fn candidates(&mut self, top: NodePtr, requester: Option<NodePtr>, into: &mut Vec<Candidate>) {
        for place in 0..self.reclaimers().len() {
            let node = self.reclaimers()[place].node;
            if Some(node) == requester || !self.is_below(node, top) {
                continue;
            }
            let state = self.look(node);
            let freeable = state.used().saturating_sub(state.reservation);
            if freeable == 0 {
                continue;
            }
            let overuse = Reverse(self.overuse(node, top));
            let reclaimer = Arc::clone(&self.reclaimers()[place].reclaimer);
            let (cost, priority) = reclaimer.rank();
            into.push(Candidate {
                reclaimer,
                freeable,
                order: (cost, priority, overuse),
            });
        }
    }

    /// What the branch of `top` that contains `node` uses beyond its reservation.
    fn overuse(&self, node: NodePtr, top: NodePtr) -> usize {
        let mut branch = node;
        while let Some(parent) = self.look(branch).parent.filter(|_| branch != top) {
            if parent == top {
                break;
            }
            branch = parent;
        }
        let state = self.look(branch);
        state.used().saturating_sub(state.reservation)
    }
}

//! The registrations of a tree that can give memory back, and which of them can help a request.
//!
//! Each node has those of its allocator, under the tree's mutex, and counts those here and below. Children that have any
//! at or below them are in a list of their parent, so that a walk passes no others. Registrations are called with no lock
//! held: a request takes clones of those that are below the level which lacks room, calls them one after another, and
//! looks at the numbers again.

use std::cmp::Reverse;
use std::sync::Arc;

use super::charge::Mode;
use super::handle::Handle;
use super::node::{Locked, NodePtr, State};
use super::queue::Turn;
use super::reclaimer::{Candidate, Reclaimer, Registered};
use crate::sync::Ordering;
use crate::sync::current::unscoped;
use crate::sync::plain::make_room;

impl Handle {
    /// Registers a reclaimer at this node.
    pub(crate) fn register(&self, reclaimer: &Arc<dyn Reclaimer>) {
        let rank = reclaimer.rank();
        let mut spare = Vec::new();
        loop {
            let mut locked = self.tree.lock();
            let list = &mut locked.state(self.ptr()).reclaimers;
            let room = make_room(list, &mut spare);
            if room.is_ok() {
                list.push(Registered {
                    rank,
                    reclaimer: Arc::clone(reclaimer),
                });
                locked.count_registration(self.ptr(), 1);
            }
            drop(locked);
            match room {
                // Relaxed: a hint, read by requests that were refused.
                Ok(()) => {
                    self.tree.reclaimers.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(capacity) => spare = unscoped(|| Vec::with_capacity(capacity)),
            }
        }
    }

    /// Ends a registration.
    pub(crate) fn unregister(&self, reclaimer: &Arc<dyn Reclaimer>) {
        let mut locked = self.tree.lock();
        let list = &mut locked.state(self.ptr()).reclaimers;
        let place = list
            .iter()
            .position(|one| Arc::ptr_eq(&one.reclaimer, reclaimer));
        let gone = place.map(|place| list.swap_remove(place));
        if gone.is_some() {
            locked.count_registration(self.ptr(), -1);
        }
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
    /// and how many bytes are missing; nothing is missing if the request fits. What is withheld for a request that
    /// waits is there for itself.
    pub(crate) fn who_could_help(&self, bytes: usize, turn: Turn) -> (usize, Vec<Candidate>) {
        collect(|into| {
            let mut locked = self.tree.lock();
            locked.who_could_help(self.ptr(), bytes, turn, into)
        })
    }

    /// All registrations of this node and those below it, in the order in which they are asked.
    pub(crate) fn reclaimers_below(&self) -> Vec<Candidate> {
        let found = collect(|into| {
            let locked = self.tree.lock();
            locked.candidates(self.ptr(), None, into)
        });
        found.1
    }
}

/// Has `find` look for candidates, for whom there must be memory before the mutex is taken, until there is enough.
fn collect<T>(find: impl Fn(&mut Vec<Candidate>) -> Result<T, usize>) -> (T, Vec<Candidate>) {
    let mut found: Vec<Candidate> = Vec::new();
    loop {
        match find(&mut found) {
            Ok(answer) => {
                found.sort_by_key(|candidate| candidate.order);
                return (answer, found);
            }
            Err(count) => found.reserve(count),
        }
    }
}

impl Locked<'_> {
    /// Counts a registration in or out at a node, and at all levels above.
    fn count_registration(&mut self, node: NodePtr, by: i32) {
        self.change_registrations(Some(node), by);
    }

    /// Takes a node that is about to leave its tree off the lists of the levels above, with its registrations.
    #[cold]
    pub(super) fn forget_registrations(&mut self, node: NodePtr) {
        let count = self.look(node).registrations as i32;
        self.unlist_registered(node);
        let parent = self.look(node).parent;
        self.change_registrations(parent, -count);
    }

    /// Changes the counts from a node upwards, and keeps the lists of children that have registrations.
    fn change_registrations(&mut self, from: Option<NodePtr>, by: i32) {
        let mut next = from;
        while let Some(node) = next {
            let state = self.state(node);
            let before = state.registrations;
            let after = before
                .checked_add_signed(by)
                .expect("registrations are counted in first");
            state.registrations = after;
            next = state.parent;
            if before == 0 {
                self.list_registered(node);
            } else if after == 0 {
                self.unlist_registered(node);
            }
        }
    }

    /// Puts a node on the list of its parent's children that have registrations.
    fn list_registered(&mut self, node: NodePtr) {
        let Some(parent) = self.look(node).parent else {
            return;
        };
        let next = self.state(parent).first_registered.replace(node);
        if let Some(next) = next {
            self.state(next).previous_registered = Some(node);
        }
        self.state(node).next_registered = next;
    }

    fn unlist_registered(&mut self, node: NodePtr) {
        let state = self.state(node);
        let (next, previous) = (
            state.next_registered.take(),
            state.previous_registered.take(),
        );
        let parent = state.parent;
        if let Some(next) = next {
            self.state(next).previous_registered = previous;
        }
        if let Some(previous) = previous {
            self.state(previous).next_registered = next;
        } else if let Some(parent) = parent {
            self.state(parent).first_registered = next;
        }
    }

    /// Appends those that could make room, and says how many bytes are missing. There must be memory for so many.
    fn who_could_help(
        &mut self,
        node: NodePtr,
        bytes: usize,
        turn: Turn,
        into: &mut Vec<Candidate>,
    ) -> Result<usize, usize> {
        let Some((at, needed)) = self.short(node, bytes, Mode::Refusable(turn)) else {
            return Ok(0);
        };
        self.candidates(at, Some(node), into)?;
        let missing = needed.saturating_sub(self.look(at).room());
        // What is withheld has no other bound: those that wait come first.
        Ok(missing.min(bytes.saturating_add(self.queue().bytes())))
    }

    /// Appends the registrations at and below `top` whose allocators use more than they have reserved, but not
    /// those of `requester`. If there is no memory for all, it does nothing, and says how many they are at most.
    fn candidates(
        &self,
        top: NodePtr,
        requester: Option<NodePtr>,
        into: &mut Vec<Candidate>,
    ) -> Result<(), usize> {
        let count = self.look(top).registrations as usize;
        if into.capacity() < count {
            return Err(count);
        }
        let mut push = |node, branch| {
            if Some(node) != requester {
                self.push_candidates(node, branch, into);
            }
        };
        push(top, top);
        let mut next = self.look(top).first_registered;
        while let Some(branch) = next {
            let mut below = Some(branch);
            while let Some(node) = below {
                push(node, branch);
                below = self.next_registered(node, branch);
            }
            next = self.look(branch).next_registered;
        }
        Ok(())
    }

    /// Appends the registrations of a node, in a branch of the level that lacks room.
    fn push_candidates(&self, node: NodePtr, branch: NodePtr, into: &mut Vec<Candidate>) {
        let state = self.look(node);
        let freeable = state.beyond_reservation();
        if freeable == 0 {
            return;
        }
        let overuse = Reverse(self.look(branch).beyond_reservation());
        for Registered { rank, reclaimer } in &state.reclaimers {
            into.push(Candidate {
                reclaimer: Arc::clone(reclaimer),
                freeable,
                order: (rank.0, rank.1, overuse),
            });
        }
    }

    /// The node after `node` in the subtree of `top` that has registrations at or below it, parents before children.
    fn next_registered(&self, node: NodePtr, top: NodePtr) -> Option<NodePtr> {
        let first = self.look(node).first_registered;
        if first.is_some() {
            return first;
        }
        let mut at = node;
        while at != top {
            let state = self.look(at);
            if state.next_registered.is_some() {
                return state.next_registered;
            }
            at = state.parent?;
        }
        None
    }

    /// For a check of the books: whether a node counts other registrations than its own and those of its children, or
    /// leaves a child that has some out of its list.
    pub(super) fn wrong_registrations(
        &self,
        node: NodePtr,
    ) -> Option<(&'static str, usize, usize)> {
        let state = self.look(node);
        let counted = state.registrations as usize;
        let sum = |first: Option<NodePtr>, next: fn(&State) -> Option<NodePtr>| {
            std::iter::successors(first, |&child| next(self.look(child)))
                .map(|child| self.look(child).registrations as usize)
                .sum::<usize>()
                + state.reclaimers.len()
        };
        let there = sum(state.first_child, |child| child.next_sibling);
        let listed = sum(state.first_registered, |child| child.next_registered);
        if counted != there {
            return Some(("the number of registrations is wrong", counted, there));
        }
        let rule = "a child with registrations is not listed";
        (counted != listed).then_some((rule, counted, listed))
    }
}

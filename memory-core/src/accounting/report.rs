//! Numbers of nodes and of subtrees for the rest of the crate. Each method takes the tree's mutex once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Handle;
use super::node::{Locked, Node, NodeKind, NodePtr, Reserved};
use super::queue::{NONE, Turn};
use crate::error::VerifyError;
use crate::outcome::AllocatorInfo;
use crate::report::{AllocatorSnapshot, AllocatorStats, SnapshotEntry, WaitingRequest};
use crate::sync::Ordering;

/// A snapshot, and for each of its entries the numbers of the node that only reports need.
pub(crate) struct Census {
    pub(crate) snapshot: AllocatorSnapshot,
    pub(crate) nodes: Vec<Counted>,
}

/// A node at the instant of a census.
pub(crate) struct Counted {
    /// Keeps the node's memory; the allocator may have been dropped.
    pub(crate) node: Arc<Node>,
    /// Bytes that are charged to it for ledgers that own.
    pub(crate) owned: usize,
    /// How many ledgers it has that do not own.
    pub(crate) guests: usize,
    /// Its reservations, in the order of the sizes in its entry.
    pub(crate) reservations: Vec<Arc<Reserved>>,
}

impl Handle {
    /// Exact allocated bytes. O(subtree).
    pub(crate) fn allocated(&self) -> usize {
        self.tree.lock().allocated(self.ptr())
    }

    /// An upper bound of the allocated bytes: too high by at most the credit below. O(1).
    pub(crate) fn charged(&self) -> usize {
        self.tree.lock().charged(self.ptr())
    }

    /// The maximum of the allocated bytes so far.
    pub(crate) fn peak(&self) -> usize {
        self.tree.lock().peak(self.ptr())
    }

    /// Returns the peak and starts a new one at what is in use now.
    pub(crate) fn reset_peak(&self) -> usize {
        let node = self.ptr();
        let mut locked = self.tree.lock();
        let peak = locked.peak(node);
        locked.recall_soft(node);
        // The words' `low` starts anew when they are opened.
        locked.freeze(node);
        let state = locked.state(node);
        state.peak = state.used();
        locked.open_if_allowed(node);
        peak
    }

    /// Exact headroom, and whether the node or an ancestor is over its limit. O(tree).
    pub(crate) fn headroom(&self) -> (isize, bool) {
        self.tree.lock().headroom(self.ptr())
    }

    /// The limit that was set.
    pub(crate) fn limit(&self) -> usize {
        self.tree.lock().look(self.ptr()).limit
    }

    /// Sets the limit.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.tree.lock().set_limit(self.ptr(), limit);
    }

    /// The cap that was set.
    pub(crate) fn cap(&self) -> usize {
        self.tree.lock().look(self.ptr()).cap
    }

    /// Sets the cap.
    pub(crate) fn set_cap(&self, cap: usize) {
        self.tree.lock().set_cap(self.ptr(), cap);
    }

    /// How many requests wait in the tree, and for how many bytes.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let locked = self.tree.lock();
        (locked.queue().waiting(), locked.queue().bytes())
    }

    /// The node's own numbers.
    pub(crate) fn stats(&self) -> AllocatorStats {
        let mut locked = self.tree.lock();
        let own = locked.own_bytes(self.ptr());
        let reserved = locked.reserved_bytes(self.ptr());
        locked.stats(self.ptr(), own, reserved)
    }

    /// The subtree at one instant.
    pub(crate) fn census(&self) -> Census {
        let top = self.ptr();
        let mut entries = Vec::new();
        let mut nodes = Vec::new();
        // The reservations of all nodes, each with the index of its entry and its size.
        let mut reserved: Vec<(usize, usize, Arc<Reserved>)> = Vec::new();
        let mut waiters = Vec::new();
        loop {
            // The memory is found before the mutex is taken.
            let (count, reservations) = self.tree.lock().count_subtree(top);
            let waiting = self.tree.lock().queue().waiting();
            waiters.reserve(waiting);
            entries.reserve(count);
            nodes.reserve(count);
            reserved.reserve(reservations);
            let mut locked = self.tree.lock();
            let (count, reservations) = locked.count_subtree(top);
            if count > entries.capacity().min(nodes.capacity())
                || reservations > reserved.capacity()
                || locked.queue().waiting() > waiters.capacity()
            {
                continue;
            }
            locked.measure_subtree(top);
            let depth = locked.node(top).depth;
            let mut next = Some(top);
            while let Some(node) = next {
                // Each size is read once, so that the sum is that of the sizes in the entry.
                let mut sum = 0;
                for reservation in &locked.look(node).reservations {
                    let size = reservation.size();
                    sum += size;
                    reserved.push((entries.len(), size, Arc::clone(reservation)));
                }
                entries.push(locked.entry(node, depth, sum));
                nodes.push(locked.counted(node, sum));
                next = locked.next_preorder(node, top);
            }
            locked.list_waiters(top, &mut waiters);
            locked.thaw_subtree(top);
            drop(locked);
            let now = Instant::now();
            waiters.sort_unstable_by_key(|(since, _)| *since);
            for (since, request) in &mut waiters {
                request.waited = now.saturating_duration_since(*since);
            }
            for (index, size, reserved) in reserved {
                entries[index].reservations.push(size);
                nodes[index].reservations.push(reserved);
            }
            return Census {
                snapshot: AllocatorSnapshot {
                    entries,
                    waiters: waiters.into_iter().map(|(_, request)| request).collect(),
                },
                nodes,
            };
        }
    }

    /// Calls `visit`, which must not use the tree, for each node of the subtree.
    pub(crate) fn for_each_below(&self, mut visit: impl FnMut(&Node)) {
        let top = self.ptr();
        let locked = self.tree.lock();
        let mut next = Some(top);
        while let Some(node) = next {
            visit(locked.node(node));
            next = locked.next_preorder(node, top);
        }
    }

    /// Recomputes the sums of the subtree.
    pub(crate) fn verify(&self) -> Result<(), VerifyError> {
        let mut locked = self.tree.lock();
        let found = locked.find_wrong_for_waiters(self.ptr());
        locked.measure_subtree(self.ptr());
        let found = found.or_else(|| locked.find_wrong(self.ptr()));
        locked.thaw_subtree(self.ptr());
        drop(locked);
        match found {
            None => Ok(()),
            Some((allocator, (rule, left, right))) => Err(VerifyError {
                allocator,
                problem: format!("{rule} ({left} against {right})"),
            }),
        }
    }
}

/// A rule that does not hold, with the numbers of both sides.
type Wrong = (&'static str, usize, usize);

impl Locked<'_> {
    /// Bytes that the node itself is charged for (B).
    fn own_bytes(&mut self, node: NodePtr) -> usize {
        self.charged(node) - self.look(node).lent
    }

    /// The node's own numbers, given B and the sum of its reservations. Side counters, and that sum, are
    /// read after B and may be ahead of it.
    fn stats(&mut self, node: NodePtr, own: usize, reserved: usize) -> AllocatorStats {
        let this = self.node(node);
        // Relaxed, all: numbers for readers.
        let foreign = this.foreign.load(Ordering::Relaxed);
        let external = self.external(node);
        let kept = |counter: &crate::sync::AtomicU64| {
            this.tree
                .config
                .statistics
                .then(|| counter.load(Ordering::Relaxed))
        };
        let state = self.look(node);
        let (refusals, forced_bytes) = (state.refusals, state.forced);
        AllocatorStats {
            own_bytes: own
                .saturating_sub(foreign)
                .saturating_sub(external + reserved),
            foreign_bytes: foreign,
            external_bytes: external,
            reserved_bytes: reserved,
            peak_bytes: self.peak(node),
            refusals,
            forced_bytes,
            total_bytes: kept(&this.total_bytes),
            allocations: kept(&this.total_allocations),
            live_allocations: kept(&this.live_allocations),
        }
    }

    /// Appends the waiters of a subtree, with the instant at which their wait began. There is room for them.
    fn list_waiters(&self, top: NodePtr, into: &mut Vec<(Instant, WaitingRequest)>) {
        let queue = self.queue();
        for id in 0..queue.slots() {
            let waiter = queue.waiter(id);
            if waiter.level == NONE || !self.is_below(waiter.node, top) {
                continue;
            }
            let request = WaitingRequest {
                allocator: self.node(waiter.node).info.clone(),
                lacks_room: self.node(queue.level(waiter.level).node).info.clone(),
                bytes: waiter.ask.bytes,
                waited: Duration::ZERO,
                admission: waiter.ask.admission,
                withholds: waiter.barrier,
            };
            into.push((waiter.since, request));
        }
    }

    /// How many nodes the subtree has, and how many reservations.
    fn count_subtree(&self, top: NodePtr) -> (usize, usize) {
        let (mut count, mut reservations, mut next) = (0, 0, Some(top));
        while let Some(node) = next {
            count += 1;
            reservations += self.look(node).reservations.len();
            next = self.next_preorder(node, top);
        }
        (count, reservations)
    }

    /// The numbers of a measured node that a report needs. `reserved` are the bytes of its reservations,
    /// which are not among them.
    fn counted(&self, node: NodePtr, reserved: usize) -> Counted {
        let state = self.look(node);
        let besides = self.external(node) + reserved;
        let owned = match self.node(node).kind {
            NodeKind::Allocator => (state.used() - state.lent).saturating_sub(besides),
            _ => 0,
        };
        Counted {
            node: self.keep(node),
            owned,
            guests: state.guests,
            reservations: Vec::new(),
        }
    }

    /// The entry of a measured node in a snapshot, without its reservations, which are `reserved` bytes.
    fn entry(&mut self, node: NodePtr, depth: usize, reserved: usize) -> SnapshotEntry {
        self.add_to_path(node);
        let own = self.look(node).used() - self.look(node).lent;
        let stats = self.stats(node, own, reserved);
        let (this, state) = (self.node(node), self.look(node));
        SnapshotEntry {
            allocator: this.info.clone(),
            parent: state.parent.map(|parent| self.node(parent).info.id),
            depth: this.depth - depth,
            group: this.group.clone(),
            allocated: state.exact,
            peak: stats.peak_bytes,
            limit: state.limit,
            reservation: state.reservation,
            withheld: self.withheld(node, Turn::TRY).min(state.room()),
            closed: state.closed,
            stats,
            reservations: Vec::new(),
        }
    }

    /// The first node of a subtree whose numbers break a rule for waiters, with the rule.
    fn find_wrong_for_waiters(&self, top: NodePtr) -> Option<(AllocatorInfo, Wrong)> {
        let mut next = Some(top);
        while let Some(node) = next {
            let wrong = self.wrong_for_waiters(node);
            let wrong = wrong.or_else(|| self.wrong_soft(node));
            if let Some(wrong) = wrong.or_else(|| self.wrong_covered(node)) {
                return Some((self.node(node).info.clone(), wrong));
            }
            next = self.next_preorder(node, top);
        }
        None
    }

    /// The first node of a measured subtree whose numbers break a rule, with the rule.
    fn find_wrong(&mut self, top: NodePtr) -> Option<(AllocatorInfo, Wrong)> {
        let mut next = Some(top);
        let mut tight_above = None;
        while let Some(node) = next {
            if let Some(wrong) = self.wrong(node, &mut tight_above) {
                return Some((self.node(node).info.clone(), wrong));
            }
            next = self.next_preorder(node, top);
        }
        None
    }

    /// The first rule that the node's own numbers break, or its place below a tight one. `tight_above` is
    /// the tight node above those that come now in preorder, if any, with its depth.
    fn wrong(&self, node: NodePtr, tight_above: &mut Option<(NodePtr, usize)>) -> Option<Wrong> {
        self.wrong_alone(node)
            .or_else(|| self.wrong_accounts(node))
            .or_else(|| self.wrong_below(node, tight_above))
            .or_else(|| self.wrong_registrations(node))
    }

    /// The first rule that the node's numbers break, among themselves and with its children's.
    fn wrong_alone(&self, node: NodePtr) -> Option<Wrong> {
        let state = self.look(node);
        if state.parked > state.obtained {
            // `used` would be below zero.
            let rule = "free bytes exceed what was obtained";
            return Some((rule, state.parked, state.obtained));
        }
        let (used, lent) = (state.used(), self.obtained_by_children(node));
        let rules = [
            (
                state.lent > used,
                "what children are charged exceeds what is in use",
                (state.lent, used),
            ),
            (
                lent != state.lent,
                "the sum of the children's charges is wrong",
                (state.lent, lent),
            ),
            (
                state.obtained < state.reservation,
                "the reservation is not covered",
                (state.obtained, state.reservation),
            ),
            (
                used > state.bound() && !state.tight,
                "over the limit and not tight",
                (used, state.bound()),
            ),
            (
                state.exact > state.peak,
                "allocated exceeds the peak",
                (state.exact, state.peak),
            ),
        ];
        let (_, rule, (left, right)) = rules.into_iter().find(|&(broken, ..)| broken)?;
        Some((rule, left, right))
    }

    fn obtained_by_children(&self, node: NodePtr) -> usize {
        let first = self.look(node).first_child;
        std::iter::successors(first, |&child| self.look(child).next_sibling)
            .map(|child| self.look(child).obtained)
            .sum()
    }

    /// I2 of the essay: below a tight node all is `shut`, and exact while the nodes are stopped.
    fn wrong_below(
        &self,
        node: NodePtr,
        tight_above: &mut Option<(NodePtr, usize)>,
    ) -> Option<Wrong> {
        let (this, state) = (self.node(node), self.look(node));
        if tight_above.is_some_and(|(_, depth)| this.depth <= depth) {
            *tight_above = None;
        }
        if tight_above.is_some() {
            let exact = state.reservation.max(state.exact);
            if !state.shut || state.obtained != exact {
                return Some(("not exact below a tight allocator", state.obtained, exact));
            }
        } else if state.tight {
            *tight_above = Some((node, this.depth));
        }
        None
    }
}

//! Lookups in the registry.

use std::ops::ControlFlow;

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::super::deps::arrow_buffer::Buffer;
use super::super::region::Region;
use super::entry::{Found, Known, Lookup, REGISTRY, Target};

impl Found {
    fn held(&self) -> &ArrowBuf {
        match self {
            Self::Wrapper(wrapper) => &wrapper.held,
            Self::Adopted(view) => view,
        }
    }

    /// The rank of this find for `allocator`, whose own ledger is no better than another one unless `own` is set.
    fn rank(&self, allocator: Option<&BufferAllocator>, own: bool) -> Rank {
        let held = self.held();
        match allocator {
            Some(allocator) if own && held.belongs_to(allocator) => Rank::Own,
            Some(allocator) if !held.shares_root(allocator) => Rank::Elsewhere,
            _ if held.accounted_size() > 0 => Rank::Owner,
            _ => Rank::Tree,
        }
    }

    #[track_caller]
    pub(super) fn into_known(self, by_one_allocation: bool) -> Known {
        let (view, adopted) = match self {
            // The view is the whole of it, so that a wrapper of it is as wide and stands as far in front.
            Self::Wrapper(wrapper) => (wrapper.held.clone(), false),
            Self::Adopted(view) => (view.registered(), true),
        };
        Known {
            view,
            adopted,
            by_one_allocation,
        }
    }
}

/// How good a find is, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// On a ledger of another tree than that of the allocator that asked.
    Elsewhere,
    /// On a ledger of its tree, or of any tree if no allocator asked.
    Tree,
    /// On the ledger of its tree, or of any tree, that is charged.
    Owner,
    /// On the allocator's own ledger.
    Own,
}

/// A lookup under way.
///
/// The references that it makes are kept until the lock is released, since each drop may be the last one:
/// the best in `best`, and all others in `passed`. `passed` does not grow under the lock: a lookup without
/// room in it is broken off, and starts over with more.
pub(super) struct Search<'a> {
    region: Region,
    allocator: Option<&'a BufferAllocator>,
    /// The first find of this rank, or a better one, ends the search.
    enough: Rank,
    /// After this many live entries, any find of the right tree ends the search.
    patience: usize,
    best: Option<(Rank, Found)>,
    passed: Vec<Found>,
    original: Option<Buffer>,
    /// The number of live entries looked at.
    looked_at: usize,
    /// Whether there is an entry of another allocation than that of the best find, or may be: it was too narrow, or stands
    /// behind the last one that was looked at.
    others: bool,
    out_of_room: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        region: Region,
        allocator: Option<&'a BufferAllocator>,
        enough: Rank,
        patience: usize,
    ) -> Self {
        Self {
            region,
            allocator,
            enough,
            patience,
            best: None,
            passed: Vec::new(),
            original: None,
            looked_at: 0,
            others: false,
            out_of_room: false,
        }
    }

    /// Looks at an entry. Runs under the lock.
    pub(super) fn look(&mut self, target: &Target) -> ControlFlow<()> {
        #[cfg(test)]
        LOOKED_AT.set(LOOKED_AT.get() + 1);
        if self.best.is_some() && self.passed.len() == self.passed.capacity() {
            self.out_of_room = true;
            return ControlFlow::Break(());
        }
        let Some(found) = target.upgrade(self.region) else {
            self.others |= target.is_narrower(self.region);
            return ControlFlow::Continue(());
        };
        if let Some((_, best)) = &self.best {
            self.others |= best.held().allocation_id() != found.held().allocation_id();
        }
        let rank = found.rank(self.allocator, self.enough == Rank::Own);
        // Whoever finds the memory in the right tree has no use for it.
        if let Target::Adopted { original, .. } = target
            && (self.allocator.is_none() || rank == Rank::Elsewhere)
            && self.original.is_none()
        {
            self.original = Some(original.clone());
        }
        let best = match &self.best {
            Some((best, _)) if *best >= rank => {
                self.passed.push(found);
                *best
            }
            _ => {
                let before = self.best.replace((rank, found));
                self.passed.extend(before.map(|(_, before)| before));
                rank
            }
        };
        self.looked_at += 1;
        let will_do = best >= Rank::Tree && self.looked_at >= self.patience;
        if best >= self.enough || will_do {
            self.others = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    #[inline]
    #[track_caller]
    pub(super) fn run(mut self) -> Lookup {
        let region = self.region;
        loop {
            REGISTRY.visit(region.address(), |target| self.look(target));
            if !self.starts_over() {
                return self.finish();
            }
        }
    }

    /// Makes room and returns `true` if the search has to start over. Runs with the lock released.
    fn starts_over(&mut self) -> bool {
        if !std::mem::take(&mut self.out_of_room) {
            return false;
        }
        self.best = None;
        self.original = None;
        self.looked_at = 0;
        self.passed.clear();
        self.passed.reserve(4 * self.passed.capacity() + ENOUGH);
        true
    }

    /// The find in the tree of the allocator that asked. `None` if the search was broken off for want of
    /// room; it has more room then, and starts over. Runs with the lock released.
    pub(super) fn found(&mut self) -> Option<Found> {
        if self.starts_over() {
            return None;
        }
        let (rank, found) = self.best.take()?;
        (rank > Rank::Elsewhere).then_some(found)
    }

    /// The find in the tree of the allocator that asked, or in any tree. Runs with the lock released.
    #[track_caller]
    fn finish(self) -> Lookup {
        let known = match self.best {
            None | Some((Rank::Elsewhere, _)) => None,
            Some((_, found)) => Some(found.into_known(!self.others)),
        };
        Lookup {
            known,
            original: self.original,
        }
    }
}

/// After this many entries, a find in the tree ends a search for one on the allocator's own ledger: the core
/// finds, or makes, the allocator's ledger from any other one.
pub(super) const ENOUGH: usize = 8;

/// The number of entries that lookups of this thread looked at.
#[cfg(test)]
pub(in super::super) fn looked_at() -> usize {
    LOOKED_AT.get()
}

#[cfg(test)]
thread_local! {
    static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

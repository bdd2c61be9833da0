//! The accounts of a scope that several threads are in.
//!
//! If all threads of a scope charged one account, each would write the same word for each block, which costs two
//! threads five times as much as one. So the first thread that enters a scope charges the scope's first account, and
//! each further thread gets one of its own, up to [`LANES`]; then threads share them. A block is given back to the
//! account that its label names, whichever thread frees it.
//!
//! The accounts are opened when they are first needed, and end with the scope, all in one section. A thread that has
//! gone keeps its place: the next thread with its identity gets it.

use super::super::node::{Accounts, Locked, NodePtr};
use super::account::Account;
use super::leaf::HeapHandle;
use super::table;
use crate::sync::current::unscoped;
use crate::sync::table::spread;
use crate::sync::{AtomicUsize, Ordering};

/// The number of accounts besides the first.
const LANES: usize = 7;

/// Which threads have which accounts of a scope.
#[derive(Default)]
pub(super) struct Lanes {
    /// The thread that has the first account, or 0.
    first: AtomicUsize,
    others: [Lane; LANES],
}

#[derive(Default)]
struct Lane {
    /// The thread that has the account, or 0.
    thread: AtomicUsize,
    /// The account's id, or 0 while it has not been opened. Written under the mutex.
    account: AtomicUsize,
}

impl Lane {
    fn account(&self) -> Option<Account> {
        // Acquire: partner of the Release in `open_lane`: what the account began with is seen.
        let id = self.account.load(Ordering::Acquire);
        (id != 0).then(|| table::account(id as u32))
    }
}

impl HeapHandle {
    /// The account for a thread, whose identity is not 0 and belongs to no other thread that is alive. Costs a load
    /// for the first thread that came; the first call of another one may take the tree's mutex, and allocate.
    #[inline]
    pub(crate) fn account_of_thread(&self, thread: usize) -> Account {
        // Relaxed: the thread itself wrote it, if it is equal.
        if self.lanes.first.load(Ordering::Relaxed) == thread {
            return self.account();
        }
        self.further_account(thread)
    }

    #[inline(never)]
    fn further_account(&self, thread: usize) -> Account {
        // Relaxed, all: as above; the accounts are reached by pointers of their own.
        let take = |place: &AtomicUsize| {
            let taken = place.load(Ordering::Relaxed);
            taken == thread
                || taken == 0
                    && (place.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed))
                        .is_ok()
        };
        if take(&self.lanes.first) {
            return self.account();
        }
        let others = &self.lanes.others;
        let mine = others.iter().find(|lane| take(&lane.thread));
        let lane = mine.unwrap_or_else(|| &others[spread(thread) as usize % LANES]);
        lane.account()
            .or_else(|| self.open_lane(lane))
            .unwrap_or(self.account())
    }

    /// Opens the account of a lane. `None` if the allocator is closed, or there are no more accounts.
    #[cold]
    fn open_lane(&self, lane: &Lane) -> Option<Account> {
        unscoped(|| {
            let account = table::take()?;
            let mut locked = self.leaf.tree.lock();
            let found = lane.account();
            let opened = found.is_none() && locked.add_lane(self.leaf.ptr(), account);
            if opened {
                // Release: partner of the Acquire in `account`.
                lane.account.store(account.id() as usize, Ordering::Release);
            }
            drop(locked);
            if opened {
                return Some(account);
            }
            table::give_back(account);
            found
        })
    }

    /// All accounts of the scope.
    pub(super) fn accounts(&self) -> impl Iterator<Item = Account> {
        let others = self.lanes.others.iter().filter_map(Lane::account);
        std::iter::once(self.account()).chain(others)
    }
}

impl Locked<'_> {
    /// Begins the life of a further account of a leaf, whose scope is there. `false` if the leaf is closed.
    fn add_lane(&mut self, leaf: NodePtr, account: Account) -> bool {
        if self.look(leaf).closed || !self.look(leaf).linked {
            return false;
        }
        account.begin(self.tree(), leaf);
        self.add_account(Accounts::Of(leaf), account);
        true
    }
}

//! The accounts of a scope that several threads are in.
//!
//! If all threads of a scope charged one account, each would write the same word for each block, which costs two
//! threads five times as much as one. So the first thread that enters a scope charges the scope's first account, and
//! each further thread gets one of its own, up to [`LANES`]; then threads share them. A block is given back to the
//! account that its label names, whichever thread frees it.
//!
//! The accounts are opened when they are first needed, and end with the scope, all in one section. A thread that has
//! gone keeps its place: the next thread with its identity gets it.

use super::super::handle::Handle;
use super::super::node::{Accounts, Locked, NodePtr};
use super::account::Account;
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
        // Acquire: partner of the Release in `open`: what the account began with is seen.
        let id = self.account.load(Ordering::Acquire);
        (id != 0).then(|| table::account(id as u32))
    }

    /// Opens the account. `None` if the allocator is closed, or there are no more accounts.
    #[cold]
    fn open(&self, leaf: &Handle) -> Option<Account> {
        unscoped(|| {
            let account = table::take()?;
            let mut locked = leaf.tree.lock();
            let found = self.account();
            let opened = found.is_none() && locked.add_lane(leaf.ptr(), account);
            if opened {
                // Release: partner of the Acquire in `account`.
                self.account.store(account.id() as usize, Ordering::Release);
            }
            drop(locked);
            if opened {
                return Some(account);
            }
            table::give_back(account);
            found
        })
    }
}

impl Lanes {
    /// The account for a thread, whose identity is not 0 and belongs to no other thread that is alive; `first` is the
    /// scope's first account, and `leaf` the leaf of all. Costs a load for the first thread that came; the first call
    /// of another one may take the tree's mutex, and allocate.
    #[inline]
    pub(super) fn account_of(&self, thread: usize, first: Account, leaf: &Handle) -> Account {
        // Relaxed: the thread itself wrote it, if it is equal.
        if self.first.load(Ordering::Relaxed) == thread {
            return first;
        }
        self.further_account(thread, first, leaf)
    }

    #[inline(never)]
    fn further_account(&self, thread: usize, first: Account, leaf: &Handle) -> Account {
        // Relaxed, all: as above; the accounts are reached by ids of their own.
        let take = |place: &AtomicUsize| {
            let taken = place.load(Ordering::Relaxed);
            taken == thread
                || taken == 0
                    && (place.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed))
                        .is_ok()
        };
        if take(&self.first) {
            return first;
        }
        let mine = self.others.iter().find(|lane| take(&lane.thread));
        let lane = mine.unwrap_or_else(|| &self.others[spread(thread) as usize % LANES]);
        lane.account().or_else(|| lane.open(leaf)).unwrap_or(first)
    }

    /// The accounts that were opened besides the first.
    pub(super) fn others(&self) -> impl Iterator<Item = Account> {
        self.others.iter().filter_map(Lane::account)
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

//! The end of a scope: its account retires, and its bytes move to the root's child `(retained)`.

use std::cmp::Reverse;
use std::sync::Arc;

use super::super::charge::Mode;
use super::super::handle::Handle;
use super::super::node::{Accounts, Locked, NodeKind, NodePtr};
use super::account::Account;
use crate::report::RetainedHeap;

/// How many accounts of scopes that have ended a report names.
const NAMED: usize = 32;

impl Handle {
    /// What outlived its scope in the tree, if this is the root. O(scopes that have ended and have bytes).
    pub(crate) fn retained(&self) -> RetainedHeap {
        if self.depth > 0 {
            return RetainedHeap::default();
        }
        // In order of their bytes, the smallest first. Nothing is allocated, and no name is dropped, under the mutex.
        let mut largest: [Option<(usize, Account)>; NAMED] = [None; NAMED];
        let mut names = [const { None }; NAMED];
        let (mut count, mut sum) = (0, 0);
        let locked = self.tree.lock();
        for account in locked.accounts(Accounts::Retired) {
            let bytes = account.granted();
            if bytes == 0 {
                // All bytes of its block are a ledger's.
                continue;
            }
            count += 1;
            sum += bytes;
            let above = largest.partition_point(|one| one.is_none_or(|(less, _)| less < bytes));
            if above > 0 {
                largest[..above].rotate_left(1);
                largest[above - 1] = Some((bytes, account));
            }
        }
        for (name, one) in names.iter_mut().zip(&largest) {
            *name = one.map(|(bytes, account)| (bytes, account.origin()));
        }
        drop(locked);
        let (mut named, mut named_bytes) = (0, 0);
        let mut largest: Vec<(Arc<str>, usize)> = Vec::new();
        for (bytes, origin) in names.iter().rev().flatten() {
            let name = origin.name();
            (named, named_bytes) = (named + 1, named_bytes + bytes);
            match largest.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += bytes,
                None => largest.push((name, *bytes)),
            }
        }
        largest.sort_by_key(|(_, bytes)| Reverse(*bytes));
        RetainedHeap {
            largest,
            others: count - named,
            other_bytes: sum - named_bytes,
        }
    }
}

impl Locked<'_> {
    /// Ends a scope: nobody has its account any more.
    pub(super) fn end_scope(&mut self, account: Account) {
        account.drop_scope();
        if let Some(leaf) = account.leaf() {
            // The accounts of blocks stay as long as the allocator has a scope.
            let others = self.accounts(Accounts::Of(leaf)).any(Account::is_held);
            self.retire(leaf, others.then_some(account));
        } else if account.granted() == 0 {
            self.give_up(account);
        }
    }

    /// Ends all scopes of the allocators at and below a node that is about to be closed, and has been recalled.
    pub(in crate::accounting) fn retire_below(&mut self, top: NodePtr) {
        let mut next = Some(top);
        while let Some(node) = next {
            // The leaf may leave its tree, and with it its ancestors below `top`. None of them is the next node.
            next = self.next_preorder(node, top);
            if self.node(node).kind == NodeKind::Heap {
                self.retire(node, None);
                self.state(node).closed = true;
                self.reconsider(node);
            }
        }
        // Scopes elsewhere in the tree would keep it open, and with it a closed root.
        if let Some(retained) = self
            .retained()
            .filter(|&one| self.look(one).parent == Some(top))
        {
            self.state(retained).closed = true;
            self.reconsider(retained);
        }
    }

    /// Retires one account of a leaf, or all, and moves the bytes in one step.
    fn retire(&mut self, leaf: NodePtr, one: Option<Account>) {
        self.freeze(leaf);
        let is_chosen = |account: &Account| one.is_none_or(|one| one == *account);
        let chosen = self.accounts(Accounts::Of(leaf)).filter(is_chosen);
        let bytes = chosen.map(Account::granted).sum();
        if bytes > 0 && !self.move_to_retained(leaf, bytes) {
            // They stay with the leaf, which its bytes keep in the tree.
            debug_assert!(false, "what moves within a tree overflows no sum");
            self.settle(leaf);
            return;
        }
        let parent = self.look(leaf).parent;
        for account in self.accounts(Accounts::Of(leaf)).filter(is_chosen) {
            self.remove_account(Accounts::Of(leaf), account);
            if account.granted() > 0 || account.is_of_block() {
                let of = &self.node(parent.unwrap_or(leaf)).info.name;
                account.retire(of);
                self.add_account(Accounts::Retired, account);
            } else {
                account.end();
                if !account.is_held() {
                    self.give_up(account);
                }
            }
        }
        self.settle(leaf);
    }

    /// Moves bytes of a leaf, whose words are shut, to `(retained)`, which is linked if it is not yet. They are not
    /// counted as charged by force: nothing is charged that was not charged before. `false`: a sum would overflow.
    fn move_to_retained(&mut self, leaf: NodePtr, bytes: usize) -> bool {
        let Some(retained) = self.retained() else {
            return false;
        };
        self.link_retained(leaf, retained);
        let moved = self.move_through_ancestor(leaf, retained, bytes, false, |locked, freed| {
            locked.charge_exactly(retained, bytes, Mode::Forced, freed)
        });
        moved.is_ok()
    }

    /// Links the node for retired accounts below the root of a node, if it is not linked yet.
    pub(super) fn link_retained(&mut self, node: NodePtr, retained: NodePtr) {
        if !self.look(retained).linked {
            let root = self.root_of(node);
            self.link(root, retained);
            self.freeze(retained);
            self.state(retained).shut = true;
        }
    }
}

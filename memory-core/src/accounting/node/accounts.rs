//! The accounts of a heap leaf, whose words are the leaf's, and those that have retired. See
//! [`heap`](super::super::heap).

use super::super::heap::{Account, account_of};
use super::super::word::{Held, MAX_CREDIT};
use super::locked::Locked;
use super::{NodeKind, NodePtr};

/// A list of accounts.
#[derive(Clone, Copy)]
pub(in crate::accounting) enum Accounts {
    /// The live ones of a heap leaf.
    Of(NodePtr),
    /// Those of the tree that have retired and have bytes.
    Retired,
}

impl Locked<'_> {
    fn head(&mut self, list: Accounts) -> &mut u32 {
        match list {
            Accounts::Of(leaf) => &mut self.state(leaf).accounts,
            Accounts::Retired => &mut self.shared().retired,
        }
    }

    /// The first account of a list.
    pub(in crate::accounting) fn first_account(&self, list: Accounts) -> Option<Account> {
        let first = match list {
            Accounts::Of(leaf) => self.look(leaf).accounts,
            Accounts::Retired => self.shared.retired,
        };
        (first != 0).then(|| account_of(first))
    }

    /// The accounts of a list. Each may be removed once the iterator has moved on.
    pub(in crate::accounting) fn accounts(
        &self,
        list: Accounts,
    ) -> impl Iterator<Item = Account> + use<> {
        let mut next = self.first_account(list);
        std::iter::from_fn(move || {
            let account = next?;
            next = Some(account.next()).filter(|&id| id != 0).map(account_of);
            Some(account)
        })
    }

    /// Adds an account to a list. In that of a leaf the accounts of blocks stand behind the others: O(scopes) for one
    /// of a block.
    pub(in crate::accounting) fn add_account(&mut self, list: Accounts, account: Account) {
        let behind = match list {
            Accounts::Of(_) if account.is_of_block() => self.lanes(list).last(),
            _ => None,
        };
        let next = match behind {
            Some(behind) => {
                let next = behind.next();
                behind.set_next(account.id());
                next
            }
            None => std::mem::replace(self.head(list), account.id()),
        };
        account.set_next(next);
        account.set_previous(behind.map_or(0, Account::id));
        if next != 0 {
            account_of(next).set_previous(account.id());
        }
        if let Accounts::Of(leaf) = list
            && !account.is_of_block()
        {
            self.state(leaf).lanes += 1;
        }
    }

    /// The accounts of a list whose words may be open: those of scopes.
    fn lanes(&self, list: Accounts) -> impl Iterator<Item = Account> + use<> {
        self.accounts(list)
            .take_while(|account| !account.is_of_block())
    }

    /// Takes an account off its list.
    pub(in crate::accounting) fn remove_account(&mut self, list: Accounts, account: Account) {
        let (previous, next) = (account.previous(), account.next());
        match previous {
            0 => *self.head(list) = next,
            id => account_of(id).set_next(next),
        }
        if next != 0 {
            account_of(next).set_previous(previous);
        }
        if let Accounts::Of(leaf) = list
            && !account.is_of_block()
        {
            self.state(leaf).lanes -= 1;
        }
    }

    /// Shuts the word of an account of a leaf, and returns what it held, which the caller parks.
    fn shut_account(&mut self, leaf: NodePtr, account: Account) -> Held {
        let held = account.word().shut_down();
        account.set_granted(account.granted() - held.credit);
        self.state(leaf).caps -= held.external;
        Held {
            external: 0,
            ..held
        }
    }

    /// Shuts the words of all accounts of a leaf.
    pub(super) fn shut_accounts(&mut self, leaf: NodePtr) -> Held {
        let mut sum = Held::default();
        for account in self.lanes(Accounts::Of(leaf)) {
            sum = sum + self.shut_account(leaf, account);
        }
        sum
    }

    /// Shuts the word of the account of a leaf that the section is for; all, if it is for none of them. That of a block
    /// is shut.
    pub(super) fn shut_mine(&mut self, leaf: NodePtr) -> Held {
        if self.lane.is_some_and(Account::is_of_block) {
            return Held::default();
        }
        match self.lane_of(leaf) {
            Some(account) => self.shut_account(leaf, account),
            None => self.shut_accounts(leaf),
        }
    }

    /// The account that the section is for, if it is one of this leaf.
    pub(in crate::accounting) fn lane_of(&self, leaf: NodePtr) -> Option<Account> {
        let is_of_leaf = |account: &Account| account.leaf() == Some(leaf) && account.is_held();
        self.lane.filter(is_of_leaf)
    }

    /// Opens the word of the account that the section is for, if it is shut. The words of the leaf's other accounts
    /// are opened when they are next used.
    pub(super) fn open_mine(&mut self, leaf: NodePtr) {
        self.make_hard(leaf);
        let most = self.tree().config.credit;
        let lanes = self.look(leaf).lanes as usize;
        self.open_up_to(leaf, (most / lanes.max(1)).clamp(1, MAX_CREDIT));
        self.recount(leaf);
    }

    /// Opens the word of the account that the section is for with this cap, if it is shut, and says whether it is open
    /// now. It gets no more credit than half of the cap, so that it can be given some, too.
    pub(in crate::accounting) fn open_up_to(&mut self, leaf: NodePtr, cap: usize) -> bool {
        let Some(account) = self.lane_of(leaf) else {
            return false;
        };
        if account.word().is_shut() {
            let state = self.state(leaf);
            let credit = state.parked.min(cap / 2);
            state.parked -= credit;
            state.caps += cap;
            account.set_granted(account.granted() + credit);
            account.word().open(credit, cap);
        }
        true
    }

    /// The first soft leaf.
    pub(in crate::accounting) fn first_soft(&self) -> Option<NodePtr> {
        self.shared.soft
    }

    /// The soft leaf after this one.
    pub(in crate::accounting) fn next_soft(&self, leaf: NodePtr) -> Option<NodePtr> {
        self.look(leaf).next_soft
    }

    /// Puts a leaf on the list of soft ones.
    pub(in crate::accounting) fn make_soft(&mut self, leaf: NodePtr) {
        if std::mem::replace(&mut self.state(leaf).soft, true) {
            return;
        }
        let next = self.shared().soft.replace(leaf);
        self.state(leaf).next_soft = next;
        if let Some(next) = next {
            self.state(next).previous_soft = Some(leaf);
        }
    }

    /// Takes a leaf off the list of soft ones, if it is there.
    pub(in crate::accounting) fn make_hard(&mut self, leaf: NodePtr) {
        let state = self.state(leaf);
        if !std::mem::take(&mut state.soft) {
            return;
        }
        let (previous, next) = (state.previous_soft.take(), state.next_soft.take());
        match previous {
            Some(previous) => self.state(previous).next_soft = next,
            None => self.shared().soft = next,
        }
        if let Some(next) = next {
            self.state(next).previous_soft = previous;
        }
    }

    /// The root's child for retired accounts, if it is in the tree or has a handle.
    pub(in crate::accounting) fn retained(&self) -> Option<NodePtr> {
        self.shared.retained
    }

    pub(in crate::accounting) fn set_retained(&mut self, node: Option<NodePtr>) {
        self.shared().retained = node;
    }

    /// Has an account without bytes and without a scope given back, with its name, once the mutex is free.
    pub(in crate::accounting) fn leave_account(&mut self, account: Account) {
        let left = &mut self.shared().left;
        account.set_next(std::mem::replace(left, account.id()));
    }

    /// The first account that is to be given back once the mutex is free, or 0.
    pub(in crate::accounting) fn take_left(&mut self) -> u32 {
        std::mem::take(&mut self.shared().left)
    }

    /// Notes that a node has left the tree, or that its last pin was dropped and it is in none.
    #[inline]
    pub(in crate::accounting) fn forget_heap(&mut self, node: NodePtr, parent: Option<NodePtr>) {
        if self.node(node).kind != NodeKind::Allocator {
            self.forget(node, parent);
        }
    }

    #[cold]
    fn forget(&mut self, node: NodePtr, parent: Option<NodePtr>) {
        self.make_hard(node);
        debug_assert_eq!(
            self.look(node).accounts,
            0,
            "an account is left in the leaf"
        );
        match parent {
            Some(parent) if self.look(parent).heap == Some(node) => self.state(parent).heap = None,
            _ if self.retained() == Some(node) => self.set_retained(None),
            _ => {}
        }
    }

    /// The first rule that the accounts of a node for the heap break, with the numbers of both sides.
    pub(in crate::accounting) fn wrong_accounts(
        &self,
        node: NodePtr,
    ) -> Option<(&'static str, usize, usize)> {
        let list = match self.node(node).kind {
            NodeKind::Allocator => return None,
            NodeKind::Heap => Accounts::Of(node),
            NodeKind::Retained => Accounts::Retired,
        };
        let (mut granted, mut caps, mut lanes) = (0, 0, 0);
        for account in self.accounts(list) {
            let held = account.held();
            let at_home = match list {
                Accounts::Of(leaf) => account.leaf() == Some(leaf),
                Accounts::Retired => account.is_retired() && account.word().is_shut(),
            };
            if !at_home {
                return Some((
                    "an account is in the list of another node",
                    account.id() as usize,
                    0,
                ));
            }
            if held.credit > held.external || account.granted() < held.credit {
                return Some((
                    "an account has more credit than it may",
                    held.credit,
                    held.external,
                ));
            }
            granted += account.granted();
            caps += held.external;
            lanes += u32::from(!account.is_of_block());
        }
        let state = self.look(node);
        if self.node(node).kind == NodeKind::Retained {
            lanes = state.lanes;
        }
        let rules = [
            (
                "what is granted to accounts is not what is in use",
                (granted, state.used()),
            ),
            ("the caps of accounts are wrong", (caps, state.caps)),
            (
                "the number of accounts is wrong",
                (lanes as usize, state.lanes as usize),
            ),
        ];
        let (rule, (left, right)) = rules.into_iter().find(|(_, (left, right))| left != right)?;
        Some((rule, left, right))
    }
}

//! The leaf of an allocator that is charged for heap blocks, and charges and releases of its accounts under the
//! mutex.

#![expect(unsafe_code, reason = "gives up a pin")]

use std::sync::Arc;

use super::super::charge::{Mode, Plan};
use super::super::handle::Handle;
use super::super::node::{Accounts, Locked, Node, NodeConfig, NodeKind, NodePtr};
use super::super::paths::NodePath;
use super::super::refusal::Refusal;
use super::account::{Account, Taken};
use super::lanes::Lanes;
use super::table;
use crate::outcome::AllocatorInfo;
use crate::sync::current::unscoped;

/// A scope's hold on its accounts.
///
/// # Invariants
///
/// 1. `account`, and those of `lanes`, have this owner alone, until it is dropped.
/// 2. `leaf` is the leaf that the accounts began with, and `retained` the tree's node for retired accounts, which this
///    pins.
pub(crate) struct HeapHandle {
    account: Account,
    lanes: Lanes,
    leaf: Handle,
    retained: NodePtr,
}

/// Nodes that a new scope may need, made before the mutex is taken. Those that are not used are dropped after it.
struct Spare {
    leaf: Handle,
    retained: Handle,
}

/// A heap leaf for an allocator, in no tree yet.
fn spare_leaf(of: &Node) -> Handle {
    boxed(of, NodeKind::Heap, "(heap)", of.depth + 1, &of.path)
}

/// A node for the retired accounts of the tree of a node, in no tree yet.
pub(super) fn spare_retained(of: &Node) -> Handle {
    let root = of.tree.paths().root();
    boxed(of, NodeKind::Retained, "(retained)", 1, &root)
}

fn boxed(of: &Node, kind: NodeKind, name: &str, depth: usize, above: &NodePath) -> Handle {
    let config = NodeConfig {
        kind,
        name: Arc::from(name),
        group: None,
        limit: usize::MAX,
        reservation: 0,
        priority: 0,
        in_reserve: kind == NodeKind::Heap && of.in_reserve,
        listener: None,
        policy: None,
    };
    let path = of.tree.paths().child(above, &config.name);
    Handle(NodePtr::leak(Node::boxed(
        config,
        of.tree.clone(),
        depth,
        path,
    )))
}

impl HeapHandle {
    /// An account for a scope of an allocator.
    pub(crate) fn open(of: &Handle) -> Result<Self, Box<Refusal>> {
        unscoped(|| {
            let Some(account) = table::take() else {
                return Err(Box::new(Refusal::Overflow(of.info.clone())));
            };
            let spare = Spare {
                leaf: spare_leaf(of),
                retained: spare_retained(of),
            };
            let opened = of.tree.lock().open_heap(of.ptr(), account, &spare);
            match opened {
                Ok((leaf, retained)) => Ok(Self {
                    account,
                    lanes: Lanes::default(),
                    leaf,
                    retained,
                }),
                Err(refusal) => {
                    table::give_back(account);
                    Err(Box::new(refusal))
                }
            }
        })
    }

    /// The first account.
    #[cfg(all(test, loom))]
    pub(crate) fn account(&self) -> Account {
        self.account
    }

    /// The account for a thread: see [`Lanes::account_of`].
    #[inline]
    pub(crate) fn account_of_thread(&self, thread: usize) -> Account {
        self.lanes.account_of(thread, self.account, &self.leaf)
    }

    /// The first level, from the leaf upwards, that is over its limit, if a charge of the allocator's scopes found
    /// one since this last answered `None`: its name, its limit and what it uses.
    pub(crate) fn over(&self) -> Option<(AllocatorInfo, usize, usize)> {
        // Relaxed: a hint, which is looked at again under the mutex.
        if !self.leaf.was_over() {
            return None;
        }
        self.leaf.tree.lock().first_over(self.leaf.ptr())
    }
}

impl Drop for HeapHandle {
    fn drop(&mut self) {
        let mut locked = self.leaf.tree.lock();
        locked.end_scope(self.account);
        for account in self.lanes.others() {
            locked.end_scope(account);
        }
        let (departures, left) = (locked.take_departures(), locked.take_left());
        drop(locked);
        departures.tell_quietly();
        table::give_back_all(left);
        // SAFETY: by invariant 2 the pin is ours, and is given up once.
        unsafe { self.retained.unpin() };
    }
}

impl Locked<'_> {
    /// Begins the life of an account below an allocator, and finds or links the nodes that it needs.
    fn open_heap(
        &mut self,
        of: NodePtr,
        account: Account,
        spare: &Spare,
    ) -> Result<(Handle, NodePtr), Refusal> {
        if self.look(of).closed || !self.look(of).linked {
            return Err(Refusal::Closed(self.node(of).info.clone()));
        }
        let leaf = match self.look(of).heap {
            Some(leaf) => leaf,
            None => {
                self.adopt(of, spare.leaf.ptr(), false)?;
                self.state(of).heap = Some(spare.leaf.ptr());
                spare.leaf.ptr()
            }
        };
        let retained = self.retained().unwrap_or_else(|| spare.retained.ptr());
        self.set_retained(Some(retained));
        self.node(retained).add_pin();
        account.begin(self.tree(), leaf);
        self.add_account(Accounts::Of(leaf), account);
        Ok((self.handle(leaf), retained))
    }

    /// Charges `bytes` to an account, whatever the limits say.
    pub(super) fn charge_heap(&mut self, account: Account, bytes: usize) -> Taken {
        match account.leaf() {
            Some(leaf) => self.charge_leaf(leaf, account, bytes),
            None => Taken::Ended, // the scope, or its allocator, has ended
        }
    }

    /// Charges `bytes` for a block that an account already pays for and that grows.
    pub(super) fn charge_more(&mut self, account: Account, bytes: usize) -> Taken {
        if let Some(leaf) = account.leaf() {
            return self.charge_leaf(leaf, account, bytes);
        }
        match self.retained() {
            Some(retained) if account.is_retired() => self.force_heap(retained, account, bytes),
            _ => Taken::Ended,
        }
    }

    fn charge_leaf(&mut self, leaf: NodePtr, account: Account, bytes: usize) -> Taken {
        // Where room is withheld, nothing is obtained beyond what is asked.
        let withholds = self.waits && self.queue().withholds();
        if !withholds && !self.look(leaf).shut && self.charge_with_quantum(leaf, bytes) {
            account.set_granted(account.granted() + bytes);
            return Taken::Charged;
        }
        let taken = self.force_heap(leaf, account, bytes);
        self.open_soft(leaf);
        if self.look(leaf).shut && self.look(leaf).parked > 0 {
            // Its word was not opened, or not with all of it.
            self.settle(leaf);
        }
        taken
    }

    /// Charges `bytes` of an account to a node, whatever the limits say. Only a sum that would overflow stops it.
    ///
    /// A leaf that is shut gets some credit besides, as long as no level becomes tight for that. Over a limit it is
    /// counted as forced, too: what is charged from it is not counted again.
    fn force_heap(&mut self, node: NodePtr, account: Account, bytes: usize) -> Taken {
        let softens = self.lane_of(node).is_some() && self.look(node).shut;
        let mut extra = if softens { self.soft_cap(node) / 2 } else { 0 };
        let mut exact = None;
        let over = loop {
            let wanted = bytes.saturating_add(extra);
            match self.plan(node, wanted, Mode::Forced, &[], exact) {
                Plan::Fits { top, over } => {
                    if self.waits {
                        self.note_passing(node, bytes, extra, &[]);
                    }
                    self.commit(node, bytes, extra);
                    account.set_granted(account.granted() + bytes);
                    self.thaw(node, top);
                    break over;
                }
                Plan::Short { .. } if extra > 0 => extra = 0,
                Plan::Short { at, .. } if !self.look(at).tight => {
                    self.recall(at);
                    exact = Some(at);
                }
                Plan::Short { at, .. } | Plan::Closed { at } => {
                    self.thaw(node, at);
                    return Taken::Ended;
                }
            }
        };
        if !over {
            return Taken::Charged;
        }
        self.count_forced(node, bytes.saturating_add(extra));
        self.node(node).set_was_over(true);
        Taken::Over
    }

    /// Gives back `bytes` that are charged to an account.
    pub(super) fn release_heap(&mut self, account: Account, bytes: usize) {
        let leaf = account.leaf();
        let list = leaf.map_or(Accounts::Retired, Accounts::Of);
        let Some(node) = leaf.or_else(|| self.retained()) else {
            // The bytes of a retired account keep the node.
            debug_assert!(false, "an account with bytes has no node");
            return;
        };
        account.set_granted(account.granted() - bytes);
        // A section that is for an account of a block looks at it, so before it ends.
        self.freeze_mine(node);
        self.end_if_empty(list, account);
        self.state(node).parked += bytes;
        if leaf.is_some() {
            self.open_soft(node);
        }
        self.settle(node);
        self.reconsider(node);
    }

    /// Takes an account off its list if it has no bytes, and no scope may charge more to it.
    pub(super) fn end_if_empty(&mut self, list: Accounts, account: Account) {
        if account.granted() == 0 && (account.is_retired() || !account.is_held()) {
            self.remove_account(list, account);
            if !account.is_held() {
                // From here on the account may be another scope's.
                self.give_up(account);
            }
        }
    }

    /// Gives back an account that has no bytes, no list and no scope.
    pub(super) fn give_up(&mut self, account: Account) {
        if account.shares_name() {
            self.leave_account(account);
        } else {
            account.end();
            table::give_back(account);
        }
    }

    /// The first level from a leaf upwards that is over its limit; if there is none, the leaf's mark is taken away.
    fn first_over(&mut self, leaf: NodePtr) -> Option<(AllocatorInfo, usize, usize)> {
        let mut next = Some(leaf);
        while let Some(at) = next {
            let used = self.allocated(at);
            let state = self.look(at);
            if used > state.bound() {
                return Some((self.node(at).info.clone(), state.bound(), used));
            }
            next = state.parent;
        }
        self.node(leaf).set_was_over(false);
        None
    }
}

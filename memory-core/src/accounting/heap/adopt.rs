//! Blocks of the program's heap that are adopted: ledgers are charged for parts of them.
//!
//! # The problem
//!
//! An array that is built in a scope lies in blocks that the scope's account pays for. When it is adopted, a ledger is
//! charged for each of its buffers. If both were charged, the memory would count twice; if the account were given its
//! bytes back, nobody would pay once the ledger ends and a clone of the array lives on. So the bytes of a block *move*:
//! from its account to the ledger, and back to the account when the ledger ends, before the block can be freed.
//!
//! Several buffers may lie in one block, such as slices of a page, and each has a ledger that can be transferred by
//! itself. So each ledger takes the bytes of its part. What is left of the block stays with the account: of parts
//! that overlap, the later ones find fewer bytes, and the rest of their size is charged anew. When a ledger ends, the
//! account gets back only what the other ledgers are not charged for: for a block of N bytes, of which ledgers are
//! charged for S, the tree is charged for the larger of the two, in whatever order the ledgers began and end.
//!
//! Therefore a block gets an account of its own when a part of it is first adopted: what that has is what no ledger
//! has. Only the label changes. The new account stands where the one stood that paid before: in its leaf, behind the
//! accounts of scopes, or among the retired. It has no scope, and its word stays shut.
//!
//! # Invariants
//!
//! Of a block of N bytes:
//!
//! * **P1** While ledgers are charged for S bytes of it, its account has N - S, or none if S is larger. After the first
//!   adoption the account has the bytes of no other block.
//! * **P2** The bytes, the label and the numbers of the nodes on both sides change in one section under the mutex. So
//!   no reader, limit or request misses a byte, and none sees one twice but where S is larger than N.
//! * **P3** Each part is returned before the adoption drops what keeps the block, also one for which no bytes moved. So
//!   S is 0 when the block is freed, and whoever frees it gives N bytes to the account that the label names, which has
//!   them.
//! * **P4** The account of a block is given back when the block is freed, and not before. It stays where it is while it has
//!   no bytes, too. When the last scope of a leaf ends, all accounts there retire, so none is left in a leaf that leaves
//!   the tree; and one that is retired keeps its name. So bytes come back to where they would be if nobody had adopted
//!   them.
//! * **P5** The tree that pays for a block is always the same. So while this tree's mutex is held, a label of one of its
//!   accounts does not change, and no label of another tree's account comes to look like one.
//! * **P6** An adoption that is refused moves nothing. The blocks may have accounts of their own by then.
//!
//! # The same memory twice
//!
//! S is larger than N where parts overlap that are not known to be the same memory: slices of one block that start at
//! different addresses. It is so also for an instant, where a thread adopts memory anew while an adoption of it ends on
//! another thread. Both charges then count until the one that ends is given up, and a limit may refuse the new one,
//! although it would fit an instant later. At rest, memory that is adopted once is charged once.
#![expect(unsafe_code, reason = "gives bytes back to where they came from")]

use std::ptr;

use super::super::charge::Mode;
use super::super::handle::Handle;
use super::super::node::{Accounts, Locked, NodePtr};
use super::super::refusal::Refusal;
use super::account::Account;
use super::labels::{Label, Labels};
use super::leaf::spare_retained;
use super::table::{self, account as account_of};
use crate::sync::current::unscoped;
use crate::sync::{Ordering, plain};

/// Bytes of blocks that ledgers are charged for, in all trees.
static MOVED: plain::AtomicUsize = plain::AtomicUsize::new(0);

/// Bytes of live blocks that were charged to scopes: to all accounts of the process, and to the ledgers that have
/// adopted parts of blocks. Each account is read at another instant.
pub fn attributed() -> usize {
    // Relaxed: a number for readers.
    let moved = MOVED.load(Ordering::Relaxed);
    table::charged().saturating_add(moved)
}

/// A part of an attributed block that is to be adopted.
#[derive(Debug)]
pub struct Piece {
    block: Label,
    /// The size of the part in bytes.
    size: usize,
    /// The account of the block, once a ledger is charged for the part.
    account: Option<Account>,
    /// How many bytes have moved from the account, and the node that was charged for them, in the section that moves
    /// them.
    moved: usize,
    source: Option<NodePtr>,
    /// An account for the block, if it has none of its own yet.
    spare: Option<Account>,
}

/// A part of a block that a ledger is charged for: to be returned before the block is freed. Its bytes have moved from
/// the block to the ledger's node, but for those that other ledgers were charged for already.
#[derive(Debug)]
#[must_use = "these bytes are to be returned"]
pub struct Moved {
    /// The address of the block.
    start: usize,
    bytes: usize,
}

impl Piece {
    /// A part of `size` bytes of the block with this label.
    pub fn new(block: Label, size: usize) -> Self {
        Self {
            block,
            size,
            account: None,
            moved: 0,
            source: None,
            spare: None,
        }
    }

    /// The part, for whoever returns it, if its block's account knows of it.
    pub fn take(&mut self) -> Option<Moved> {
        let (start, bytes) = (self.block.start, self.size);
        self.account.take().map(|_| Moved { start, bytes })
    }
}

impl Moved {
    /// How many bytes these are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        debug_assert!(
            self.account.is_none(),
            "a part that was adopted was not taken"
        );
        if let Some(spare) = self.spare.take() {
            table::give_back(spare);
        }
    }
}

impl Handle {
    /// Charges `bytes` to the node, and takes from the program's heap what it pays for the pieces, in one step. With
    /// `forced`, whatever the limits say, and the answer is whether no level is over its limit afterwards.
    ///
    /// Of each piece, what moved is to be returned: see [`return_to_heap`].
    pub(crate) fn adopt_pieces(
        &self,
        bytes: usize,
        pieces: &mut [Piece],
        labels: &dyn Labels,
        forced: bool,
    ) -> Result<bool, Box<Refusal>> {
        for piece in &mut *pieces {
            piece.spare = piece.spare.take().or_else(|| unscoped(table::take));
        }
        let mode = if forced { Mode::Forced } else { Mode::TRY };
        // Room for each level of the path, so that it does not grow under the mutex.
        let mut freed = unscoped(|| Vec::with_capacity(self.depth + 1));
        let mut locked = self.tree.lock();
        let adopted = locked.adopt_pieces(self.ptr(), bytes, pieces, labels, mode, &mut freed);
        let (departures, left) = (locked.take_departures(), locked.take_left());
        drop(locked);
        departures.tell_quietly();
        table::give_back_all(left);
        // Boxed with the mutex released.
        adopted.map_err(Box::new)
    }
}

/// Returns a part of a block, which is charged to `node`, to the block's account. The answer is how many bytes went
/// there. The others were charged for other ledgers too, and stay charged to the node, for the caller.
///
/// # Safety
///
/// The bytes are charged to the node, for the caller, who gives up those that go and keeps the node by other means. The
/// block is live until this returns.
pub(crate) unsafe fn return_to_heap(node: NodePtr, moved: &Moved, labels: &dyn Labels) -> usize {
    // SAFETY: the caller keeps the node.
    let this = unsafe { node.node() };
    let mut spare = None;
    loop {
        let mut locked = this.tree.lock();
        let returned = locked.return_to_heap(node, moved, labels, spare.as_ref());
        if returned.is_some() {
            // A closed node may leave with these bytes, although the caller keeps it in memory.
            locked.reconsider(node);
        }
        let departures = locked.take_departures();
        drop(locked);
        departures.tell_quietly();
        if let Some(returned) = returned {
            return returned;
        }
        spare = Some(unscoped(|| spare_retained(this)));
    }
}

impl Locked<'_> {
    fn adopt_pieces(
        &mut self,
        to: NodePtr,
        bytes: usize,
        pieces: &mut [Piece],
        labels: &dyn Labels,
        mode: Mode,
        freed: &mut Vec<(NodePtr, usize)>,
    ) -> Result<bool, Refusal> {
        // Forced bytes may come to a closed allocator, as elsewhere.
        let state = self.look(to);
        let refuses = match mode {
            Mode::Forced => !state.linked,
            _ => state.closed,
        };
        if refuses {
            return Err(Refusal::Closed(self.node(to).info.clone()));
        }
        self.look_closely(to, bytes);
        for piece in &mut *pieces {
            self.take_bytes(piece, labels);
        }
        for (from, bytes) in sources(pieces) {
            let (common, bytes) = self.lift(from, to, bytes);
            // A request that uses what the sources have freed is no new work: see `Freed`.
            let known = freed.iter().position(|&(place, _)| place == common);
            match known {
                Some(known) => freed[known].1 += bytes,
                None if freed.len() < freed.capacity() => freed.push((common, bytes)),
                None => debug_assert!(false, "more common ancestors than levels"),
            }
        }
        let charged = match bytes {
            0 => Ok(false),
            _ => self.charge_exactly(to, bytes, mode, freed),
        };
        let charged = charged.map_err(|refused| {
            // Nothing was opened since: the free bytes are all there, up to the common ancestors or to the refuser.
            for (from, bytes) in sources(pieces) {
                self.freeze(from);
                self.commit(from, bytes, 0);
            }
            self.end(to, refused)
        });
        for (from, _) in sources(pieces) {
            let common = self.common_ancestor(from, to);
            self.settle_lifted(from, common);
        }
        for piece in pieces {
            self.end_piece(piece, charged.is_ok());
        }
        if charged.is_ok() && mode == Mode::Forced {
            self.count_forced(to, bytes);
        }
        charged.map(|over| !over)
    }

    /// Takes the bytes of a piece from the block's account, if that is one of this tree and has any left. The node that
    /// is charged for them is not told yet.
    fn take_bytes(&mut self, piece: &mut Piece, labels: &dyn Labels) {
        let id = labels.id(piece.block.start);
        if id == 0 {
            return;
        }
        let mut account = account_of(id);
        // By P5.
        if !ptr::eq(account.tree(), self.tree()) {
            return;
        }
        if !account.is_of_block() {
            let Some(own) = piece.spare.take() else {
                return;
            };
            if account.granted() < piece.block.size {
                debug_assert!(false, "an account pays for less than a block of its label");
                piece.spare = Some(own);
                return;
            }
            self.split_off(account, own, piece.block.size);
            let relabelled = labels.relabel(piece.block.start, id, own.id());
            debug_assert!(relabelled, "a label has changed without the mutex");
            account = own;
        }
        // If the account has bytes, it has a node (H2).
        let node = account.leaf().or_else(|| self.retained());
        let moved = account.change_uncovered(-piece.size.cast_signed());
        debug_assert!(moved == 0 || node.is_some());
        piece.account = Some(account);
        piece.moved = moved;
        piece.source = node.filter(|_| moved > 0);
    }

    /// Gives a block of `size` bytes, which `payer` pays for, the account `own`, in the same place.
    fn split_off(&mut self, payer: Account, own: Account, size: usize) {
        let list = payer.leaf().map_or(Accounts::Retired, Accounts::Of);
        own.begin_for_block(payer);
        own.set_granted(size);
        self.add_account(list, own);
        payer.set_granted(payer.granted() - size);
        self.end_if_empty(list, payer);
    }

    /// Ends the move of a piece, and undoes it if it was refused.
    fn end_piece(&mut self, piece: &mut Piece, adopted: bool) {
        let moved = std::mem::take(&mut piece.moved);
        if adopted {
            // Relaxed: a number for readers.
            MOVED.fetch_add(moved, Ordering::Relaxed);
        } else if let Some(account) = piece.account.take() {
            // Of several pieces of a block, one may put back what another one took; the sum is the same.
            account.change_uncovered(piece.size.cast_signed());
        }
        if let Some(node) = piece.source.take() {
            self.reconsider(node);
        }
    }

    /// Returns a part of a block to the block's account, and how many bytes went there. `None`: nothing has changed,
    /// and a spare node is needed.
    fn return_to_heap(
        &mut self,
        node: NodePtr,
        moved: &Moved,
        labels: &dyn Labels,
        spare: Option<&Handle>,
    ) -> Option<usize> {
        let account = account_of(labels.id(moved.start));
        debug_assert!(account.is_of_block());
        let part = moved.bytes.cast_signed();
        let bytes = account.change_uncovered(part);
        if bytes == 0 {
            return Some(0);
        }
        let Some(to) = self.home_of(account, node, spare) else {
            account.change_uncovered(-part);
            return None;
        };
        // Relaxed: a number for readers.
        MOVED.fetch_sub(bytes, Ordering::Relaxed);
        let result = self.move_through_ancestor(node, to, bytes, false, |locked, freed| {
            locked.charge_exactly(to, bytes, Mode::Forced, freed)
        });
        debug_assert!(result.is_ok(), "a sum that was there overflows");
        if self.reaches_one_over(to, bytes) {
            self.node(to).set_was_over(true);
        }
        Some(bytes)
    }

    /// The node for bytes that come back to the account of a block; `None`: there is none, and none to spare.
    fn home_of(
        &mut self,
        account: Account,
        node: NodePtr,
        spare: Option<&Handle>,
    ) -> Option<NodePtr> {
        if let Some(leaf) = account.leaf() {
            return Some(leaf);
        }
        debug_assert!(account.is_retired());
        let retained = match self.retained() {
            Some(retained) => retained,
            None => {
                let spare = spare?.ptr();
                self.set_retained(Some(spare));
                // Nobody is to be told that it outlives its handle.
                self.state(spare).outlived = true;
                spare
            }
        };
        self.link_retained(node, retained);
        Some(retained)
    }
}

/// The nodes that bytes of the pieces come from, and how many; a node may come more than once.
fn sources(pieces: &[Piece]) -> impl Iterator<Item = (NodePtr, usize)> {
    let runs = pieces.chunk_by(|a, b| a.source == b.source);
    runs.filter_map(|run| {
        let bytes = run.iter().map(|piece| piece.moved).sum();
        Some((run.first()?.source?, bytes))
    })
}

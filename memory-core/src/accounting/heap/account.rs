//! Accounts, and the operations on them that need no mutex.
#![expect(
    unsafe_code,
    reason = "a name is kept as the pointer of its `Arc`; what is promised for a release has no type"
)]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::super::node::{Node, NodePtr, Tree};
use super::super::word::{Held, Kind, Slow, Word};
use crate::sync::{AtomicPtr, Ordering, plain};

/// Outcome of a charge to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The bytes are charged.
    Charged,
    /// The bytes are charged, and a level is over its limit now, or at least so close to it that credit which the
    /// program's heap holds makes it look so.
    Over,
    /// Nothing is charged: the account's scope has ended, or the mutex must not be taken here.
    Ended,
}

/// An account: who pays for heap blocks. It is a place in a table that is never freed, so an `Account` can be kept
/// and called at any time; what must hold for it is said at each function.
#[derive(Clone, Copy)]
pub struct Account(&'static Slot);

/// The two bits that say what the account is, if anything.
const STATE: u64 = 3;
/// The account is live: `node` is its leaf, and its word may be open.
const LIVE: u64 = 1;
/// The account is retired: the rest of the tail, and `node`, have its name.
const RETIRED: u64 = 2;
/// The account is retired, and its name is an `Arc<str>`: `node` is its address, and the rest of the tail its length.
const SHARED: u64 = LIVE | RETIRED;
/// A scope has the account.
const HELD: u64 = 4;
/// The account is that of one block. Its word stays shut.
const OF_BLOCK: u64 = 8;
/// Where the length of a name that is stored in place is.
const LENGTH_SHIFT: u32 = 4;
/// Where the rest of the tail is.
const REST_SHIFT: u32 = 8;

/// Bytes of a name that fit into the place of a pointer, and with the seven of the tail.
const IN_POINTER: usize = size_of::<usize>();
const IN_PLACE: usize = IN_POINTER + 7;

/// The memory of an account: one cache line.
///
/// All but the word and what is parked is touched under the mutex of the account's tree, or while nobody has the
/// account. They are atomics so that readers of sums need no lock, and because no reference to a part of them is
/// unique; the mutex orders them.
#[repr(C, align(64))]
pub(super) struct Slot {
    word: Word,
    /// Bytes that are in the word or with its users. In the account of a block it is negative, in two's complement,
    /// while ledgers are charged for more bytes of the block than it has.
    granted: plain::AtomicUsize,
    /// The tree; valid while a scope has the account or bytes are charged to it.
    tree: AtomicPtr<Tree>,
    /// The leaf while live; a part of the name while retired.
    node: plain::AtomicPtr<Node>,
    /// The neighbours in the list of the leaf, of the retired, or (`next` alone) of free accounts.
    next: plain::AtomicU32,
    previous: plain::AtomicU32,
    id: u32,
    /// The next account to which parked bytes are owed.
    pub(super) next_owed: plain::AtomicU32,
    /// Bytes that were parked.
    pub(super) owed: plain::AtomicUsize,
    /// Flags in the lowest eight bits; above them a part of the name while retired.
    tail: plain::AtomicU64,
}

#[cfg(all(not(loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    pub(super) fn new(id: u32) -> Self {
        Self {
            word: Word::shut(),
            granted: plain::AtomicUsize::new(0),
            tree: AtomicPtr::new(ptr::null_mut()),
            node: plain::AtomicPtr::new(ptr::null_mut()),
            next: plain::AtomicU32::new(0),
            previous: plain::AtomicU32::new(0),
            id,
            next_owed: plain::AtomicU32::new(0),
            owed: plain::AtomicUsize::new(0),
            tail: plain::AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.id())
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Account {}

impl Account {
    /// Charges `bytes` (at least 1) if the account's credit suffices. `false`: nothing is charged, and
    /// [`take_slowly`](Self::take_slowly) must decide.
    ///
    /// It takes no lock, allocates nothing and cannot unwind. For an account that has ended the answer is `false`.
    #[inline]
    #[must_use]
    pub fn take(self, bytes: usize) -> bool {
        match self.0.word.try_take(bytes, Kind::Heap) {
            Ok(()) => true,
            Err(Slow::Mutex) => false,
            Err(Slow::Collision) => self.take_again(bytes),
        }
    }

    #[cold]
    fn take_again(self, bytes: usize) -> bool {
        self.0.word.take(bytes, Kind::Heap)
    }

    /// Gives back `bytes` (at least 1) if the account's word has room for them. `false`: nothing is given back, and
    /// [`give_slowly`](Self::give_slowly) must do it.
    ///
    /// It takes no lock, frees nothing and cannot unwind.
    ///
    /// # Safety
    ///
    /// `bytes` are charged to this account, and the caller gives them up if the answer is `true`.
    #[inline]
    #[must_use]
    pub unsafe fn give(self, bytes: usize) -> bool {
        match self.0.word.try_give(bytes, 0, Kind::Heap) {
            Ok(()) => true,
            Err(Slow::Mutex) => false,
            Err(Slow::Collision) => self.give_again(bytes),
        }
    }

    #[cold]
    fn give_again(self, bytes: usize) -> bool {
        self.0.word.give(bytes, 0, Kind::Heap)
    }

    /// The account's number: at least 1, and below `1 << ID_BITS`.
    #[inline]
    pub fn id(self) -> u32 {
        self.0.id
    }

    pub(super) fn from_slot(slot: &'static Slot) -> Self {
        Self(slot)
    }

    pub(super) fn slot(self) -> &'static Slot {
        self.0
    }

    /// The address, for the thread-local that knows no accounts.
    #[inline]
    pub(super) fn as_ptr(self) -> *const () {
        ptr::from_ref(self.0).cast()
    }

    /// # Safety
    ///
    /// The address is null, or what `as_ptr` returned.
    #[inline]
    pub(super) unsafe fn from_ptr(address: *const ()) -> Option<Self> {
        // SAFETY: slots are never freed.
        unsafe { address.cast::<Slot>().as_ref() }.map(Self)
    }
}

/// Everything below is for holders of the mutex of the account's tree, and for an account that nobody has.
/// Relaxed, all: the mutex, or the lock of the list of free accounts, orders them.
impl Account {
    /// Begins the life of a free account, for a scope of an allocator with this leaf.
    pub(in crate::accounting) fn begin(self, tree: &Tree, leaf: NodePtr) {
        let slot = self.0;
        debug_assert!(slot.word.is_shut() && self.granted() == 0);
        slot.tree
            .store(ptr::from_ref(tree).cast_mut(), Ordering::Relaxed);
        slot.node.store(leaf.as_ptr().as_ptr(), Ordering::Relaxed);
        slot.tail.store(LIVE | HELD, Ordering::Relaxed);
    }

    /// The tree. Valid while a scope has the account or bytes are charged to it.
    pub(super) fn tree(self) -> *const Tree {
        // Written before the id was first used, and whoever calls this has learnt the id since.
        self.0.tree.load(Ordering::Relaxed)
    }

    /// Begins the life of a free account for one block of `payer`, in the state that `payer` is in.
    pub(super) fn begin_for_block(self, payer: Self) {
        let slot = self.0;
        debug_assert!(slot.word.is_shut() && self.granted() == 0);
        slot.tree.store(payer.tree().cast_mut(), Ordering::Relaxed);
        if let Some(Origin::Shared(name)) = payer.is_retired().then(|| payer.origin()) {
            // `take_name` gives up this count.
            std::mem::forget(name);
        }
        let node = payer.0.node.load(Ordering::Relaxed);
        slot.node.store(node, Ordering::Relaxed);
        let tail = payer.0.tail.load(Ordering::Relaxed) & !HELD;
        slot.tail.store(tail | OF_BLOCK, Ordering::Relaxed);
    }

    fn has(self, flag: u64) -> bool {
        self.0.tail.load(Ordering::Relaxed) & flag != 0
    }

    fn state(self) -> u64 {
        self.0.tail.load(Ordering::Relaxed) & STATE
    }

    /// The leaf, unless the account has retired or ended.
    pub(in crate::accounting) fn leaf(self) -> Option<NodePtr> {
        let is_live = self.state() == LIVE;
        let node = is_live.then(|| self.0.node.load(Ordering::Relaxed))?;
        NonNull::new(node).map(NodePtr::from_ptr)
    }

    /// Whether the account is that of one block: see [`adopt`](super::adopt).
    pub(in crate::accounting) fn is_of_block(self) -> bool {
        self.has(OF_BLOCK)
    }

    /// Whether the account's bytes are in `(retained)`.
    pub(in crate::accounting) fn is_retired(self) -> bool {
        self.has(RETIRED)
    }

    /// Whether a scope has the account.
    pub(in crate::accounting) fn is_held(self) -> bool {
        self.has(HELD)
    }

    /// Notes that no scope has the account any more.
    pub(in crate::accounting) fn drop_scope(self) {
        self.0.tail.fetch_and(!HELD, Ordering::Relaxed);
    }

    /// Notes that the account has no leaf and no bytes; a scope may still have it.
    pub(in crate::accounting) fn end(self) {
        debug_assert!(self.0.word.is_shut());
        self.0.tail.fetch_and(HELD, Ordering::Relaxed);
        self.0.node.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Notes that the account's bytes are in `(retained)`, and the name of the allocator that it came from.
    pub(in crate::accounting) fn retire(self, name: &Arc<str>) {
        debug_assert!(self.0.word.is_shut() && (self.granted() > 0 || self.is_of_block()));
        let (node, flags, rest) = if name.len() <= IN_PLACE {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            let (start, end) = bytes.split_at(IN_POINTER);
            let mut front = [0; IN_POINTER];
            front.copy_from_slice(start);
            let mut rest = [0; 8];
            rest[..7].copy_from_slice(&end[..7]);
            let length = (name.len() as u64) << LENGTH_SHIFT;
            let node = ptr::without_provenance_mut(usize::from_ne_bytes(front));
            (node, length, u64::from_le_bytes(rest))
        } else {
            let address = Arc::into_raw(Arc::clone(name));
            (address.cast::<Node>().cast_mut(), SHARED, name.len() as u64)
        };
        self.0.node.store(node, Ordering::Relaxed);
        let kept = self.0.tail.load(Ordering::Relaxed) & (HELD | OF_BLOCK);
        let tail = kept | RETIRED | flags | rest << REST_SHIFT;
        self.0.tail.store(tail, Ordering::Relaxed);
    }

    /// The name of a retired account, if it is shared: to be dropped with no lock held. The account ends with it.
    pub(in crate::accounting) fn take_name(self) -> Option<Arc<str>> {
        let tail = self.0.tail.load(Ordering::Relaxed);
        let name = (tail & STATE == SHARED).then(|| {
            let length = (tail >> REST_SHIFT) as usize;
            let start = self
                .0
                .node
                .load(Ordering::Relaxed)
                .cast::<u8>()
                .cast_const();
            // SAFETY: `retire` made it by `Arc::into_raw` of a name with this length; the flag is cleared below.
            unsafe { Arc::from_raw(ptr::slice_from_raw_parts(start, length) as *const str) }
        });
        self.end();
        name
    }

    /// Whether the name of a retired account is shared.
    pub(in crate::accounting) fn shares_name(self) -> bool {
        self.state() == SHARED
    }

    /// A copy of the name of a retired account. Allocates nothing.
    pub(in crate::accounting) fn origin(self) -> Origin {
        let tail = self.0.tail.load(Ordering::Relaxed);
        let node = self.0.node.load(Ordering::Relaxed);
        if tail & STATE == SHARED {
            let length = (tail >> REST_SHIFT) as usize;
            let name =
                ptr::slice_from_raw_parts(node.cast::<u8>().cast_const(), length) as *const str;
            // SAFETY: as in `take_name`, which is not called meanwhile: the mutex is held. The account keeps its
            // count.
            unsafe { Arc::increment_strong_count(name) };
            // SAFETY: this takes over the count just added.
            return Origin::Shared(unsafe { Arc::from_raw(name) });
        }
        let mut bytes = [0; 16];
        let (front, end) = bytes.split_at_mut(IN_POINTER);
        front.copy_from_slice(&node.addr().to_ne_bytes());
        end[..7].copy_from_slice(&(tail >> REST_SHIFT).to_le_bytes()[..7]);
        let length = (tail >> LENGTH_SHIFT & 15) as usize;
        Origin::InPlace { bytes, length }
    }

    /// Bytes that are in the word or with its users.
    pub(in crate::accounting) fn granted(self) -> usize {
        let granted = self.0.granted.load(Ordering::Relaxed).cast_signed();
        granted.max(0).cast_unsigned()
    }

    /// Changes the number of bytes of the account's block that no ledger is charged for. Returns by how many bytes
    /// `granted` has changed.
    pub(super) fn change_uncovered(self, change: isize) -> usize {
        let before = self.granted();
        // No sum of charges passes `isize::MAX`, so this does not pass `isize::MIN`.
        let uncovered = self.0.granted.load(Ordering::Relaxed);
        let uncovered = uncovered.wrapping_add_signed(change);
        self.set_granted(uncovered);
        self.granted().abs_diff(before)
    }

    /// Changes `granted`, under the mutex.
    pub(in crate::accounting) fn set_granted(self, bytes: usize) {
        self.0.granted.store(bytes, Ordering::Relaxed);
    }

    /// What the word holds now; its external field is the cap.
    pub(in crate::accounting) fn held(self) -> Held {
        self.0.word.held()
    }

    /// The word.
    pub(in crate::accounting) fn word(self) -> &'static Word {
        &self.0.word
    }

    /// The next account in its list, or 0.
    pub(in crate::accounting) fn next(self) -> u32 {
        self.0.next.load(Ordering::Relaxed)
    }

    pub(in crate::accounting) fn set_next(self, id: u32) {
        self.0.next.store(id, Ordering::Relaxed);
    }

    /// The previous account in its list, or 0.
    pub(in crate::accounting) fn previous(self) -> u32 {
        self.0.previous.load(Ordering::Relaxed)
    }

    pub(in crate::accounting) fn set_previous(self, id: u32) {
        self.0.previous.store(id, Ordering::Relaxed);
    }
}

/// The name of the allocator that a retired account came from.
pub(in crate::accounting) enum Origin {
    InPlace { bytes: [u8; 16], length: usize },
    Shared(Arc<str>),
}

impl Origin {
    /// The name. Allocates: not under the mutex.
    pub(in crate::accounting) fn name(&self) -> Arc<str> {
        match self {
            Self::InPlace { bytes, length } => {
                Arc::from(String::from_utf8_lossy(&bytes[..*length]).as_ref())
            }
            Self::Shared(name) => Arc::clone(name),
        }
    }
}

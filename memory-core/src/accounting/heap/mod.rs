//! The bytes of the program's own heap: accounts, and the leaf of an allocator that is charged for them.
//!
//! # The problem
//!
//! A global allocator that attributes blocks to allocators charges on the path of `malloc` and releases on that of
//! `free`: on any thread, at any time, also after the allocator and its whole tree are gone. So it must not hold
//! pointers to nodes. It holds *accounts*. An account is an entry of a table that is never freed, known by its
//! number, the id; the id is what the global allocator notes for each block.
//!
//! An account has a word, by the protocol of [`accounting`](super) and with the cost of one compare-exchange. The
//! bytes of all accounts of an allocator's scopes stand in one child of the allocator, its *heap leaf*, named
//! `(heap)`. The leaf is an ordinary node without a limit and without a listener, whose words are those of its
//! accounts. A charge of an account is never refused for a limit, since infallible code asks for it: it is forced.
//!
//! # The numbers
//!
//! *granted* of an account is the bytes that were put into its word or handed to its users and have not come back.
//! So what is charged to its users is B = granted - credit.
//!
//! # Invariants
//!
//! * **H1** The sum of `granted` over the accounts of a leaf is the leaf's `used`. Each step that opens or shuts a
//!   word, charges or releases changes both, under the mutex. `verify` checks it.
//! * **H2** An account has a node while B > 0: its leaf while it is *live*, and the root's child `(retained)` once it
//!   is *retired*. The bytes keep the node in its tree, and so the tree.
//! * **H3** An account is used again only after B was 0 under the mutex, and no scope has it. Nobody touches an
//!   account after it gave the last of its bytes back, so no late release can meet the next owner.
//! * **H4** The tree of an account is written before its id is first used, and the account's word is open only while
//!   it is live. What else it has changes only under the tree's mutex.
//!
//! # The end of a scope
//!
//! When the last handle of a scope is dropped, or its allocator is closed, the account *retires*: its word is shut,
//! and its bytes move to `(retained)` in one step, as those of a transfer do. From then on the account is 64 bytes,
//! with the name of the allocator it came from, and no recall or walk visits it. Blocks that are freed later release
//! their bytes from `(retained)`, under the mutex. The last of them gives the account back.
//!
//! # Adoption
//!
//! A ledger may pay for a part of a block: see [`adopt`].
//!
//! # Below a tight level
//!
//! Heap leaves stay open there, with a little credit that is charged by force: see [`soft`].
//!
//! # Locks
//!
//! The global allocator may be called anywhere, also by a thread that has a lock of this workspace, or between the
//! handlers around a fork. Then the mutex must not be taken: a charge is not attributed, and a release is *parked*:
//! added to what the account is owed, which the next thread that takes this slow path with no lock pays (see [`slow`]).
//! Sections that start in the global allocator are *quiet*: they call no listener and no waker, and free no node.
//! What they leave is done by the timer thread, or by the tree's next section: see
//! [`tend`](super::node).

mod account;
mod adopt;
mod labels;
mod lanes;
mod leaf;
mod retire;
mod slow;
mod soft;
mod table;

pub use self::account::{Account, Taken};
pub(crate) use self::adopt::return_to_heap;
pub use self::adopt::{Moved, Piece, attributed};
pub use self::labels::{Label, Labels, labels, set_labels};
pub(crate) use self::leaf::HeapHandle;
#[cfg(not(loom))]
pub(in crate::accounting) use self::slow::is_owed;
pub(in crate::accounting) use self::slow::pay_owed;
pub use self::slow::{current, is_installed, replace};
pub use self::table::ID_BITS;
pub(in crate::accounting) use self::table::{account as account_of, give_back_all};

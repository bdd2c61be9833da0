//! Exact, hierarchical accounting at the price of one compare-exchange.
//!
//! # The problem
//!
//! Every byte is charged to one node and shows in all its ancestors, each of which has a limit
//! that must never be passed, and must never refuse what fits. A counter per level, touched by
//! every allocation, is exact but slow, and all cores meet at the root. Counters that are updated
//! in batches are fast but wrong near a limit. Here nodes hold *credit*: bytes that their parent
//! has charged for them already and that they do not use yet. Allocating takes from the node's
//! credit and releasing adds to it, whatever the depth. Near a limit, credit is *recalled*, so
//! that the last byte can be granted and no more than that.
//!
//! # The numbers
//!
//! Under the tree's mutex *M*, per node n, in bytes (fields of [`State`](node) in parentheses):
//!
//! * **L** its limit, the smaller of what was configured and the cap (`bound`);
//! * **R** what is reserved for it, whether it uses it or not (`reservation`);
//! * **O** what its parent is charged for it, at least R (`obtained`);
//! * **S** the sum of its children's O (`lent`);
//! * **P** free bytes that are in no word (`parked`);
//! * **credit** the free bytes in its word, or in the words of its stripes;
//! * **B** its own charge: blocks, foreign memory, external bytes. Not stored: B = O − S − P − credit;
//! * **E** its external bytes, a part of B: those that its words count, and the rest (`external`).
//!
//! O − P is called `used`. While the node's words are shut it is S + B; with open words it is
//! an upper bound of that, at most the limit.
//!
//! A word is one atomic with the credit, the minimum of the credit since it was opened (`low`), external
//! bytes, and SHUT. Everyone may `take` and `give` on an open word with one compare-exchange. A shut word
//! holds neither credit nor external bytes and refuses both, so its user takes the slow path, under M.
//!
//! External bytes have no owner, so the node counts them, to refuse the release of more than there are. A
//! charge or release of external bytes changes the word's count and its credit at once. A word counts
//! what fits into it, and a release that it does not cover collects what all of them count, under M.
//!
//! # Invariants
//!
//! * **I1** A node that is not tight has O − P ≤ L. So no credit in a word can pass a limit:
//!   whatever is taken from it, all levels have counted already.
//! * **I2** A node whose `used` exceeds L is *tight*. Below a tight node every word is shut and
//!   every node has O = max(R, S + B): the equations of the design hold to the byte, and `used` of
//!   the tight node is what is allocated. A node that is not `shut` has no tight level at or above
//!   it. There are two exceptions. The words of a node may be open while S + B + credit ≤ R = O, unless
//!   requests wait below it: whatever is taken and given there, its parent is charged R. A recall leaves
//!   them open, so a client with a reservation does not notice that others are refused. The other exception
//!   is *soft* leaves, where the program's heap is charged: see [`heap`]. What their words hold is charged at
//!   every level above, and is shut and returned before a tight level refuses anything, so there `used` is
//!   what is allocated at the instant of a refusal.
//! * **I3** A shut word changes only under M.
//! * **I4** A thread that touches a node or waits for M has a handle, a pin or charged bytes of it; or,
//!   while it tells a listener of a release, holds it in its record (see [`hazard`]). A
//!   node is unlinked under M when nothing of that is left, and freed after M was released. M
//!   itself is never freed (see [`mutex`]), so that it can be released after all that.
//!
//! # Operations
//!
//! * **take** (`Word::take`): credit ≥ x, else the slow path. **give** (`Word::give`): open and
//!   credit + x ≤ the high mark, else the slow path *with the bytes still charged*; after the
//!   exchange the node may be freed, so that it is not touched.
//! * **charge**, slow ([`charge`]): freezes the nodes from the leaf upwards, using up what each has
//!   free, until one covers the rest. Where no level comes near its limit, the leaf gets a quantum
//!   more, for the next requests. Where a level would pass its limit, that level is recalled and
//!   the walk starts over; if it would still pass it, it refuses.
//! * **recall**: shuts all words of the level's subtree, then folds all free bytes upwards. At the
//!   end of the first pass nothing in the subtree can move but within reservations, so the numbers that
//!   the second pass computes are those of that instant: there a refusal takes effect. (Reading one child
//!   after another without stopping them would miss bytes that move from the read to the unread.)
//! * After a recall the level stays tight for as many operations as the recall visited nodes, and
//!   until an eighth of the limit is free. So the next refusal costs O(depth), and a client that
//!   keeps asking for too much costs the others the mutex and no more, and those with a reservation
//!   nothing. Nodes below reopen one by one, when they are next used.
//! * **force**: a charge that recalls the limits that it would pass, and passes them if it must.
//! * **transfer** ([`transfer`]): where both nodes are open and no reservation has a part in it, O
//!   and S change at the levels from the source to the common ancestor and from there to the target,
//!   and no word and no level above does. Else two exchanges, if the target has the credit. Else
//!   the bytes move up to the common ancestor and down again before M is released. Readers, limits and
//!   peaks all need M, so for them it is one step.
//! * **reserve** ([`reserve`]): a higher R is a charge of the parent for what max(R, S + B) grows by; with a
//!   lower one the node settles.
//! * **peak**: max(peak, O − P − low) whenever a word is shut: exact for a leaf without another
//!   atomic. For a node with children S counts their credit, so it may be too high by that; below a tight
//!   level that is the credit of soft leaves.
//! * **stripes**: once threads were seen to collide on a node's word it is shut for good, and each
//!   thread uses one of several others, by the same protocol. A node's credit is their sum.
//! * With a credit of 0 words are never opened, and every sum and every peak is exact.
//!
//! * **heap**: blocks of the program's heap are charged to accounts, which outlive nodes and trees. They
//!   are never refused, and a global allocator calls them from anywhere: see [`heap`].
//! * **wait**: a request that does not fit at a level is queued there, and charged by whoever makes room: see
//!   [`queue`].
//!
//! No operation recurses over the tree, allocates or frees under M, or calls the user's code there.
//! Memory that is needed under M is allocated before M is taken (stripes, the memory of a list), and what
//! is left over is dropped after M is released.
//!
//! # Orderings
//!
//! A word guards no memory but the node itself: what a block holds is ordered by its manager, what
//! M protects by M. So `take` is Relaxed. `give` is a Release, and shutting a word an Acquire, so that
//! a drained node is freed after every thread that gave its bytes back without M was done with it. The
//! handle and pin counts fall to zero only under M; decrements before that are Releases.
//!
//! `model` checks each pair of racing operations with loom.

#![expect(
    clippy::result_large_err,
    clippy::large_enum_variant,
    reason = "a refusal is made under the mutex, where nothing is allocated, and boxed outside"
)]

mod charge;
mod children;
mod external;
mod handle;
mod hazard;
pub(crate) mod heap;
mod lifecycle;
#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "gives back what it charged")]
pub(crate) mod model;
mod node;
#[cfg_attr(not(feature = "metrics"), path = "no_paths.rs")]
mod paths;
mod queue;
mod reclaimer;
mod reclaimers;
mod refusal;
mod report;
mod reserve;
mod settle;
mod spill;
mod transfer;
mod walk;
mod word;

pub(crate) use handle::Handle;
pub(crate) use hazard::is_in_callback;
pub(crate) use lifecycle::Outstanding;
pub(crate) use node::{
    Locked, Node, NodeConfig, NodeKind, NodePtr, Reserved, Tree, TreeConfig, hooks, tend,
};
#[cfg(not(loom))]
pub(crate) use node::{has_tender, is_left, set_tender};
#[cfg(feature = "metrics")]
pub(crate) use paths::Paths;
pub(crate) use queue::{Age, Ask, Queued, Spiller, Turn, Verdict, Wake};
pub(crate) use reclaimer::{AllShares, Answer, Candidate, Reclaimer, Shortage};
pub(crate) use refusal::Refusal;
pub(crate) use report::{Census, Counted};
pub(crate) use reserve::NewReservation;

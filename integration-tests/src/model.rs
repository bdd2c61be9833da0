//! A naive model of the accounting: the equations of an allocator tree, computed from scratch.
//!
//! For a node *n* with reservation *R*, limit *L*, and *B* = the blocks that it owns and its
//! external bytes:
//!
//! ```text
//! allocated(n) = B(n) + Σ over children c of max(R(c), allocated(c))
//! headroom(n)  = min( L(n) − allocated(n),  headroom(parent) + max(0, R(n) − allocated(n)) )
//! over(n)      = allocated(n) > L(n)  or  over(parent)
//! peak(n)      = the largest allocated(n) after any step
//! ```
//!
//! No number is updated incrementally: the model stores which allocator owns which block. To decide whether a
//! request fits, it charges the request, checks every level, and takes the charge back.
//!
//! The reference traces show more than the equations say:
//!
//! * A charge *reaches* a level if `allocated` is larger there with the charge than without it. For a
//!   transfer, "without" is the state in which the source is no longer charged and the target is not charged
//!   yet. So the charge reaches a common ancestor, although its total is the same before and after, but not a
//!   level above a reservation that covers the charge. (By net growth alone, 28 transfers inside an ancestor
//!   that is over its limit would be called `fit`, which the reference calls `over`.)
//! * A transfer from a ledger that does not own the block moves no charge and always fits; so does a transfer
//!   to the same allocator. In both cases the target's ledger gets a reference.
//! * A buffer made of an `AllocationReservation` has the reservation's size, rounded up to the alignment; the
//!   rounding policy is not used.
//! * The refuser is the first level, from leaf to root, whose limit the charge would pass. For a child's
//!   reservation the walk starts at its parent.
//! * The headroom below an unlimited root counts from `isize::MAX`.
//!
//! The traces do not show the following, which is decided here: an allocator whose close failed leaves the
//! tree when the last of its outstanding bytes and buffers is released, even while there are handles.
//! Ownership passes to the ledger that has been associated longest, counted from its latest association
//! (receiving ownership does not change a ledger's place). `try_transfer_ownership` refuses exactly if
//! `transfer_ownership` would not have fitted. A closed allocator refuses to enlarge or use the reservations
//! that it still has.
//!
//! [`Model::apply`] panics on an impossible step (an unknown key).

mod equations;
mod serve;
mod steps;
mod waits;

use std::collections::BTreeMap;

use self::equations::Charging;
pub use self::serve::Seen;
use self::waits::{Turn, Wait};
use crate::operation::{Key, Operation, Outcome, Refusal, Rounding, State};

/// The maximum sum. A limit above it is no limit.
const MAX: i128 = isize::MAX as i128;

/// The allocated bytes of every node.
type Allocated = BTreeMap<Key, i128>;

/// The tree of one root, with all objects that were allocated from it.
#[derive(Clone, Debug)]
pub struct Model {
    rounding: Rounding,
    nodes: BTreeMap<Key, Node>,
    /// The live blocks, by number.
    blocks: BTreeMap<usize, Block>,
    next_block: usize,
    buffers: BTreeMap<Key, Buffer>,
    reservations: BTreeMap<Key, Reservation>,
    /// Requests that wait, or were not polled since their wait ended.
    waits: BTreeMap<Key, Wait>,
    /// Whether requests leave the room that is withheld. Credit lets some pass.
    withholds: bool,
    /// See [`Model::set_beside`].
    beside: i128,
}

/// The visible numbers of one allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its numbers.
    pub state: State,
    /// Its limit in bytes.
    pub limit: usize,
    /// The bytes reserved for its lifetime.
    pub reservation: usize,
    /// Bytes in blocks that it owns, and those granted to futures that were not polled since.
    pub own: usize,
    /// External bytes that are charged to it.
    pub external: usize,
    /// Bytes of its reservations.
    pub reserved: usize,
    /// The peak, if a node that leaves because of a step is counted until after the step.
    pub transient_peak: usize,
    /// Whether `close` was called.
    pub closed: bool,
    /// Number of allocators below it, at all levels.
    pub below: usize,
}

/// One allocator.
#[derive(Clone, Debug)]
struct Node {
    parent: Option<Key>,
    reservation: i128,
    limit: i128,
    /// A second limit, which does not say what can never fit.
    cap: i128,
    /// The bytes that `AllocateBytes` charged.
    external: i128,
    /// The bytes that `Force` charged.
    forced: i128,
    closed: bool,
    peak: i128,
    /// The peak including the state between a step and the departure that it causes.
    transient_peak: i128,
}

/// One allocation, which is freed with its last ledger.
#[derive(Clone, Debug)]
struct Block {
    size: i128,
    owner: Key,
    /// The ledgers on the allocation, the one associated longest first.
    ledgers: Vec<Ledger>,
}

/// The buffers of one allocator on one allocation.
#[derive(Clone, Debug)]
struct Ledger {
    allocator: Key,
    references: usize,
}

/// One handle.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    allocator: Key,
    /// The number of the block; `None` for the empty buffer.
    block: Option<usize>,
    length: usize,
}

/// One `AllocationReservation`.
#[derive(Clone, Copy, Debug)]
struct Reservation {
    allocator: Key,
    bytes: i128,
}

impl Model {
    /// A tree without nodes: [`Operation::Root`] is the first step.
    pub fn new(rounding: Rounding) -> Self {
        Self {
            rounding,
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            next_block: 0,
            buffers: BTreeMap::new(),
            reservations: BTreeMap::new(),
            waits: BTreeMap::new(),
            withholds: true,
            beside: 0,
        }
    }

    /// Places the model's root below an unlimited node that has `bytes` allocated in addition.
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside = size(bytes);
    }

    /// Applies one step, and updates the peaks.
    pub fn apply(&mut self, operation: &Operation) -> Outcome {
        let outcome = self.step(operation).unwrap_or_else(Outcome::Refused);
        for (key, allocated) in self.allocated_by_node() {
            let node = self.node_mut(key);
            node.transient_peak = node.transient_peak.max(allocated);
        }
        self.remove_departed();
        self.refuse_hopeless();
        self.note_peaks();
        outcome
    }

    fn note_peaks(&mut self) {
        for (key, allocated) in self.allocated_by_node() {
            let node = self.node_mut(key);
            node.peak = node.peak.max(allocated);
            node.transient_peak = node.transient_peak.max(allocated);
        }
    }

    // ---- visible numbers ------------------------------------------------------------------

    /// The visible numbers of every allocator in the tree, in the order of their keys.
    pub fn views(&self) -> Vec<View> {
        let allocated = self.allocated_by_node();
        let below = self.below_by_node();
        let view = |(&key, node): (&Key, &Node)| View {
            state: self.state_from(key, &allocated),
            limit: narrow(node.bound()),
            reservation: narrow(node.reservation),
            own: narrow(self.own(key) + self.granted(key)),
            external: narrow(node.external + node.forced),
            reserved: narrow(self.reserved_from(key)),
            transient_peak: narrow(node.transient_peak),
            closed: node.closed,
            below: below[&key],
        };
        self.nodes.iter().map(view).collect()
    }

    /// The numbers of every allocator that is in the tree, in the order of their keys.
    pub fn states(&self) -> Vec<State> {
        self.views().into_iter().map(|view| view.state).collect()
    }

    /// Whether a forced step made a sum that no tree can hold, at any time so far.
    pub fn has_overflowed(&self) -> bool {
        self.nodes.values().any(|node| node.transient_peak > MAX)
    }

    /// The numbers of one allocator.
    pub fn state(&self, allocator: Key) -> State {
        self.state_from(allocator, &self.allocated_by_node())
    }

    fn state_from(&self, allocator: Key, allocated: &Allocated) -> State {
        State {
            allocator,
            allocated: narrow(allocated[&allocator]),
            headroom: isize::try_from(self.headroom(allocator, allocated))
                .expect("a headroom fits in an isize"),
            over: self.over(allocator, allocated),
            peak: narrow(self.node(allocator).peak),
        }
    }

    /// The keys of the allocators that are in the tree.
    pub fn allocators(&self) -> Vec<Key> {
        self.nodes.keys().copied().collect()
    }

    /// The keys of the live buffers, without those that a future has.
    pub fn buffers(&self) -> Vec<Key> {
        let keys = self.buffers.keys().copied();
        keys.filter(|&key| !self.is_growing(key)).collect()
    }

    /// The keys of the live reservations.
    pub fn reservations(&self) -> Vec<Key> {
        self.reservations.keys().copied().collect()
    }

    /// The parent of an allocator.
    pub fn parent(&self, allocator: Key) -> Option<Key> {
        self.node(allocator).parent
    }

    /// Number of levels above an allocator.
    pub fn depth(&self, allocator: Key) -> usize {
        self.path(allocator).len() - 1
    }

    /// The allocator's current limit.
    pub fn limit(&self, allocator: Key) -> usize {
        narrow(self.node(allocator).limit)
    }

    /// Whether an ancestor of this allocator refuses new work.
    pub fn is_below_closed(&self, allocator: Key) -> bool {
        self.path(allocator)[1..]
            .iter()
            .any(|&above| self.node(above).closed)
    }

    /// Whether `close` was called, with or without success.
    pub fn is_closed(&self, allocator: Key) -> bool {
        self.nodes.get(&allocator).is_none_or(|node| node.closed)
    }

    /// Bytes that `ReleaseBytes` may release.
    pub fn external(&self, allocator: Key) -> usize {
        narrow(self.node(allocator).external)
    }

    /// Bytes that `Unforce` would release.
    pub fn forced(&self, allocator: Key) -> usize {
        narrow(self.node(allocator).forced)
    }

    /// The length of a buffer.
    pub fn length(&self, buffer: Key) -> usize {
        self.buffers[&buffer].length
    }

    /// The allocator of a buffer.
    pub fn holder(&self, buffer: Key) -> Key {
        self.buffers[&buffer].allocator
    }

    /// The references and the accounted size of a buffer's ledger.
    pub fn ledger(&self, buffer: Key) -> (usize, usize) {
        let Buffer {
            allocator, block, ..
        } = self.buffers[&buffer];
        let Some(block) = block else {
            return (1, 0);
        };
        let block = &self.blocks[&block];
        let ledger = block.ledgers.iter().find(|it| it.allocator == allocator);
        let references = ledger.expect("a buffer has a ledger").references;
        let accounted = if block.owner == allocator {
            block.size
        } else {
            0
        };
        (references, narrow(accounted))
    }

    /// The live reservation of an allocator.
    pub fn live_reservation(&self, allocator: Key) -> usize {
        narrow(self.node(allocator).reservation)
    }

    /// The bytes of a reservation.
    pub fn reserved(&self, reservation: Key) -> usize {
        narrow(self.reservations[&reservation].bytes)
    }

    /// Whether a `close` would find nothing outstanding. Empty buffers do not count.
    pub fn is_idle(&self, allocator: Key) -> bool {
        let node = self.node(allocator);
        let holds = |it: &Buffer| it.allocator == allocator && it.block.is_some();
        node.external == 0
            && node.forced == 0
            && self.granted(allocator) == 0
            && !self
                .nodes
                .values()
                .any(|node| node.parent == Some(allocator))
            && !self.buffers.values().any(holds)
            && !self
                .reservations
                .values()
                .any(|it| it.allocator == allocator)
    }

    /// The capacity for a request; `None` if the request is too large.
    pub fn capacity(&self, requested: usize) -> Option<usize> {
        let asked = size(requested);
        let rounded = match self.rounding {
            _ if asked == 0 => 0,
            Rounding::Padding => asked,
            Rounding::PowerOfTwo if asked < 16 * 1024 * 1024 => size(requested.next_power_of_two()),
            Rounding::PowerOfTwo => asked,
            Rounding::Segment(segment) => round_up(asked, size(segment)),
        };
        // If the policy overflows, the requested size is used.
        let rounded = if rounded > MAX { asked } else { rounded };
        let capacity = round_up(rounded, 64);
        (capacity <= MAX).then(|| narrow(capacity))
    }

    // ---- parts of the equations -----------------------------------------------------------

    /// Bytes in blocks that an allocator owns.
    fn own(&self, allocator: Key) -> i128 {
        let owned = |block: &&Block| block.owner == allocator;
        self.blocks.values().filter(owned).map(|it| it.size).sum()
    }

    /// Bytes of an allocator's reservations.
    fn reserved_from(&self, allocator: Key) -> i128 {
        let held = self.reservations.values();
        let held = held.filter(|it| it.allocator == allocator);
        held.map(|it| it.bytes).sum()
    }

    /// Number of allocators below each node, at all levels.
    fn below_by_node(&self) -> BTreeMap<Key, usize> {
        let mut below: BTreeMap<Key, usize> = self.nodes.keys().map(|&key| (key, 0)).collect();
        for (key, node) in self.nodes.iter().rev() {
            if let Some(parent) = node.parent {
                *below.get_mut(&parent).expect("the parent lives") += below[key] + 1;
            }
        }
        below
    }

    // ---- charges --------------------------------------------------------------------------

    fn check_fits(&mut self, allocator: Key, bytes: i128) -> Result<(), Refusal> {
        self.check_turn(allocator, bytes, Turn::TRY)
    }

    /// Checks whether bytes fit, and lets them pass those that wait.
    fn check_turn(&mut self, allocator: Key, bytes: i128, turn: Turn) -> Result<(), Refusal> {
        self.check_open(allocator)?;
        let charging = self.charging(allocator, bytes);
        self.check_charge(&charging, turn)?;
        self.pass(&charging);
        Ok(())
    }

    /// The charge of so many bytes.
    fn charging(&mut self, allocator: Key, bytes: i128) -> Charging {
        let without = self.allocated_by_node();
        self.node_mut(allocator).external += bytes;
        let with = self.allocated_by_node();
        self.node_mut(allocator).external -= bytes;
        Charging::new(allocator, without, with)
    }

    /// Charges external bytes, if they fit.
    fn charge(&mut self, allocator: Key, bytes: i128) -> Result<(), Refusal> {
        self.check_fits(allocator, bytes)?;
        self.node_mut(allocator).external += bytes;
        Ok(())
    }

    fn check_open(&self, allocator: Key) -> Result<(), Refusal> {
        if self.node(allocator).closed {
            Err(Refusal::Closed(allocator))
        } else {
            Ok(())
        }
    }

    /// The allocator and its ancestors, from leaf to root.
    fn path(&self, allocator: Key) -> Vec<Key> {
        let mut path = vec![allocator];
        while let Some(parent) = self.node(path[path.len() - 1]).parent {
            path.push(parent);
        }
        path
    }

    fn node(&self, allocator: Key) -> &Node {
        &self.nodes[&allocator]
    }

    fn node_mut(&mut self, allocator: Key) -> &mut Node {
        self.nodes
            .get_mut(&allocator)
            .expect("the allocator is in the tree")
    }

    fn block_mut(&mut self, number: usize) -> &mut Block {
        self.blocks.get_mut(&number).expect("the block is alive")
    }

    fn reservation_mut(&mut self, reservation: Key) -> &mut Reservation {
        self.reservations
            .get_mut(&reservation)
            .expect("the reservation is alive")
    }
}

impl Node {
    fn bound(&self) -> i128 {
        self.limit.min(self.cap)
    }

    fn new(parent: Option<Key>, reservation: usize, limit: usize) -> Self {
        Self {
            parent,
            reservation: size(reservation),
            limit: size(limit).min(MAX),
            cap: MAX,
            external: 0,
            forced: 0,
            closed: false,
            peak: 0,
            transient_peak: 0,
        }
    }
}

fn size(bytes: usize) -> i128 {
    i128::try_from(bytes).expect("a size fits in an i128")
}

fn narrow(bytes: i128) -> usize {
    usize::try_from(bytes).expect("the model keeps sums within a usize")
}

fn round_up(bytes: i128, multiple: i128) -> i128 {
    (bytes + multiple - 1) / multiple * multiple
}

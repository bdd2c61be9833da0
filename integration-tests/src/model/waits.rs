//! Requests that wait: who may pass whom, and how a wait begins and ends.
//!
//! ```text
//! barrier(w)      = at least max(bytes(w), bound(level) / 16) bytes that others got passed w at its level
//! held back by w  = younger than w, and not what only an admission would hold back
//! withheld(n)     = all room of n, if a barrier waits at n; else the bytes of the oldest barrier of each level
//!                   above n, if it waits for memory of n or of an allocator below it
//! hopeless(w)     = it would be refused even if nobody else used memory
//! ```

use super::{Charging, MAX, Model, Node, Reservation, narrow, size};
use crate::operation::{Ask, Key, Operation, Outcome, Refusal};

/// More than any room.
const ALL: i128 = i128::MAX / 4;

/// A level may let this part of its bound pass a waiter.
const PASSED_PART: i128 = 16;

/// The place of a request among those that wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// A larger one is younger.
    age: Key,
    admission: bool,
}

impl Turn {
    /// That of a request that does not wait.
    pub(super) const TRY: Self = Self {
        age: Key::MAX,
        admission: false,
    };
}

/// A request whose future was not ready when it was polled last.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    pub(super) ask: Ask,
    /// The allocator that is charged.
    pub(super) node: Key,
    pub(super) bytes: i128,
    /// Bytes that it holds until it is granted: those of a buffer that grows.
    kept: i128,
    deadline: Option<u32>,
    pub(super) phase: Phase,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Queued(Place),
    /// The bytes are charged to the node.
    Granted,
    /// Refused or timed out: it is tried once more when it is polled.
    Ended,
}

/// The place in the queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The level that lacks room, according to the tree.
    pub(super) level: Key,
    pub(super) barrier: bool,
    /// The minimum and the maximum of the bytes by which others grew what is allocated at its levels.
    pub(super) passed: (i128, i128),
    /// The minimum and the maximum of what may have passed it, for the bounds that its levels had.
    pub(super) allowed: (i128, i128),
    /// Whether bytes passed it in this step, and it was to become a barrier.
    pub(super) due: bool,
}

impl Wait {
    pub(super) fn is_granted(&self) -> bool {
        matches!(self.phase, Phase::Granted)
    }

    pub(super) fn is_admission(&self) -> bool {
        matches!(self.ask, Ask::Child { .. })
    }

    pub(super) fn place(&self) -> Option<&Place> {
        match &self.phase {
            Phase::Queued(place) => Some(place),
            _ => None,
        }
    }

    pub(super) fn place_mut(&mut self) -> Option<&mut Place> {
        match &mut self.phase {
            Phase::Queued(place) => Some(place),
            _ => None,
        }
    }
}

impl Model {
    /// The keys of the futures.
    pub fn waits(&self) -> Vec<Key> {
        self.waits.keys().copied().collect()
    }

    /// The keys of the futures whose wait has not ended, the oldest first.
    pub fn waiting(&self) -> Vec<Key> {
        let waiting = self.waits.iter().filter(|(_, it)| it.place().is_some());
        waiting.map(|(&key, _)| key).collect()
    }

    /// The keys of the buffers that can be asked to grow.
    pub fn growable(&self) -> Vec<Key> {
        let grows = |key: &Key| {
            let buffer = &self.buffers[key];
            buffer.block.is_some_and(|number| {
                let block = &self.blocks[&number];
                let sole = block.ledgers.len() == 1 && block.ledgers[0].references == 1;
                sole && block.size == size(buffer.length)
            })
        };
        self.buffers().into_iter().filter(grows).collect()
    }

    /// The same model, in which nothing is withheld from requests.
    #[must_use]
    pub fn without_withholding(mut self) -> Self {
        self.withholds = false;
        self
    }

    /// Has requests leave what is withheld again.
    pub fn with_withholding(&mut self) {
        self.withholds = true;
    }

    /// Whether a future has the buffer.
    pub(super) fn is_growing(&self, key: Key) -> bool {
        let grows = |it: &Wait| matches!(it.ask, Ask::Growth { buffer, .. } if buffer == key);
        self.waits.values().any(grows)
    }

    /// Bytes that were granted to futures which were not polled since.
    pub(super) fn granted(&self, allocator: Key) -> i128 {
        let granted = self.waits.values().filter(|it| it.is_granted());
        let granted = granted.filter(|it| it.node == allocator);
        granted.map(|it| it.bytes).sum()
    }

    pub(super) fn turn(&self, key: Key) -> Turn {
        Turn {
            age: key,
            admission: self.waits[&key].is_admission(),
        }
    }

    // ---- what is withheld -----------------------------------------------------------------

    /// Bytes at a level that are not there for a request.
    pub(super) fn withheld(&self, at: Key, turn: Turn) -> i128 {
        if !self.withholds || self.waits.is_empty() {
            return 0;
        }
        if self.barrier(at, turn).is_some() {
            return ALL;
        }
        let barriers = self.path(at).into_iter().skip(1);
        let barriers = barriers.filter_map(|above| self.barrier(above, turn));
        let on_path = barriers.filter(|it| self.path(it.node).contains(&at));
        on_path.map(|it| it.bytes).sum()
    }

    /// The oldest barrier at a level that holds a request back.
    pub(super) fn barrier(&self, level: Key, turn: Turn) -> Option<&Wait> {
        let holds_back = |&(&key, wait): &(&Key, &Wait)| {
            let place = wait.place().filter(|it| it.level == level && it.barrier);
            place.is_some() && key < turn.age && (turn.admission || !wait.is_admission())
        };
        self.waits.iter().find(holds_back).map(|(_, wait)| wait)
    }

    // ---- who passes whom ------------------------------------------------------------------

    /// A charge passes all who wait at the levels that it reaches.
    pub(super) fn pass(&mut self, charging: &Charging) {
        for key in self.waiting() {
            let level = self.place(key).level;
            let grown = self.grown_at(level, charging);
            self.pass_by(key, (grown, grown));
        }
    }

    /// The bytes by which a charge grows what is allocated at a level; 0 if the level is not above it.
    pub(super) fn grown_at(&self, level: Key, charging: &Charging) -> i128 {
        if self.path(charging.to).contains(&level) {
            (charging.with[&level] - charging.before[&level]).max(0)
        } else {
            0
        }
    }

    /// Notes that at least and at most so many bytes passed a request that waits.
    pub(super) fn pass_by(&mut self, key: Key, (least, most): (i128, i128)) {
        let place = self.place_mut(key);
        place.passed.0 += least;
        place.passed.1 += most;
        place.due |= least > 0 && place.passed.0 >= place.allowed.1;
    }

    /// Notes how many bytes may pass those who wait, as the bounds are now.
    pub(super) fn note_allowed(&mut self) {
        for key in self.waiting() {
            let wait = &self.waits[&key];
            let level = self.place(key).level;
            let allowed = wait.bytes.max(self.node(level).bound() / PASSED_PART);
            if let Some(place) = self.wait_mut(key).place_mut() {
                let (least, most) = place.allowed;
                place.allowed = (least.min(allowed), most.max(allowed));
            }
        }
    }

    // ---- steps ----------------------------------------------------------------------------

    pub(super) fn step_of_wait(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Wait {
                wait,
                ask,
                deadline,
            } => self.begin_wait(wait, ask, deadline),
            Operation::Poll { wait } => self.poll(wait),
            Operation::Cancel { wait } => {
                self.waits.remove(&wait);
                Ok(Outcome::Done)
            }
            Operation::Expire { now } => {
                for wait in self.waits.values_mut() {
                    if wait.place().is_some() && wait.deadline.is_some_and(|at| at <= now) {
                        wait.phase = Phase::Ended;
                    }
                }
                Ok(Outcome::Done)
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    fn begin_wait(
        &mut self,
        key: Key,
        ask: Ask,
        deadline: Option<u32>,
    ) -> Result<Outcome, Refusal> {
        let (node, bytes, kept) = self.needs(ask)?;
        let phase = Phase::Granted;
        let wait = Wait {
            ask,
            node,
            bytes,
            kept,
            deadline,
            phase,
        };
        let turn = Turn {
            age: key,
            admission: wait.is_admission(),
        };
        match self.check_turn(node, bytes, turn) {
            Ok(()) => self.take(ask),
            Err(Refusal::Limit(level)) if !self.is_hopeless(&wait) => {
                let place = Place {
                    level,
                    barrier: false,
                    passed: (0, 0),
                    allowed: (ALL, 0),
                    due: false,
                };
                let phase = Phase::Queued(place);
                self.waits.insert(key, Wait { phase, ..wait });
                self.note_allowed();
                Ok(Outcome::Pending)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The allocator that is charged for a request, the bytes, and those that it keeps meanwhile.
    fn needs(&self, ask: Ask) -> Result<(Key, i128, i128), Refusal> {
        let capacity = |allocator, bytes| {
            let capacity = self.capacity(bytes);
            capacity.map(size).ok_or(Refusal::Overflow(allocator))
        };
        Ok(match ask {
            Ask::Buffer {
                allocator,
                size: bytes,
                ..
            } => (allocator, capacity(allocator, bytes)?, 0),
            Ask::Reservation {
                allocator, bytes, ..
            } => (allocator, size(bytes), 0),
            Ask::Growth { buffer, additional } => {
                let buffer = &self.buffers[&buffer];
                let kept = size(buffer.length);
                let grown = capacity(buffer.allocator, buffer.length + additional)?;
                (buffer.allocator, grown - kept, kept)
            }
            Ask::Child {
                parent,
                reservation,
                ..
            } => (parent, size(reservation), 0),
        })
    }

    fn poll(&mut self, key: Key) -> Result<Outcome, Refusal> {
        if self.waits[&key].place().is_some() {
            return Ok(Outcome::Pending);
        }
        let wait = self.waits.remove(&key).expect("it is there");
        if !self.nodes.contains_key(&wait.node) {
            return Err(Refusal::Closed(wait.node));
        }
        if !wait.is_granted() {
            self.check_fits(wait.node, wait.bytes)?;
        }
        self.take(wait.ask)
    }

    /// Makes what a request asked for of bytes that are not charged any more.
    fn take(&mut self, ask: Ask) -> Result<Outcome, Refusal> {
        let (_, bytes, kept) = self.needs(ask)?;
        Ok(match ask {
            Ask::Buffer {
                buffer, allocator, ..
            } => {
                let capacity = narrow(bytes);
                self.new_buffer(buffer, allocator, capacity);
                Outcome::Allocated {
                    capacity,
                    references: 1,
                }
            }
            Ask::Reservation {
                reservation,
                allocator,
                ..
            } => {
                let new = Reservation { allocator, bytes };
                self.reservations.insert(reservation, new);
                Outcome::Done
            }
            Ask::Growth { buffer, .. } => {
                let capacity = narrow(kept + bytes);
                let number = self.buffers[&buffer].block.expect("it is not empty");
                self.block_mut(number).size = size(capacity);
                let grown = self.buffers.get_mut(&buffer).expect("it is there");
                grown.length = capacity;
                Outcome::Grown { capacity }
            }
            Ask::Child {
                allocator,
                parent,
                reservation,
                limit,
            } => {
                self.check_open(parent)?;
                let child = Node::new(Some(parent), reservation, limit);
                self.nodes.insert(allocator, child);
                Outcome::Done
            }
        })
    }

    // ---- what can never be ----------------------------------------------------------------

    /// Ends the waits that are hopeless.
    pub(super) fn refuse_hopeless(&mut self) {
        for key in self.waiting() {
            if self.is_hopeless(&self.waits[&key]) {
                self.wait_mut(key).phase = Phase::Ended;
            }
        }
    }

    /// Whether a request would be refused even if nobody else used memory: at a level that it would reach.
    fn is_hopeless(&self, wait: &Wait) -> bool {
        let mut bytes = wait.bytes + wait.kept;
        for key in self.path_or_none(wait.node) {
            let node = self.node(key);
            if node.closed || bytes > node.limit.min(MAX) {
                return true;
            }
            if bytes <= node.reservation {
                return false;
            }
            bytes = bytes.max(node.reservation);
        }
        !self.nodes.contains_key(&wait.node)
    }

    /// The path of an allocator; empty if it left the tree.
    fn path_or_none(&self, allocator: Key) -> Vec<Key> {
        if self.nodes.contains_key(&allocator) {
            self.path(allocator)
        } else {
            Vec::new()
        }
    }

    /// The place of a request that waits.
    pub(super) fn place(&self, key: Key) -> &Place {
        self.waits[&key].place().expect("it waits")
    }

    pub(super) fn place_mut(&mut self, key: Key) -> &mut Place {
        self.wait_mut(key).place_mut().expect("it waits")
    }

    pub(super) fn wait_mut(&mut self, key: Key) -> &mut Wait {
        self.waits.get_mut(&key).expect("the future is there")
    }
}

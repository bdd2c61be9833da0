//! Applies the operations of [`crate::operation`] to a real tree, through public items only.

mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocError, AllocationManager, AllocationOutcome, AllocationReservation, AllocatorInfo,
    ArrowBuf, ArrowBufMut, BufferAllocator, PaddingRoundingPolicy, PowerOfTwoRoundingPolicy,
    RootAllocator, SegmentRoundingPolicy, TransferError,
};

use crate::operation::{Key, Operation, Outcome, Refusal, Rounding, State};

/// Longer than any test takes, by its own times.
const PATIENCE: Duration = Duration::from_secs(1 << 31);

/// The place where the first step, [`Operation::Root`], creates the tree.
#[derive(Clone, Debug)]
pub enum Ground {
    /// A root of its own.
    Root {
        /// The tree's manager.
        manager: Arc<dyn AllocationManager>,
        /// The maximum credit of a node in bytes; `None` for the tree's default.
        credit: Option<usize>,
    },
    /// A child of this allocator.
    Below(BufferAllocator),
}

/// A real tree and all objects that were allocated from it.
///
/// Allocators have the names of the traces: `a0`, `a1`, …
#[derive(Debug)]
pub struct Tree {
    ground: Ground,
    rounding: Rounding,
    allocators: BTreeMap<Key, BufferAllocator>,
    buffers: BTreeMap<Key, ArrowBuf>,
    reservations: BTreeMap<Key, AllocationReservation>,
    forced: BTreeMap<Key, usize>,
    waits: BTreeMap<Key, waits::Waiting>,
    /// Times count from a moment that is far after this one.
    began: Instant,
}

impl Tree {
    /// A tree without nodes: [`Operation::Root`] is the first step.
    pub fn new(ground: Ground, rounding: Rounding) -> Self {
        Self {
            ground,
            rounding,
            allocators: BTreeMap::new(),
            buffers: BTreeMap::new(),
            reservations: BTreeMap::new(),
            forced: BTreeMap::new(),
            waits: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Applies one step.
    pub fn apply(&mut self, operation: &Operation) -> Outcome {
        self.step(operation).unwrap_or_else(Outcome::Refused)
    }

    fn step(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match operation {
            Operation::Allocate { .. }
            | Operation::Release { .. }
            | Operation::Slice { .. }
            | Operation::Share { .. }
            | Operation::Transfer { .. }
            | Operation::TryTransfer { .. } => self.step_of_buffer(operation),
            Operation::Reserve { .. }
            | Operation::Extend { .. }
            | Operation::Shrink { .. }
            | Operation::Use { .. }
            | Operation::Unreserve { .. } => self.step_of_reservation(operation),
            Operation::Wait { .. }
            | Operation::Poll { .. }
            | Operation::Cancel { .. }
            | Operation::Expire { .. } => self.step_of_wait(operation),
            _ => self.step_of_allocator(operation),
        }
    }

    fn step_of_allocator(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Root { allocator, limit } => {
                let root = self.root(&name(allocator), limit);
                self.allocators.insert(allocator, root);
            }
            Operation::Child {
                allocator,
                parent,
                reservation,
                limit,
            } => {
                let child = self
                    .allocator(parent)
                    .new_child_allocator(&name(allocator), reservation, limit)
                    .map_err(|error| refusal(&error))?;
                self.allocators.insert(allocator, child);
            }
            Operation::Force { allocator, bytes } => {
                let fit = self.allocator(allocator).force_allocate(bytes);
                *self.forced.entry(allocator).or_default() += bytes;
                return Ok(Outcome::Forced { fit });
            }
            Operation::Unforce { allocator } => {
                let bytes = self.forced.remove(&allocator).unwrap_or_default();
                self.allocator(allocator).release_bytes(bytes);
            }
            Operation::AllocateBytes { allocator, bytes } => {
                self.allocator(allocator)
                    .allocate_bytes(bytes)
                    .map_err(|error| refusal(&error))?;
            }
            Operation::ReleaseBytes { allocator, bytes } => {
                self.allocator(allocator).release_bytes(bytes);
            }
            Operation::Limit { allocator, limit } => self.allocator(allocator).set_limit(limit),
            Operation::Cap { allocator, cap } => self.allocator(allocator).set_cap(cap),
            Operation::SetReservation { .. }
            | Operation::ForceReservation { .. }
            | Operation::RaiseReservation { .. }
            | Operation::ForceRaiseReservation { .. }
            | Operation::LowerReservation { .. } => {
                return self.step_of_live_reservation(operation);
            }
            Operation::Close { allocator } => {
                if self.allocator(allocator).close().is_err() {
                    return Ok(Outcome::Outstanding);
                }
                self.allocators.remove(&allocator);
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
        Ok(Outcome::Done)
    }

    fn step_of_live_reservation(&self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::SetReservation { allocator, bytes } => {
                let set = self.allocator(allocator).set_reservation(bytes);
                set.map_err(|error| refusal(&error))?;
            }
            Operation::ForceReservation { allocator, bytes } => {
                let fit = self.allocator(allocator).force_reservation(bytes);
                return Ok(Outcome::Forced { fit });
            }
            Operation::RaiseReservation { allocator, bytes } => {
                let raised = self.allocator(allocator).raise_reservation(bytes);
                raised.map_err(|error| refusal(&error))?;
            }
            Operation::ForceRaiseReservation { allocator, bytes } => {
                let fit = self.allocator(allocator).force_raise_reservation(bytes);
                return Ok(Outcome::Forced { fit });
            }
            Operation::LowerReservation { allocator, bytes } => {
                self.allocator(allocator).lower_reservation(bytes);
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
        Ok(Outcome::Done)
    }

    fn step_of_buffer(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Allocate {
                buffer,
                allocator,
                size,
            } => self.allocate(buffer, allocator, size),
            Operation::Release { buffer } => {
                let buffer = self.buffers.remove(&buffer).expect("the buffer is alive");
                let last = buffer.ref_count() == 1;
                drop(buffer);
                Ok(Outcome::Released { last })
            }
            Operation::Slice {
                buffer,
                slice,
                offset,
                length,
            } => {
                let part = self.buffers[&buffer].slice(offset..offset + length);
                let references = part.ref_count();
                self.buffers.insert(slice, part);
                Ok(Outcome::Sliced { references })
            }
            Operation::Share {
                buffer,
                shared,
                allocator,
            } => {
                let new = self.buffers[&buffer]
                    .retain_in(self.allocator(allocator))
                    .map_err(|error| transfer_refusal(&error))?;
                Ok(self.keep_shared(shared, new))
            }
            Operation::Transfer {
                buffer,
                moved,
                allocator,
            } => self.transfer(buffer, moved, allocator),
            Operation::TryTransfer {
                buffer,
                moved,
                allocator,
            } => {
                let new = self.buffers[&buffer]
                    .try_transfer_ownership(self.allocator(allocator))
                    .map_err(|error| transfer_refusal(&error))?;
                Ok(self.keep_shared(moved, new))
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    fn step_of_reservation(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Reserve {
                reservation,
                allocator,
                bytes,
            } => {
                let mut new = self.allocator(allocator).new_reservation();
                new.add(bytes).map_err(|error| refusal(&error))?;
                self.reservations.insert(reservation, new);
            }
            Operation::Extend { reservation, bytes } => {
                self.reservation(reservation)
                    .add(bytes)
                    .map_err(|error| refusal(&error))?;
            }
            Operation::Shrink { reservation, bytes } => self.reservation(reservation).shrink(bytes),
            Operation::Use {
                buffer,
                reservation,
            } => return self.use_reservation(buffer, reservation),
            Operation::Unreserve { reservation } => {
                self.reservations.remove(&reservation);
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
        Ok(Outcome::Done)
    }

    /// The numbers of one allocator.
    pub fn state(&self, allocator: Key) -> State {
        let it = self.allocator(allocator);
        State {
            allocator,
            allocated: it.allocated_memory(),
            headroom: it.headroom(),
            over: it.is_over_limit(),
            peak: it.peak_memory_allocation(),
        }
    }

    /// The handle of an allocator that is in the tree.
    pub fn allocator(&self, allocator: Key) -> &BufferAllocator {
        self.allocators
            .get(&allocator)
            .unwrap_or_else(|| panic!("a{allocator} is not open"))
    }

    /// The keys of the allocators that are in the tree.
    pub fn allocators(&self) -> Vec<Key> {
        self.allocators.keys().copied().collect()
    }

    /// Drops the handles of allocators that are not in `open`: they must have left the tree.
    pub fn forget_all_but(&mut self, open: &[Key]) {
        self.allocators.retain(|key, allocator| {
            let keep = open.contains(key);
            if !keep {
                assert!(
                    allocator.parent_allocator().is_none(),
                    "a{key} is still there"
                );
                assert_eq!(allocator.allocated_memory(), 0, "a{key}");
            }
            keep
        });
    }

    /// A live buffer.
    pub fn buffer(&self, buffer: Key) -> &ArrowBuf {
        &self.buffers[&buffer]
    }

    fn root(&self, name: &str, limit: usize) -> BufferAllocator {
        match &self.ground {
            Ground::Root { manager, credit } => {
                let mut builder = RootAllocator::builder()
                    .name(name)
                    .limit(limit)
                    .own_timer(true)
                    .patience(PATIENCE)
                    .allocation_manager(Arc::clone(manager));
                if let Some(credit) = *credit {
                    builder = builder.credit(credit);
                }
                let builder = match self.rounding {
                    Rounding::Padding => builder.rounding_policy(PaddingRoundingPolicy),
                    Rounding::PowerOfTwo => builder.rounding_policy(PowerOfTwoRoundingPolicy),
                    Rounding::Segment(bytes) => builder.rounding_policy(segment(bytes)),
                };
                builder.build().expect("a manager was given").into()
            }
            Ground::Below(parent) => {
                let builder = parent.child(name).limit(limit);
                let builder = match self.rounding {
                    Rounding::Padding => builder.rounding_policy(PaddingRoundingPolicy),
                    Rounding::PowerOfTwo => builder.rounding_policy(PowerOfTwoRoundingPolicy),
                    Rounding::Segment(bytes) => builder.rounding_policy(segment(bytes)),
                };
                builder.build().expect("a child without reservation fits")
            }
        }
    }

    fn allocate(&mut self, key: Key, allocator: Key, size: usize) -> Result<Outcome, Refusal> {
        let mut buffer = self
            .allocator(allocator)
            .buffer(size)
            .map_err(|error| refusal(&error))?;
        let capacity = buffer.capacity();
        fill(&mut buffer);
        let buffer = buffer.freeze();
        let references = buffer.ref_count();
        self.buffers.insert(key, buffer);
        Ok(Outcome::Allocated {
            capacity,
            references,
        })
    }

    fn transfer(&mut self, buffer: Key, moved: Key, target: Key) -> Result<Outcome, Refusal> {
        let result = self.buffers[&buffer]
            .transfer_ownership(self.allocator(target))
            .map_err(|error| transfer_refusal(&error))?;
        let outcome = Outcome::Transferred {
            fit: result.allocation_fit,
            references: result.buffer.ref_count(),
            accounted: result.buffer.accounted_size(),
        };
        self.buffers.insert(moved, result.buffer);
        Ok(outcome)
    }

    fn use_reservation(&mut self, key: Key, reservation: Key) -> Result<Outcome, Refusal> {
        let held = self.reservations.remove(&reservation);
        match held.expect("the reservation is alive").allocate_buffer() {
            Ok(mut buffer) => {
                let capacity = buffer.capacity();
                fill(&mut buffer);
                self.buffers.insert(key, buffer.freeze());
                Ok(Outcome::Used { capacity })
            }
            Err((error, held)) => {
                self.reservations.insert(reservation, held);
                Err(refusal(&error))
            }
        }
    }

    fn keep_shared(&mut self, key: Key, buffer: ArrowBuf) -> Outcome {
        let outcome = Outcome::Shared {
            references: buffer.ref_count(),
            accounted: buffer.accounted_size(),
        };
        self.buffers.insert(key, buffer);
        outcome
    }

    fn reservation(&mut self, reservation: Key) -> &mut AllocationReservation {
        self.reservations
            .get_mut(&reservation)
            .expect("the reservation is alive")
    }
}

/// Fills the rest of the capacity of a buffer.
fn fill(buffer: &mut ArrowBufMut) {
    let bytes = vec![0xA5; buffer.capacity() - buffer.len()];
    buffer
        .extend_from_slice(&bytes)
        .expect("to write within the capacity charges nothing");
}

fn name(allocator: Key) -> String {
    format!("a{allocator}")
}

fn segment(bytes: usize) -> SegmentRoundingPolicy {
    SegmentRoundingPolicy::new(bytes).expect("a trace's segment is a power of two")
}

/// The key in the name of an allocator.
fn key(allocator: &AllocatorInfo) -> Key {
    allocator
        .name
        .strip_prefix('a')
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("`{allocator}` is none of ours"))
}

fn refusal(error: &AllocError) -> Refusal {
    match error {
        AllocError::OutOfMemory { outcome, .. } => limit_refusal(outcome),
        AllocError::Closed { allocator, .. } => Refusal::Closed(key(allocator)),
        AllocError::SizeOverflow { allocator, .. } => Refusal::Overflow(key(allocator)),
        other => panic!("no step can end like this: {other}"),
    }
}

fn transfer_refusal(error: &TransferError) -> Refusal {
    match error {
        TransferError::DoesNotFit { outcome, .. } => limit_refusal(outcome),
        TransferError::Closed { to } => Refusal::Closed(key(to)),
        TransferError::SizeOverflow { to, .. } => Refusal::Overflow(key(to)),
        other => panic!("no step can end like this: {other}"),
    }
}

/// The refuser, after a check that the numbers in the outcome are those of a refusal.
fn limit_refusal(outcome: &AllocationOutcome) -> Refusal {
    let refuser = outcome.refuser();
    let room = refuser.limit.saturating_sub(refuser.allocated);
    let room = room.saturating_sub(refuser.withheld);
    // A transfer may request no additional bytes of a level that is over its limit.
    assert!(
        refuser.requested > room || refuser.allocated > refuser.limit,
        "refused although it fits:\n{outcome}"
    );
    for below in &outcome.entries[..outcome.entries.len() - 1] {
        let room = below.limit.saturating_sub(below.allocated);
        assert!(
            below.requested <= room,
            "a lower level is the refuser:\n{outcome}"
        );
    }
    Refusal::Limit(key(&refuser.allocator))
}

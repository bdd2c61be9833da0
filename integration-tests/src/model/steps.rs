//! The effect of each operation on the model.

use super::{
    Block, Buffer, Charging, Ledger, MAX, Model, Node, Reservation, Turn, narrow, round_up, size,
};
use crate::operation::{Key, Operation, Outcome, Refusal};

impl Model {
    /// Applies one operation. The caller updates the peaks.
    pub(super) fn step(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
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
                self.nodes.insert(allocator, Node::new(None, 0, limit));
                Ok(Outcome::Done)
            }
            Operation::Child {
                allocator,
                parent,
                reservation,
                limit,
            } => self.child(allocator, parent, reservation, limit),
            Operation::Force { allocator, bytes } => Ok(self.force(allocator, bytes)),
            Operation::Unforce { allocator } => {
                self.node_mut(allocator).forced = 0;
                Ok(Outcome::Done)
            }
            Operation::AllocateBytes { allocator, bytes } => {
                self.charge(allocator, size(bytes))?;
                Ok(Outcome::Done)
            }
            Operation::ReleaseBytes { allocator, bytes } => {
                self.node_mut(allocator).external -= size(bytes);
                Ok(Outcome::Done)
            }
            Operation::Limit { allocator, limit } => {
                self.node_mut(allocator).limit = size(limit).min(MAX);
                Ok(Outcome::Done)
            }
            Operation::Cap { allocator, cap } => {
                self.node_mut(allocator).cap = cap.map_or(MAX, size).min(MAX);
                Ok(Outcome::Done)
            }
            Operation::SetReservation { allocator, bytes } => {
                self.set_reservation(allocator, size(bytes))
            }
            Operation::ForceReservation { allocator, bytes } => {
                Ok(self.force_reservation(allocator, size(bytes)))
            }
            Operation::RaiseReservation { allocator, bytes } => {
                let raised = self.node(allocator).reservation + size(bytes);
                self.set_reservation(allocator, raised)
            }
            Operation::ForceRaiseReservation { allocator, bytes } => {
                let raised = self.node(allocator).reservation + size(bytes);
                Ok(self.force_reservation(allocator, raised))
            }
            Operation::LowerReservation { allocator, bytes } => {
                let lowered = self.node(allocator).reservation - size(bytes);
                self.set_reservation(allocator, lowered)
            }
            Operation::Close { allocator } => Ok(self.close(allocator)),
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    fn step_of_buffer(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Allocate {
                buffer,
                allocator,
                size,
            } => self.allocate(buffer, allocator, size),
            Operation::Release { buffer } => Ok(self.release(buffer)),
            Operation::Slice {
                buffer,
                slice,
                offset,
                length,
            } => Ok(self.slice(buffer, slice, offset, length)),
            Operation::Share {
                buffer,
                shared,
                allocator,
            } => {
                self.check_open(allocator)?;
                self.retain_in(buffer, shared, allocator);
                Ok(self.shared(shared))
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
            } => self.try_transfer(buffer, moved, allocator),
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    fn step_of_reservation(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Reserve {
                reservation,
                allocator,
                bytes,
            } => self.reserve(reservation, allocator, bytes),
            Operation::Extend { reservation, bytes } => self.extend(reservation, bytes),
            Operation::Shrink { reservation, bytes } => {
                self.reservation_mut(reservation).bytes -= size(bytes);
                Ok(Outcome::Done)
            }
            Operation::Use {
                buffer,
                reservation,
            } => self.use_reservation(buffer, reservation),
            Operation::Unreserve { reservation } => {
                self.reservations.remove(&reservation);
                Ok(Outcome::Done)
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    fn child(
        &mut self,
        allocator: Key,
        parent: Key,
        reservation: usize,
        limit: usize,
    ) -> Result<Outcome, Refusal> {
        self.check_open(parent)?;
        let child = Node::new(Some(parent), reservation, limit);
        if child.reservation > MAX {
            return Err(Refusal::Overflow(allocator));
        }
        if child.reservation > child.limit {
            return Err(Refusal::Limit(allocator));
        }
        let without = self.allocated_by_node();
        self.nodes.insert(allocator, child);
        let with = self.allocated_by_node();
        let charging = Charging::new(parent, without, with);
        if let Err(refusal) = self.check_charge(&charging, Turn::TRY) {
            self.nodes.remove(&allocator);
            return Err(refusal);
        }
        self.pass(&charging);
        Ok(Outcome::Done)
    }

    fn allocate(
        &mut self,
        buffer: Key,
        allocator: Key,
        requested: usize,
    ) -> Result<Outcome, Refusal> {
        self.check_open(allocator)?;
        let Some(capacity) = self.capacity(requested) else {
            return Err(Refusal::Overflow(allocator));
        };
        self.check_fits(allocator, size(capacity))?;
        self.new_buffer(buffer, allocator, capacity);
        Ok(Outcome::Allocated {
            capacity,
            references: 1,
        })
    }

    fn release(&mut self, buffer: Key) -> Outcome {
        let Buffer {
            allocator, block, ..
        } = self.buffers.remove(&buffer).expect("the buffer is alive");
        let Some(number) = block else {
            return Outcome::Released { last: true };
        };
        let block = self.block_mut(number);
        let ledger = block
            .ledgers
            .iter_mut()
            .find(|it| it.allocator == allocator);
        let ledger = ledger.expect("a buffer has a ledger");
        ledger.references -= 1;
        if ledger.references > 0 {
            return Outcome::Released { last: false };
        }
        block.ledgers.retain(|it| it.allocator != allocator);
        match block.ledgers.first() {
            None => drop(self.blocks.remove(&number)),
            Some(oldest) if block.owner == allocator => {
                let target = oldest.allocator;
                self.move_block(number, target);
            }
            Some(_) => (),
        }
        Outcome::Released { last: true }
    }

    fn slice(&mut self, buffer: Key, slice: Key, _offset: usize, length: usize) -> Outcome {
        let mut part = self.buffers[&buffer];
        part.length = length;
        if length == 0 {
            part.block = None;
        }
        self.insert_buffer(slice, part);
        let (references, _) = self.ledger(slice);
        Outcome::Sliced { references }
    }

    fn transfer(&mut self, buffer: Key, moved: Key, target: Key) -> Result<Outcome, Refusal> {
        self.check_open(target)?;
        let charging = self.move_to(buffer, moved, target);
        self.pass(&charging);
        let (references, accounted) = self.ledger(moved);
        Ok(Outcome::Transferred {
            fit: self.fitted(target, &charging.without, &charging.with),
            references,
            accounted,
        })
    }

    fn try_transfer(&mut self, buffer: Key, moved: Key, target: Key) -> Result<Outcome, Refusal> {
        self.check_open(target)?;
        let undo = self.clone();
        let charging = self.move_to(buffer, moved, target);
        if let Err(refusal) = self.check_charge(&charging, Turn::TRY) {
            *self = undo;
            return Err(refusal);
        }
        self.pass(&charging);
        Ok(self.shared(moved))
    }

    fn reserve(
        &mut self,
        reservation: Key,
        allocator: Key,
        bytes: usize,
    ) -> Result<Outcome, Refusal> {
        self.check_open(allocator)?;
        self.check_fits(allocator, size(bytes))?;
        let bytes = size(bytes);
        let new = Reservation { allocator, bytes };
        self.reservations.insert(reservation, new);
        Ok(Outcome::Done)
    }

    fn extend(&mut self, reservation: Key, bytes: usize) -> Result<Outcome, Refusal> {
        let allocator = self.reservations[&reservation].allocator;
        self.check_open(allocator)?;
        self.check_fits(allocator, size(bytes))?;
        self.reservation_mut(reservation).bytes += size(bytes);
        Ok(Outcome::Done)
    }

    fn use_reservation(&mut self, buffer: Key, reservation: Key) -> Result<Outcome, Refusal> {
        let Reservation { allocator, bytes } = self.reservations[&reservation];
        self.check_open(allocator)?;
        let capacity = round_up(bytes, 64);
        self.check_fits(allocator, capacity - bytes)?;
        self.reservations.remove(&reservation);
        let capacity = narrow(capacity);
        self.new_buffer(buffer, allocator, capacity);
        Ok(Outcome::Used { capacity })
    }

    fn force(&mut self, allocator: Key, bytes: usize) -> Outcome {
        let without = self.allocated_by_node();
        self.node_mut(allocator).forced += size(bytes);
        let with = self.allocated_by_node();
        let charging = Charging::new(allocator, without, with);
        self.pass(&charging);
        Outcome::Forced {
            fit: self.fitted(allocator, &charging.without, &charging.with),
        }
    }

    /// A higher reservation is a charge of the parent for what the larger of reservation and use grows by. It is
    /// refused beside that while the allocator or an ancestor is over its limit, and while an ancestor is closed,
    /// unless a level between them has reserved all that it uses.
    fn set_reservation(&mut self, allocator: Key, bytes: i128) -> Result<Outcome, Refusal> {
        let before = self.node(allocator).reservation;
        let without = self.allocated_by_node();
        if bytes > before {
            self.check_open(allocator)?;
            if bytes > MAX {
                return Err(Refusal::Overflow(allocator));
            }
            if bytes > self.node(allocator).bound() {
                return Err(Refusal::Limit(allocator));
            }
            let mut covered = false;
            for key in self.path(allocator) {
                let node = self.node(key);
                if node.closed && !covered {
                    return Err(Refusal::Closed(key));
                }
                if without[&key] > node.bound() {
                    return Err(Refusal::Limit(key));
                }
                covered |= key != allocator && node.reservation >= without[&key];
            }
        }
        let Some(parent) = self.node(allocator).parent else {
            return Ok(Outcome::Done);
        };
        self.node_mut(allocator).reservation = bytes;
        let with = self.allocated_by_node();
        let charging = Charging::new(parent, without, with);
        if let Err(refusal) = self.check_charge(&charging, Turn::TRY) {
            self.node_mut(allocator).reservation = before;
            return Err(refusal);
        }
        self.pass(&charging);
        Ok(Outcome::Done)
    }

    fn force_reservation(&mut self, allocator: Key, bytes: i128) -> Outcome {
        let node = self.node(allocator);
        let (reservation, limit, parent) = (node.reservation, node.bound(), node.parent);
        let Some(parent) = parent else {
            return Outcome::Forced { fit: true };
        };
        let without = self.allocated_by_node();
        self.node_mut(allocator).reservation = bytes;
        let with = self.allocated_by_node();
        let charging = Charging::new(parent, without, with);
        self.pass(&charging);
        let fit = bytes <= limit && self.fitted(parent, &charging.without, &charging.with);
        Outcome::Forced {
            fit: bytes <= reservation || fit,
        }
    }

    fn close(&mut self, allocator: Key) -> Outcome {
        if self.is_idle(allocator) {
            self.nodes.remove(&allocator);
            Outcome::Done
        } else {
            self.node_mut(allocator).closed = true;
            Outcome::Outstanding
        }
    }

    /// Removes closed allocators with which nothing is outstanding, which may leave nothing outstanding with
    /// their parents. A child's key is above its parent's.
    pub(super) fn remove_departed(&mut self) {
        for key in self.allocators().into_iter().rev() {
            if self.node(key).closed && self.is_idle(key) {
                self.nodes.remove(&key);
            }
        }
    }

    // ---- ledgers --------------------------------------------------------------------------

    pub(super) fn new_buffer(&mut self, buffer: Key, allocator: Key, capacity: usize) {
        let block = (capacity > 0).then(|| {
            let block = Block {
                size: size(capacity),
                owner: allocator,
                ledgers: Vec::new(),
            };
            self.next_block += 1;
            self.blocks.insert(self.next_block, block);
            self.next_block
        });
        let new = Buffer {
            allocator,
            block,
            length: capacity,
        };
        self.insert_buffer(buffer, new);
    }

    /// Adds a handle, and a ledger for it if the allocator has none.
    fn insert_buffer(&mut self, key: Key, buffer: Buffer) {
        self.buffers.insert(key, buffer);
        let Buffer {
            allocator, block, ..
        } = buffer;
        let Some(block) = block else {
            return;
        };
        let ledgers = &mut self.block_mut(block).ledgers;
        match ledgers.iter_mut().find(|it| it.allocator == allocator) {
            Some(ledger) => ledger.references += 1,
            None => ledgers.push(Ledger {
                allocator,
                references: 1,
            }),
        }
    }

    fn retain_in(&mut self, buffer: Key, shared: Key, target: Key) {
        let mut new = self.buffers[&buffer];
        new.allocator = target;
        self.insert_buffer(shared, new);
    }

    /// Retains the buffer in the target. If the source's ledger owns the block, the target becomes the owner.
    fn move_to(&mut self, buffer: Key, moved: Key, target: Key) -> Charging {
        self.retain_in(buffer, moved, target);
        let source = self.buffers[&buffer];
        match source.block {
            Some(number) if self.blocks[&number].owner == source.allocator => {
                self.charging_move(number, target)
            }
            _ => {
                let same = self.allocated_by_node();
                Charging::new(target, same.clone(), same)
            }
        }
    }

    /// Makes an allocator the owner of a block, whatever the limits say.
    fn move_block(&mut self, number: usize, target: Key) {
        let charging = self.charging_move(number, target);
        self.pass(&charging);
    }

    /// Makes an allocator the owner of a block.
    fn charging_move(&mut self, number: usize, target: Key) -> Charging {
        let before = self.allocated_by_node();
        let source = self.blocks[&number].owner;
        if source == target {
            return Charging::new(target, before.clone(), before);
        }
        let bytes = std::mem::take(&mut self.block_mut(number).size);
        let without = self.allocated_by_node();
        self.block_mut(number).size = bytes;
        self.block_mut(number).owner = target;
        Charging {
            to: target,
            before,
            without,
            with: self.allocated_by_node(),
        }
    }

    fn shared(&self, buffer: Key) -> Outcome {
        let (references, accounted) = self.ledger(buffer);
        Outcome::Shared {
            references,
            accounted,
        }
    }
}

//! The steps.

use arrow_memory_core::{ArrowBuf, ArrowBufMut, BufferAllocator, ForeignAllocation};
use arrow_memory_fuzz::Input;

use super::model::{Buffer, Case, Live};

/// The maximum number of allocators, the root included, and of buffers.
const ALLOCATORS: usize = 7;
const BUFFERS: usize = 40;

/// The maximum number of bytes that are forced at a time.
const FORCED: usize = 1 << 16;

impl Case {
    /// Takes one step.
    pub fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 40 {
            0 => self.child(input),
            1 => self.limit(input),
            2 => self.close(input),
            kind @ 3..12 => self.allocate(kind, input),
            kind @ 12..20 => self.change(kind, input),
            kind @ 20..23 => self.split(kind, input),
            kind @ 23..32 => self.derive(kind, input),
            kind @ 32..36 => self.reserve(kind, input),
            36 | 37 => self.external(input),
            _ if !self.buffers.is_empty() => {
                let at = input.below(self.buffers.len());
                drop(self.buffers.swap_remove(at));
            }
            _ => self.root.release_unused(),
        }
    }

    fn allocator(&self, input: &mut Input<'_>) -> BufferAllocator {
        self.allocators[input.below(self.allocators.len())].clone()
    }

    /// One that has not left the tree: one that has counts forced bytes for itself.
    fn allocator_in_tree(&self, input: &mut Input<'_>) -> BufferAllocator {
        let some = self.allocator(input);
        match some.parent_allocator() {
            Some(_) => some,
            None => BufferAllocator::clone(&self.root),
        }
    }

    fn child(&mut self, input: &mut Input<'_>) {
        if self.allocators.len() == ALLOCATORS {
            return;
        }
        let parent = self.allocator(input);
        let child = parent.child("child").limit(input.size().max(64));
        if let Ok(child) = child.build() {
            self.allocators.push(child);
        }
    }

    fn limit(&mut self, input: &mut Input<'_>) {
        let allocator = self.allocator(input);
        match input.byte() % 3 {
            0 => allocator.set_cap(Some(input.size())),
            1 => allocator.set_cap(None),
            // So that no backend is asked for what it does not have.
            _ => allocator.set_limit(input.size().min(16 << 20)),
        }
    }

    /// Closes or retires an allocator that is not the root.
    fn close(&mut self, input: &mut Input<'_>) {
        let at = input.below(self.allocators.len());
        if at == 0 {
            return;
        }
        match input.flag() {
            // It may have something outstanding, and is closed anyway.
            true => drop(self.allocators[at].close()),
            false => self.allocators[at].retire(),
        }
    }

    fn allocate(&mut self, kind: u8, input: &mut Input<'_>) {
        let allocator = self.allocator(input);
        match kind {
            3 | 4 => {
                let size = input.size();
                let buffer = allocator.buffer(size);
                assert!(buffer.iter().all(|it| it.capacity() >= size));
                self.keep_mut(buffer.ok(), Vec::new());
            }
            5 | 6 => {
                let size = input.size();
                let buffer = allocator.buffer_zeroed(size);
                let bytes = vec![0; if buffer.is_ok() { size } else { 0 }];
                self.keep_mut(buffer.ok(), bytes);
            }
            7 => {
                let (size, alignment) = (input.size(), 1 << input.below(14));
                let buffer = allocator.buffer_aligned(size, alignment);
                let mut buffer = buffer.ok();
                if let Some(buffer) = buffer.as_mut().filter(|it| it.capacity() > 0) {
                    assert!(buffer.as_mut_ptr().addr().is_multiple_of(alignment));
                }
                self.keep_mut(buffer, Vec::new());
            }
            8 | 9 => {
                let size = input.below(256);
                let bytes = input.bytes(size);
                let buffer = allocator.buffer_from_slice(bytes).ok();
                let allocation = self.allocation();
                self.keep(buffer, bytes.to_vec(), allocation);
            }
            _ => self.wrap(&allocator, input),
        }
    }

    /// Wraps a `Vec` in a buffer, out of a reservation or not.
    fn wrap(&mut self, allocator: &BufferAllocator, input: &mut Input<'_>) {
        let size = input.below(256);
        let bytes = input.bytes(size).to_vec();
        let mut foreign = ForeignAllocation::from_owner(bytes.clone());
        let how = input.byte();
        if how & 1 > 0 {
            foreign = foreign.charged_as(input.size().min(FORCED));
        }
        if how & 2 > 0 {
            foreign = foreign.forced();
        }
        let count = self.reservations.len();
        let wrapped = if how & 4 > 0 && count > 0 {
            let reservation = &mut self.reservations[input.below(count)];
            reservation.wrap_foreign_allocation(foreign)
        } else {
            allocator.wrap_foreign_allocation(foreign)
        };
        let allocation = self.allocation();
        self.keep(wrapped.ok(), bytes, allocation);
    }

    /// Changes a writable buffer.
    fn change(&mut self, kind: u8, input: &mut Input<'_>) {
        let count = self.buffers.len();
        let allocation = self.allocation();
        let Some(live) = self.buffers.get_mut(input.below(count)) else {
            return;
        };
        let Buffer::Mut(buffer) = &mut live.buffer else {
            return;
        };
        let (before, bytes) = (buffer.capacity(), &mut live.bytes);
        match kind {
            12 => {
                let (len, value) = (input.size(), input.byte());
                if buffer.resize(len, value).is_ok() {
                    bytes.resize(len, value);
                }
            }
            13 | 14 => {
                let size = input.below(200);
                let more = input.bytes(size);
                if buffer.extend_from_slice(more).is_ok() {
                    bytes.extend_from_slice(more);
                }
            }
            15 => {
                let more = input.size();
                if buffer.try_reserve(more).is_ok() {
                    assert!(buffer.capacity() - buffer.len() >= more);
                }
            }
            16 => {
                let len = input.size();
                buffer.truncate(len);
                bytes.truncate(len);
            }
            17 => drop(buffer.shrink_to_fit()),
            18 => {
                let size = input.below(64);
                let more = input.bytes(size);
                if buffer.push_within_capacity(more) {
                    bytes.extend_from_slice(more);
                }
            }
            _ => {
                let at = input.below(buffer.len());
                let value = input.byte();
                buffer[at..].fill(value);
                bytes[at..].fill(value);
            }
        }
        // A part of an allocation grows into an allocation of its own.
        if buffer.capacity() > before {
            live.allocation = allocation;
        }
    }

    /// Splits a writable buffer, and keeps both parts.
    fn split(&mut self, kind: u8, input: &mut Input<'_>) {
        let count = self.buffers.len();
        if count == 0 || count >= BUFFERS {
            return;
        }
        let at = input.below(count);
        if let Live {
            buffer: Buffer::Mut(buffer),
            bytes,
            allocation,
        } = &mut self.buffers[at]
        {
            let point = input.size().min(buffer.capacity());
            let tail = bytes.split_off(point.min(bytes.len()));
            let (other, bytes) = if kind == 20 {
                (buffer.split_to(point), std::mem::replace(bytes, tail))
            } else {
                (buffer.split_off(point), tail)
            };
            let allocation = *allocation;
            let buffer = Buffer::Mut(other);
            self.buffers.push(Live {
                buffer,
                bytes,
                allocation,
            });
        }
    }

    /// Makes a buffer of another one, or changes what it is.
    fn derive(&mut self, kind: u8, input: &mut Input<'_>) {
        let count = self.buffers.len();
        if count == 0 {
            return;
        }
        let at = input.below(count);
        if kind < 26 {
            let live = self.buffers.swap_remove(at);
            return self.turn(live, kind, input);
        }
        let target = self.allocator(input);
        let Live {
            buffer: Buffer::Shared(buffer),
            bytes,
            allocation,
        } = &self.buffers[at]
        else {
            return;
        };
        let (mut bytes, mut allocation) = (bytes.clone(), *allocation);
        let made = match kind {
            26 => {
                let start = input.size().min(bytes.len());
                let len = input.size().min(bytes.len() - start);
                bytes = bytes[start..start + len].to_vec();
                Some(buffer.slice(start..start + len))
            }
            27 => Some(buffer.clone()),
            28 => buffer.retain_in(&target).ok(),
            29 => buffer.transfer_ownership(&target).ok().map(|it| it.buffer),
            30 => buffer.try_transfer_ownership(&target).ok(),
            _ => {
                let copy = buffer.compact().ok();
                allocation = self.allocation();
                copy
            }
        };
        self.keep(made, bytes, allocation);
    }

    /// Makes another buffer of one, which is consumed.
    fn turn(&mut self, live: Live, kind: u8, input: &mut Input<'_>) {
        let target = self.allocator(input);
        let buffer = match (live.buffer, kind) {
            (Buffer::Mut(buffer), 23) => Buffer::Shared(buffer.freeze()),
            (Buffer::Mut(mut buffer), _) => {
                // Refused if the target is closed.
                let _: Result<bool, _> = buffer.transfer_ownership(&target);
                Buffer::Mut(buffer)
            }
            (Buffer::Shared(buffer), 23) => match buffer.try_into_mut() {
                Ok(buffer) => Buffer::Mut(buffer),
                Err(buffer) => Buffer::Shared(buffer),
            },
            (Buffer::Shared(buffer), 24) => Buffer::Shared(match buffer.adopt(&target) {
                Ok(buffer) => buffer,
                Err(refused) => refused.value,
            }),
            (Buffer::Shared(buffer), _) => Buffer::Shared(match buffer.try_move_to(&target) {
                Ok(buffer) => buffer,
                Err(refused) => refused.value,
            }),
        };
        self.buffers.push(Live { buffer, ..live });
    }

    fn reserve(&mut self, kind: u8, input: &mut Input<'_>) {
        let count = self.reservations.len();
        if kind == 32 && count < 8 {
            let mut new = self.allocator_in_tree(input).new_reservation();
            // Refused if it does not fit; it is empty then.
            drop(new.resize(input.size()));
            self.reservations.push(new);
            return;
        }
        if count == 0 {
            return;
        }
        let at = input.below(count);
        let reservation = &mut self.reservations[at];
        match (kind, input.byte() % 4) {
            (32 | 33, 0) => drop(reservation.add(input.size())),
            (32 | 33, 1) => {
                let _: bool = reservation.force_add(input.size().min(FORCED));
            }
            (32 | 33, 2) => reservation.shrink(input.size().min(reservation.size())),
            (32 | 33, _) => drop(self.reservations.swap_remove(at)),
            (34, _) if count < 8 => {
                let part = reservation.split(input.size().min(reservation.size()));
                self.reservations.push(part);
            }
            _ if reservation.size() <= 16 << 20 => {
                let reservation = self.reservations.swap_remove(at);
                match reservation.allocate_buffer() {
                    Ok(buffer) => self.keep_mut(Some(buffer), Vec::new()),
                    Err((_, reservation)) => self.reservations.push(reservation),
                }
            }
            _ => {}
        }
    }

    fn external(&mut self, input: &mut Input<'_>) {
        let charge = input.byte() % 3;
        if charge == 0 && !self.external.is_empty() {
            let at = input.below(self.external.len());
            let (allocator, bytes) = self.external.swap_remove(at);
            return allocator.release_bytes(bytes);
        }
        let allocator = self.allocator_in_tree(input);
        let size = input.size();
        if charge == 1 {
            let bytes = size.min(FORCED);
            let _: bool = allocator.force_allocate(bytes);
            self.external.push((allocator, bytes));
        } else if allocator.allocate_bytes(size).is_ok() {
            self.external.push((allocator, size));
        }
    }

    /// Keeps a writable buffer on an allocation of its own, unless it was refused.
    fn keep_mut(&mut self, buffer: Option<ArrowBufMut>, bytes: Vec<u8>) {
        let allocation = self.allocation();
        if let Some(buffer) = buffer.filter(|_| self.buffers.len() < BUFFERS) {
            let buffer = Buffer::Mut(buffer);
            self.buffers.push(Live {
                buffer,
                bytes,
                allocation,
            });
        }
    }

    /// Keeps a buffer, unless it was refused.
    fn keep(&mut self, buffer: Option<ArrowBuf>, bytes: Vec<u8>, allocation: usize) {
        if let Some(buffer) = buffer.filter(|_| self.buffers.len() < BUFFERS) {
            let buffer = Buffer::Shared(buffer);
            self.buffers.push(Live {
                buffer,
                bytes,
                allocation,
            });
        }
    }
}

//! [`Client`]: an allocator with a limit, what is held of it, and what a client does that neither blocks nor waits.

use std::sync::Arc;

use arrow_memory_arrow::deps::arrow_array::ArrayRef;
use arrow_memory_arrow::deps::arrow_array::ffi::FFI_ArrowArray;
use arrow_memory_core::{
    AllocError, AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator, WaitError,
};
use arrow_memory_integration_tests::load::{Count, size};

use crate::server::{LIMIT, PURPOSE, Server};

/// Something that is charged to a client. The fields of some are there to be dropped.
pub(crate) enum Held {
    Buffer(ArrowBufMut),
    Frozen(#[expect(dead_code, reason = "is dropped")] ArrowBuf),
    Reservation(#[expect(dead_code, reason = "is dropped")] AllocationReservation),
    Array(ArrayRef),
    Exported(#[expect(dead_code, reason = "is dropped")] FFI_ArrowArray),
    /// An operator of the client, with its memory.
    Operator(#[expect(dead_code, reason = "is dropped")] [ArrowBufMut; 2]),
    Admitted(#[expect(dead_code, reason = "is dropped")] BufferAllocator),
}

/// A client between its arrival and its leaving.
///
/// The fields are dropped in this order: what is held before the allocator.
pub(crate) struct Client {
    pub(crate) held: Vec<Held>,
    pub(crate) allocator: BufferAllocator,
    pub(crate) server: Arc<Server>,
    /// External bytes that were charged and not released.
    external: usize,
    /// Its random numbers: each step is drawn from a number of this generator, whichever thread runs it.
    random: fastrand::Rng,
    /// Whether the operator has cancelled it: a request was refused since an allocator is closed.
    pub(crate) cancelled: bool,
    /// Whether others may hold something of its children for a moment.
    pub(crate) had_cache: bool,
}

impl Client {
    pub(crate) fn new(server: &Arc<Server>, allocator: BufferAllocator, seed: u64) -> Self {
        server.totals().add(Count::Arrived);
        server.seat(&allocator);
        Self {
            held: Vec::new(),
            allocator,
            server: Arc::clone(server),
            external: 0,
            random: fastrand::Rng::with_seed(seed),
            cancelled: false,
            had_cache: false,
        }
    }

    /// Begins a step, whose random numbers are its own.
    pub(crate) fn begin_step(&mut self) {
        fastrand::seed(self.random.u64(..));
        self.server.totals().add(Count::Steps);
    }

    /// Does something at random. `choice` is below 100.
    pub(crate) fn step(&mut self, choice: u32) {
        match choice {
            0..34 => self.allocate(),
            34..56 => self.release(),
            56..68 => self.change(),
            68..75 => self.share(),
            75..83 => self.take_over(),
            83..90 => self.arrow(),
            90..93 => self.reserve(),
            93..96 => self.charge_external(),
            96 => self.start_operator(),
            97 => self.ask_for_nothing(),
            98 => self.change_reservation(),
            _ => self.panic_now_and_then(),
        }
        while self.held.len() > 24 {
            self.release();
        }
    }

    fn allocate(&mut self) {
        let bytes = size();
        let buffer = match fastrand::u32(..4) {
            0 => self.allocator.buffer_zeroed(bytes),
            1 => self.allocator.buffer_aligned(bytes, 4096),
            _ => self.allocator.buffer(bytes),
        };
        match buffer {
            Ok(buffer) => self.hold(buffer),
            Err(error) => self.refused(&error),
        }
    }

    /// Writes to all of a buffer and holds it.
    pub(crate) fn hold(&mut self, mut buffer: ArrowBufMut) {
        self.server.totals().add(Count::Granted);
        let written = buffer.resize(buffer.capacity(), 7);
        debug_assert!(written.is_ok());
        self.held.push(Held::Buffer(buffer));
    }

    pub(crate) fn release(&mut self) {
        if !self.held.is_empty() {
            drop(self.held.swap_remove(fastrand::usize(..self.held.len())));
        }
    }

    /// The latest buffer that is held and exclusive.
    pub(crate) fn buffer_mut(&mut self) -> Option<&mut ArrowBufMut> {
        self.held.iter_mut().rev().find_map(|held| match held {
            Held::Buffer(buffer) => Some(buffer),
            _ => None,
        })
    }

    /// Takes that buffer out of what is held.
    fn take_buffer(&mut self) -> Option<ArrowBufMut> {
        let is_buffer = |held: &Held| matches!(held, Held::Buffer(_));
        let at = self.held.iter().rposition(is_buffer)?;
        match self.held.swap_remove(at) {
            Held::Buffer(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Grows, shrinks or splits a buffer, or copies a part of one.
    fn change(&mut self) {
        let choice = fastrand::u32(..8);
        let Some(buffer) = self.buffer_mut() else {
            return;
        };
        let changed = match choice {
            0..3 => buffer.resize(buffer.len() + size() / 4, 1),
            3 => buffer.try_reserve(size() / 4),
            4 => {
                buffer.truncate(buffer.len() / 2);
                buffer.shrink_to_fit()
            }
            5 => {
                let half = buffer.len() / 2;
                let rest = buffer.split_off(half);
                self.held.push(Held::Buffer(rest));
                Ok(())
            }
            _ => self.compact(),
        };
        if let Err(error) = changed {
            self.refused(&error);
        }
    }

    /// Freezes a buffer, and holds it, a slice of it, and a copy of a part of it.
    fn compact(&mut self) -> Result<(), AllocError> {
        let Some(buffer) = self.take_buffer() else {
            return Ok(());
        };
        let whole = buffer.freeze();
        let part = whole.slice(whole.len() / 4..whole.len() / 2);
        let copy = part.compact();
        self.held.extend([whole, part].map(Held::Frozen));
        self.held.push(Held::Frozen(copy?));
        Ok(())
    }

    /// Puts a buffer on the shelf, and keeps a handle on it now and then.
    fn share(&mut self) {
        let Some(buffer) = self.take_buffer().filter(|it| it.capacity() > 0) else {
            return;
        };
        let (buffer, shelf) = (buffer.freeze(), &self.server.shelf_allocator);
        let shared = match fastrand::u32(..3) {
            0 => buffer.transfer_ownership(shelf).map(|it| it.buffer),
            1 => buffer.try_transfer_ownership(shelf),
            _ => buffer.retain_in(shelf),
        };
        match shared {
            Ok(shared) => {
                self.server.totals().add(Count::Shared);
                self.server.put(shared);
            }
            Err(error) => self.server.ground.not_moved(&error),
        }
        if fastrand::bool() {
            self.held.push(Held::Frozen(buffer));
        }
    }

    /// Takes a buffer from the shelf.
    fn take_over(&mut self) {
        let Some(buffer) = self.server.take() else {
            return;
        };
        let to = &self.allocator;
        let moved = match fastrand::u32(..4) {
            0 => buffer.transfer_ownership(to).map(|it| it.buffer),
            1 => buffer.try_transfer_ownership(to),
            2 => buffer.retain_in(to),
            _ => buffer.try_move_to(to).map_err(|refused| refused.source),
        };
        match moved {
            Ok(moved) => {
                self.server.totals().add(Count::Moved);
                self.held.push(Held::Frozen(moved));
            }
            Err(error) => {
                self.server.ground.not_moved(&error);
                self.cancelled |= to.is_closed();
            }
        }
    }

    /// Reserves bytes, splits them, or makes a buffer of them.
    fn reserve(&mut self) {
        let mut reservation = self.allocator.new_reservation();
        if let Err(error) = reservation.add(size()) {
            return self.refused(&error);
        }
        if fastrand::bool() {
            let half = reservation.split(reservation.size() / 2);
            self.held.push(Held::Reservation(half));
        }
        if fastrand::bool() {
            return self.held.push(Held::Reservation(reservation));
        }
        match reservation.allocate_buffer() {
            Ok(buffer) => self.hold(buffer),
            Err((error, _)) => self.refused(&error),
        }
    }

    fn charge_external(&mut self) {
        let bytes = size();
        match fastrand::u32(..8) {
            0 => {
                self.allocator.force_allocate(bytes);
                self.external += bytes;
            }
            1..4 => {
                let some = self.external / 2;
                self.allocator.release_bytes(some);
                self.external -= some;
            }
            _ => match self.allocator.allocate_bytes(bytes) {
                Ok(()) => self.external += bytes,
                Err(error) => self.refused(&error),
            },
        }
    }

    /// Starts an operator below the client, with a limit of its own.
    fn start_operator(&mut self) {
        let child = self.allocator.child("operator").limit(LIMIT / 64);
        let pair = child.build().and_then(|operator| {
            let one = operator.buffer(size() / 16)?;
            Ok([one, operator.buffer_zeroed(size() / 16)?])
        });
        match pair {
            Ok(pair) => self.held.push(Held::Operator(pair)),
            Err(error) => self.refused(&error),
        }
    }

    /// Has others give back memory that nobody needs.
    fn ask_for_nothing(&self) {
        self.allocator.reclaim(size());
    }

    fn change_reservation(&mut self) {
        if let Err(error) = self.allocator.set_reservation(size() / 4) {
            self.refused(&error);
        }
    }

    fn panic_now_and_then(&self) {
        if fastrand::u32(..64) == 0 {
            std::panic::resume_unwind(Box::new(PURPOSE));
        }
    }

    /// Drops all that is held and releases what is charged besides.
    pub(crate) fn drop_all(&mut self) {
        self.held.clear();
        self.allocator
            .release_bytes(std::mem::take(&mut self.external));
        self.allocator
            .lower_reservation(self.allocator.reservation());
    }

    /// Counts a refusal.
    pub(crate) fn refused(&mut self, error: &AllocError) {
        self.cancelled |= matches!(error, AllocError::Closed { .. });
        self.server.ground.refused(error);
    }

    /// Counts the end of a wait, and makes room if that is asked for.
    pub(crate) fn waited(&mut self, ended: Result<Held, WaitError>) {
        match ended {
            Ok(Held::Buffer(buffer)) => self.hold(buffer),
            Ok(held) => {
                self.server.totals().add(Count::Granted);
                self.held.push(held);
            }
            Err(WaitError::Refused(error)) => self.refused(&error),
            Err(error) => {
                if self.server.ground.ended(error, true).is_some() {
                    let half = self.held.len() / 2;
                    self.held.truncate(half);
                }
            }
        }
    }
}

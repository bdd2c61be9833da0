//! One thread of the tests of limits: random operations of every kind that respects limits.

use std::sync::{Arc, Mutex};

use arrow_memory_core::__private::lock_uncounted as lock;
use arrow_memory_core::{
    AllocError, AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator,
};
use arrow_memory_integration_tests::history::{History, Level, Log, OpenCharge, OpenLevel, Span};

use super::{LIMIT, Node, steps};

/// An object that is charged.
pub(super) struct Held {
    what: Memory,
    charges: Vec<OpenCharge>,
    level: Place,
}

#[expect(dead_code, reason = "most are only held to be dropped")]
enum Memory {
    Writable(ArrowBufMut),
    Buffer(ArrowBuf),
    Reservation(AllocationReservation),
    External(BufferAllocator, usize),
    /// A child, perhaps with its last handle.
    Child(BufferAllocator),
}

/// The level to which an object is charged.
#[derive(Clone)]
enum Place {
    Fixed(Level),
    /// A child that a thread made, which leaves the tree when its last object is dropped.
    Own(Arc<OwnLevel>),
}

struct OwnLevel {
    open: OpenLevel,
    left: Mutex<Option<Span>>,
}

impl Place {
    fn level(&self) -> Level {
        match self {
            Self::Fixed(level) => *level,
            Self::Own(own) => own.open.level,
        }
    }

    /// Records that an object of this level was dropped.
    fn leave(self, span: Span, log: &mut Log) {
        if let Self::Own(own) = self {
            {
                let left = &mut *lock(&own.left);
                *left = Some(left.map_or(span, |earlier| earlier.last(span)));
            }
            if let Some(own) = Arc::into_inner(own) {
                let left = own.left.into_inner().unwrap();
                log.removed(own.open, left.expect("somebody left"));
            }
        }
    }
}

pub(super) fn release(held: Held, history: &History, log: &mut Log) {
    let Held {
        what,
        charges,
        level,
    } = held;
    let ((), span) = history.timed(|| match what {
        Memory::External(allocator, bytes) => allocator.release_bytes(bytes),
        other => drop(other),
    });
    for charge in charges {
        log.ended(charge, span);
    }
    level.leave(span, log);
}

pub(super) struct Worker<'a> {
    levels: &'a [Node],
    history: &'a History,
    /// Objects that threads exchange, for others to release.
    shared: &'a Mutex<Vec<Held>>,
    held: Vec<Held>,
    log: Log,
    random: fastrand::Rng,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        levels: &'a [Node],
        history: &'a History,
        shared: &'a Mutex<Vec<Held>>,
        seed: u64,
    ) -> Self {
        Self {
            levels,
            history,
            shared,
            held: Vec::new(),
            log: Log::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn work(&mut self) {
        for _ in 0..steps() {
            match self.random.usize(..20) {
                0..8 => self.allocate(),
                8 => self.allocate_bytes(),
                9 => self.reserve(),
                10 => self.grow(),
                11 => self.use_reservation(),
                12 => self.transfer(),
                13 => self.own_child(),
                14 => self.exchange(),
                _ => self.release_any(),
            }
            while self.held.len() > 10 {
                self.release_any();
            }
        }
        while !self.held.is_empty() {
            self.release_any();
        }
        self.history.add(std::mem::take(&mut self.log));
    }

    fn allocate(&mut self) {
        let (allocator, place) = self.place();
        let size = self.size(&allocator);
        self.buffer(&allocator, place, size);
    }

    fn buffer(&mut self, allocator: &BufferAllocator, place: Place, size: usize) {
        let (result, span) = self.history.timed(|| allocator.buffer(size));
        let capacity = size.next_multiple_of(64);
        if let Some(buffer) = self.outcome(result, &place, capacity, span) {
            assert_eq!(buffer.capacity(), capacity);
            let what = if self.random.usize(..2) == 0 {
                Memory::Writable(buffer)
            } else {
                Memory::Buffer(buffer.freeze())
            };
            self.hold(what, capacity, place, span);
        }
    }

    fn allocate_bytes(&mut self) {
        let (allocator, place) = self.place();
        let bytes = self.size(&allocator);
        let (result, span) = self.history.timed(|| allocator.allocate_bytes(bytes));
        if self.outcome(result, &place, bytes, span).is_some() {
            self.hold(Memory::External(allocator, bytes), bytes, place, span);
        }
    }

    fn reserve(&mut self) {
        let (allocator, place) = self.place();
        let bytes = self.size(&allocator);
        let mut reservation = allocator.new_reservation();
        let (result, span) = self.history.timed(|| reservation.add(bytes));
        if self.outcome(result, &place, bytes, span).is_some() {
            self.hold(Memory::Reservation(reservation), bytes, place, span);
        }
    }

    /// Makes a held buffer larger, by the smallest step that is charged.
    fn grow(&mut self) {
        let writable = |held: &Held| matches!(held.what, Memory::Writable(_));
        let Some(index) = self.held.iter().position(writable) else {
            return;
        };
        let mut held = self.held.swap_remove(index);
        if let Memory::Writable(buffer) = &mut held.what {
            let before = buffer.capacity();
            let length = before + 1 + self.random.usize(..1000);
            let (result, span) = self.history.timed(|| buffer.resize(length, 7));
            let after = buffer.capacity();
            let asked = length.next_multiple_of(64) - before;
            if self.outcome(result, &held.level, asked, span).is_some() {
                let level = held.level.level();
                held.charges
                    .push(self.log.granted(level, after - before, span));
            } else {
                assert_eq!(after, before, "a refused growth changes nothing");
            }
        }
        self.held.push(held);
    }

    fn use_reservation(&mut self) {
        let reservation = |held: &Held| matches!(held.what, Memory::Reservation(_));
        let Some(index) = self.held.iter().position(reservation) else {
            return;
        };
        let Held {
            what,
            mut charges,
            level,
        } = self.held.swap_remove(index);
        let Memory::Reservation(reservation) = what else {
            unreachable!("that is what was looked for");
        };
        let remainder = reservation.size().next_multiple_of(64) - reservation.size();
        let (result, span) = self.history.timed(|| reservation.allocate_buffer());
        let what = match result {
            Ok(buffer) => {
                charges.push(self.log.granted(level.level(), remainder, span));
                Memory::Writable(buffer)
            }
            Err((error, reservation)) => {
                let refused: Result<(), _> = Err(error);
                self.outcome(refused, &level, remainder, span);
                Memory::Reservation(reservation)
            }
        };
        self.held.push(Held {
            what,
            charges,
            level,
        });
    }

    /// Moves a buffer to another level, if it fits.
    fn transfer(&mut self) {
        let frozen = |held: &Held| matches!(held.what, Memory::Buffer(_));
        let Some(index) = self.held.iter().position(frozen) else {
            return;
        };
        let (target, place) = self.place();
        let Memory::Buffer(buffer) = &self.held[index].what else {
            unreachable!("that is what was looked for");
        };
        let (result, span) = self
            .history
            .timed(|| buffer.try_transfer_ownership(&target));
        let Ok(moved) = result else {
            return;
        };
        let bytes = moved.accounted_size();
        let source = self.held.swap_remove(index);
        let Held {
            what,
            charges,
            level,
        } = source;
        // In this tree a buffer has one ledger, so the source's ledger ends with its handle.
        let ((), dropped) = self.history.timed(|| drop(what));
        for charge in charges {
            self.log.ended(charge, span);
        }
        level.leave(dropped, &mut self.log);
        self.hold(Memory::Buffer(moved), bytes, place, span);
    }

    /// Makes a child with a reservation, which lives until its handle and its buffers are dropped.
    fn own_child(&mut self) {
        let node = self.any_node();
        let (parent, level) = (node.allocator.clone(), node.open.level);
        let reservation = self.size(&parent);
        let limit = if self.random.usize(..2) == 0 {
            usize::MAX
        } else {
            reservation + self.random.usize(..4000)
        };
        let (result, span) = self
            .history
            .timed(|| parent.new_child_allocator("own", reservation, limit));
        let Some(child) = self.outcome(result, &Place::Fixed(level), reservation, span) else {
            return;
        };
        let open = self.history.level(Some(level), reservation, limit, span);
        let place = Place::Own(Arc::new(OwnLevel {
            open,
            left: Mutex::new(None),
        }));
        for _ in 0..self.random.usize(..4) {
            let size = self.size(&child);
            self.buffer(&child, place.clone(), size);
        }
        self.held.push(Held {
            what: Memory::Child(child),
            charges: Vec::new(),
            level: place,
        });
    }

    /// Gives an object to another thread to release, and takes one.
    fn exchange(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.usize(..self.held.len());
        let given = self.held.swap_remove(index);
        let taken = {
            let shared = &mut *lock(self.shared);
            shared.push(given);
            (shared.len() > 4).then(|| shared.remove(0))
        };
        self.held.extend(taken);
    }

    fn release_any(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.usize(..self.held.len());
        let held = self.held.swap_remove(index);
        release(held, self.history, &mut self.log);
    }

    /// The granted object, or `None` after a refusal, which it records.
    fn outcome<T>(
        &mut self,
        result: Result<T, AllocError>,
        place: &Place,
        bytes: usize,
        span: Span,
    ) -> Option<T> {
        match result {
            Ok(granted) => Some(granted),
            Err(AllocError::OutOfMemory { .. }) => {
                self.log.refused(place.level(), bytes, span);
                None
            }
            Err(other) => panic!("only limits refuse here: {other}"),
        }
    }

    fn hold(&mut self, what: Memory, bytes: usize, level: Place, made: Span) {
        let charge = self.log.granted(level.level(), bytes, made);
        self.held.push(Held {
            what,
            charges: vec![charge],
            level,
        });
    }

    fn any_node(&mut self) -> &'a Node {
        &self.levels[self.random.usize(..self.levels.len())]
    }

    fn place(&mut self) -> (BufferAllocator, Place) {
        let node = self.any_node();
        (node.allocator.clone(), Place::Fixed(node.open.level))
    }

    /// A size that is often small, often close to the bytes left, and sometimes too large for any level.
    fn size(&mut self, allocator: &BufferAllocator) -> usize {
        let left = || usize::try_from(allocator.headroom()).unwrap_or(0);
        match self.random.usize(..16) {
            0 => left(),
            1 => left() / 2 + 1,
            2 => left() + 1 + self.random.usize(..200),
            3 => LIMIT + 1,
            4..8 => 1 + self.random.usize(..8000),
            _ => 1 + self.random.usize(..1500),
        }
        .max(1)
    }
}

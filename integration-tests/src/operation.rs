//! The operations on a tree and their outcomes, as plain data that the traces, the naive model and the real
//! tree share.
//!
//! Allocators, buffers and reservations are numbered separately, as in the traces (`a3`, `b17`, `r2`). No
//! number is used twice.

use std::fmt;

/// The number of an allocator, a buffer or a reservation.
pub type Key = usize;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates the root.
    Root {
        /// Its key.
        allocator: Key,
        /// Its limit in bytes.
        limit: usize,
    },
    /// Creates a child.
    Child {
        /// Its key.
        allocator: Key,
        /// Its parent.
        parent: Key,
        /// Bytes reserved for its lifetime.
        reservation: usize,
        /// Its limit in bytes.
        limit: usize,
    },
    /// Allocates a buffer.
    Allocate {
        /// Its key.
        buffer: Key,
        /// The allocator that is charged.
        allocator: Key,
        /// Bytes asked for.
        size: usize,
    },
    /// Drops a buffer.
    Release {
        /// The key of the object.
        buffer: Key,
    },
    /// Makes a buffer of a part of another one.
    Slice {
        /// The buffer.
        buffer: Key,
        /// The key of the part.
        slice: Key,
        /// The offset of the part.
        offset: usize,
        /// The length of the part.
        length: usize,
    },
    /// Retains a buffer in an allocator, which may be another one.
    Share {
        /// The buffer.
        buffer: Key,
        /// The key of the new buffer.
        shared: Key,
        /// The allocator in which it is retained.
        allocator: Key,
    },
    /// Transfers ownership; the source stays alive.
    Transfer {
        /// The buffer.
        buffer: Key,
        /// The key of the new buffer.
        moved: Key,
        /// The new owner.
        allocator: Key,
    },
    /// Transfers ownership if it fits.
    TryTransfer {
        /// The buffer.
        buffer: Key,
        /// The key of the new buffer.
        moved: Key,
        /// The new owner.
        allocator: Key,
    },
    /// Sets bytes aside in an `AllocationReservation`.
    Reserve {
        /// Its key.
        reservation: Key,
        /// The allocator that is charged.
        allocator: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Adds bytes to an `AllocationReservation`.
    Extend {
        /// The key of the object.
        reservation: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Takes bytes out of an `AllocationReservation`.
    Shrink {
        /// The key of the object.
        reservation: Key,
        /// The number of bytes; no more than the reservation has.
        bytes: usize,
    },
    /// Turns an `AllocationReservation` into a buffer.
    Use {
        /// The key of the buffer.
        buffer: Key,
        /// The reservation, which is consumed unless the step is refused.
        reservation: Key,
    },
    /// Drops an `AllocationReservation`.
    Unreserve {
        /// The key of the object.
        reservation: Key,
    },
    /// Charges bytes even if they do not fit.
    Force {
        /// The allocator that is charged.
        allocator: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Gives back all forced bytes of an allocator.
    Unforce {
        /// The key of the allocator.
        allocator: Key,
    },
    /// Charges external bytes.
    AllocateBytes {
        /// The allocator that is charged.
        allocator: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Releases external bytes that `AllocateBytes` charged.
    ReleaseBytes {
        /// The key of the allocator.
        allocator: Key,
        /// The number of bytes; no more than were charged.
        bytes: usize,
    },
    /// Changes a limit.
    Limit {
        /// The key of the allocator.
        allocator: Key,
        /// The new limit in bytes.
        limit: usize,
    },
    /// Sets a live reservation.
    SetReservation {
        /// The key of the allocator.
        allocator: Key,
        /// The new reservation in bytes.
        bytes: usize,
    },
    /// Sets a live reservation even if it does not fit.
    ForceReservation {
        /// The key of the allocator.
        allocator: Key,
        /// The new reservation in bytes.
        bytes: usize,
    },
    /// Raises a live reservation.
    RaiseReservation {
        /// The key of the allocator.
        allocator: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Raises a live reservation even if it does not fit.
    ForceRaiseReservation {
        /// The key of the allocator.
        allocator: Key,
        /// The number of bytes.
        bytes: usize,
    },
    /// Lowers a live reservation.
    LowerReservation {
        /// The key of the allocator.
        allocator: Key,
        /// The number of bytes; no more than the reservation has.
        bytes: usize,
    },
    /// Closes an allocator.
    Close {
        /// The key of the object.
        allocator: Key,
    },
    /// Sets the cap of an allocator, its second limit.
    Cap {
        /// The key of the allocator.
        allocator: Key,
        /// The cap in bytes; `None` for no cap.
        cap: Option<usize>,
    },
    /// Begins to wait for memory: makes a future and polls it once.
    Wait {
        /// The key of the future. A larger one is younger.
        wait: Key,
        /// What the future asks for.
        ask: Ask,
        /// The time of its deadline.
        deadline: Option<u32>,
    },
    /// Polls a future, with another waker than before.
    Poll {
        /// The key of the future.
        wait: Key,
    },
    /// Drops a future.
    Cancel {
        /// The key of the future.
        wait: Key,
    },
    /// Ends the waits whose deadline has passed.
    Expire {
        /// The time. It does not go back.
        now: u32,
    },
}

/// What a future asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A buffer.
    Buffer {
        /// Its key.
        buffer: Key,
        /// The allocator that is charged.
        allocator: Key,
        /// Bytes asked for, at least 1.
        size: usize,
    },
    /// An `AllocationReservation`.
    Reservation {
        /// Its key.
        reservation: Key,
        /// The allocator that is charged.
        allocator: Key,
        /// The number of bytes, at least 1.
        bytes: usize,
    },
    /// More bytes in a buffer that is the only one on its block, and has all of it.
    Growth {
        /// The key of the buffer.
        buffer: Key,
        /// Bytes beyond its length; at least as many as that.
        additional: usize,
    },
    /// A child.
    Child {
        /// Its key.
        allocator: Key,
        /// Its parent.
        parent: Key,
        /// Bytes reserved for its lifetime, at least 1 and at most its limit.
        reservation: usize,
        /// Its limit in bytes.
        limit: usize,
    },
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, without further numbers.
    Done,
    /// Allocated: the capacity and the references of the ledger.
    Allocated {
        /// The capacity in bytes, all of which is charged.
        capacity: usize,
        /// Buffers that share the ledger.
        references: usize,
    },
    /// Released.
    Released {
        /// Whether it was the last buffer of its ledger.
        last: bool,
    },
    /// Sliced: the references of the ledger.
    Sliced {
        /// Buffers that share the ledger.
        references: usize,
    },
    /// Shared, or transferred by `TryTransfer`.
    Shared {
        /// Buffers that share the target's ledger.
        references: usize,
        /// The bytes that the target's ledger is charged for.
        accounted: usize,
    },
    /// Transferred.
    Transferred {
        /// `allocation_fit`.
        fit: bool,
        /// Buffers that share the target's ledger.
        references: usize,
        /// The bytes that the target's ledger is charged for.
        accounted: usize,
    },
    /// A reservation became a buffer of this capacity.
    Used {
        /// Bytes of capacity.
        capacity: usize,
    },
    /// Forced bytes, or a forced reservation.
    Forced {
        /// Whether it fitted.
        fit: bool,
    },
    /// A future is not ready.
    Pending,
    /// A future made a buffer grow to this capacity.
    Grown {
        /// Bytes of capacity.
        capacity: usize,
    },
    /// Refused; nothing has changed.
    Refused(Refusal),
    /// `close` found something outstanding and left the allocator closed.
    Outstanding,
}

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The limit of this allocator would be passed.
    Limit(Key),
    /// A limit would be passed, but it is not known which one.
    SomeLimit,
    /// This allocator is closed.
    Closed(Key),
    /// A sum would be above `isize::MAX` at this allocator.
    Overflow(Key),
}

impl Refusal {
    /// Whether two refusals can be the same: `SomeLimit` stands for any limit, and a sum that overflows at a
    /// limited allocator passes its limit, too.
    pub fn agrees(self, other: Self) -> bool {
        use Refusal::{Closed, Limit, Overflow, SomeLimit};
        match (self, other) {
            (Limit(a) | Overflow(a), Limit(b) | Overflow(b)) | (Closed(a), Closed(b)) => a == b,
            (SomeLimit, it) | (it, SomeLimit) => !matches!(it, Closed(_)),
            _ => false,
        }
    }
}

impl Outcome {
    /// Whether two outcomes can be the same, as far as both are known.
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused(a), Self::Refused(b)) => a.agrees(*b),
            _ => self == other,
        }
    }
}

/// The numbers of one allocator at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The allocator.
    pub allocator: Key,
    /// Allocated bytes.
    pub allocated: usize,
    /// Bytes left, negative if the allocator or an ancestor is over its limit.
    pub headroom: isize,
    /// Whether the allocator or an ancestor is over its limit.
    pub over: bool,
    /// The maximum of `allocated` after any step.
    pub peak: usize,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allocator,
            allocated,
            headroom,
            over,
            peak,
        } = self;
        let over = u8::from(*over);
        write!(f, "a{allocator} {allocated} {headroom} {over} {peak}")
    }
}

/// The rounding policy of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// `PaddingRoundingPolicy`.
    Padding,
    /// `PowerOfTwoRoundingPolicy`.
    PowerOfTwo,
    /// `SegmentRoundingPolicy` of this many bytes.
    Segment(usize),
}

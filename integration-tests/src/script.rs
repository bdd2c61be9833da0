//! Draws of plain numbers, and the operations that they become on the existing objects.
//!
//! The random tests draw the numbers with proptest; the fuzz target `tree` reads them from its input.

mod waits;

use crate::model::Model;
use crate::operation::{Key, Operation};

/// The maximum size of a buffer, since buffers are real memory.
const LARGEST_BUFFER: usize = 256 * 1024;

/// More than any case allocates, and still too small to overflow.
pub const UNLIMITED: usize = isize::MAX as usize;

/// A step before its objects are chosen.
#[derive(Clone, Debug)]
pub struct Draw {
    kind: Kind,
    /// The two numbers choose among the existing objects.
    first: u16,
    second: u16,
    amount: Amount,
    other: Amount,
}

impl Draw {
    /// Decodes numbers: those for the kind, the first and the second object, the amount and the other amount.
    ///
    /// With `waits`, the draw may be one of a request that waits, and no amount overflows.
    pub fn new(
        (kind, first, second, amount, other): (u32, u16, u16, u32, u32),
        waits: bool,
    ) -> Self {
        let kinds = if waits { waits::KINDS } else { KINDS };
        Self {
            kind: decode_kind(kinds, kind),
            first,
            second,
            amount: decode_amount(amount, waits),
            other: decode_amount(other, waits),
        }
    }

    /// The number of operations that the draw becomes.
    pub fn rounds(&self) -> usize {
        match self.kind {
            Kind::ReleaseMany => 8,
            _ => 1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Child,
    Allocate,
    Release,
    ReleaseMany,
    Slice,
    Share,
    Transfer,
    TryTransfer,
    Reserve,
    Extend,
    Shrink,
    Use,
    Unreserve,
    Force,
    Unforce,
    AllocateBytes,
    ReleaseBytes,
    Limit,
    SetReservation,
    ForceReservation,
    RaiseReservation,
    ForceRaiseReservation,
    LowerReservation,
    Close,
    CloseIdle,
    Cap,
    Wait,
    Poll,
    Cancel,
    Expire,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
enum Amount {
    /// This number.
    Bytes(usize),
    /// The bytes that the allocator has left, and this many more.
    Left(isize),
    /// The bytes that the allocator has, and this many more.
    Allocated(isize),
    /// A fraction of the bytes left, in 256ths.
    Part(u8),
    /// More than any sum can hold.
    Huge(usize),
}

/// The weight of each kind of draw, where nobody waits.
const KINDS: &[(u32, Kind)] = &[
    (14, Kind::Release),
    (20, Kind::Allocate),
    (6, Kind::Child),
    (1, Kind::ReleaseMany),
    (3, Kind::Slice),
    (5, Kind::Share),
    (7, Kind::Transfer),
    (5, Kind::TryTransfer),
    (4, Kind::Reserve),
    (3, Kind::Extend),
    (2, Kind::Shrink),
    (3, Kind::Use),
    (2, Kind::Unreserve),
    (3, Kind::Force),
    (3, Kind::Unforce),
    (5, Kind::AllocateBytes),
    (4, Kind::ReleaseBytes),
    (6, Kind::Limit),
    (5, Kind::SetReservation),
    (2, Kind::ForceReservation),
    (4, Kind::RaiseReservation),
    (1, Kind::ForceRaiseReservation),
    (4, Kind::LowerReservation),
    (1, Kind::Close),
    (3, Kind::CloseIdle),
];

fn decode_kind(kinds: &[(u32, Kind)], drawn: u32) -> Kind {
    let total: u32 = kinds.iter().map(|it| it.0).sum();
    let mut rest = drawn % total;
    for &(weight, kind) in kinds {
        if rest < weight {
            return kind;
        }
        rest -= weight;
    }
    unreachable!("the weights sum up to the total")
}

/// `waits`: without amounts that overflow, for which nobody waits.
fn decode_amount(drawn: u32, waits: bool) -> Amount {
    const NEAR: [isize; 6] = [0, 1, -1, 64, -64, 17];
    const SMALL: [usize; 5] = [0, 1, 63, 64, 65];
    let (class, value) = (
        drawn % 17,
        usize::try_from(drawn / 17).expect("32 bits fit"),
    );
    let near = NEAR[value % NEAR.len()];
    match class {
        0..6 => Amount::Bytes(value % 3000),
        6 => Amount::Bytes(SMALL[value % SMALL.len()]),
        7..11 => Amount::Left(near),
        11..13 => Amount::Allocated(near),
        _ if class < 16 || waits => Amount::Part((value % 256).try_into().expect("a byte")),
        _ => Amount::Huge(value % 1000),
    }
}

/// Where a tree grows: at any allocator, downwards, or at the root.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// At any allocator.
    Any,
    /// Below the youngest allocator.
    Deep,
    /// Below the root.
    Wide,
}

/// Turns draws into operations on existing objects.
#[derive(Debug)]
pub struct Script {
    shape: Shape,
    next: Key,
    /// The time of the deadlines that have passed.
    now: u32,
}

impl Script {
    /// A script for a tree whose only allocator is the root, with key 0.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            next: 0,
            now: 0,
        }
    }

    fn key(&mut self) -> Key {
        self.next += 1;
        self.next
    }

    /// The operation of a draw; `None` if there is no object to use.
    pub fn operation(&mut self, model: &Model, draw: &Draw) -> Option<Operation> {
        let allocator = pick(&model.allocators(), draw.first)?;
        if model.is_closed(allocator) && matches!(draw.amount, Amount::Huge(_)) {
            // The request would have two reasons to be refused.
            return None;
        }
        match draw.kind {
            Kind::Child => self.child(model, draw, allocator),
            Kind::Allocate
            | Kind::Release
            | Kind::ReleaseMany
            | Kind::Slice
            | Kind::Share
            | Kind::Transfer
            | Kind::TryTransfer => self.operation_of_buffer(model, draw, allocator),
            Kind::Reserve | Kind::Extend | Kind::Shrink | Kind::Use | Kind::Unreserve => {
                self.operation_of_reservation(model, draw, allocator)
            }
            Kind::Cap | Kind::Wait | Kind::Poll | Kind::Cancel | Kind::Expire => {
                self.operation_of_wait(model, draw, allocator)
            }
            Kind::Close | Kind::CloseIdle => close(model, draw, allocator),
            _ => Some(operation_of_allocator(model, draw, allocator)),
        }
    }

    fn child(&mut self, model: &Model, draw: &Draw, allocator: Key) -> Option<Operation> {
        let allocators = model.allocators();
        if allocators.len() > 14 {
            return None;
        }
        let parent = match self.shape {
            Shape::Any => allocator,
            Shape::Deep => *allocators.last()?,
            Shape::Wide => allocators[0],
        };
        if model.is_closed(parent) && !draw.second.is_multiple_of(8) {
            return None;
        }
        Some(Operation::Child {
            allocator: self.key(),
            parent,
            reservation: if draw.second.is_multiple_of(2) || model.is_closed(parent) {
                0
            } else {
                match resolve(model, parent, draw.amount) {
                    // Larger reservations would prevent the ownership of its buffers from moving
                    // elsewhere.
                    granted if granted <= UNLIMITED => granted.min(1 << 40),
                    refused => refused,
                }
            },
            limit: resolve_limit(model, parent, draw.other),
        })
    }

    fn operation_of_buffer(
        &mut self,
        model: &Model,
        draw: &Draw,
        allocator: Key,
    ) -> Option<Operation> {
        let bytes = bytes(model, draw, allocator);
        if matches!(draw.kind, Kind::Allocate) {
            let huge = matches!(draw.amount, Amount::Huge(_));
            return Some(Operation::Allocate {
                buffer: self.key(),
                allocator,
                // Of the sizes that no backend has, only those are requested that no limit grants.
                size: if huge && bytes > UNLIMITED - 63 {
                    bytes
                } else {
                    bytes.min(LARGEST_BUFFER)
                },
            });
        }
        let buffer = pick(&model.buffers(), draw.second)?;
        Some(match draw.kind {
            Kind::Release | Kind::ReleaseMany => Operation::Release { buffer },
            Kind::Slice => {
                let offset = usize::from(draw.first) % (model.length(buffer) + 1);
                Operation::Slice {
                    buffer,
                    slice: self.key(),
                    offset,
                    length: bytes.min(model.length(buffer) - offset),
                }
            }
            Kind::Share => Operation::Share {
                buffer,
                shared: self.key(),
                allocator,
            },
            Kind::Transfer => Operation::Transfer {
                buffer,
                moved: self.key(),
                allocator,
            },
            // It is not specified whether a closed common ancestor may pass bytes on.
            Kind::TryTransfer if model.is_below_closed(allocator) => return None,
            Kind::TryTransfer => Operation::TryTransfer {
                buffer,
                moved: self.key(),
                allocator,
            },
            other => unreachable!("{other:?} is of another kind"),
        })
    }

    fn operation_of_reservation(
        &mut self,
        model: &Model,
        draw: &Draw,
        allocator: Key,
    ) -> Option<Operation> {
        let bytes = bytes(model, draw, allocator);
        if matches!(draw.kind, Kind::Reserve) {
            let reservation = self.key();
            return Some(Operation::Reserve {
                reservation,
                allocator,
                bytes,
            });
        }
        let reservation = pick(&model.reservations(), draw.second)?;
        Some(match draw.kind {
            Kind::Extend => Operation::Extend {
                reservation,
                bytes: bytes.max(1),
            },
            Kind::Shrink => Operation::Shrink {
                reservation,
                bytes: bytes.min(model.reserved(reservation)),
            },
            Kind::Use if model.reserved(reservation) > LARGEST_BUFFER => return None,
            Kind::Use => Operation::Use {
                buffer: self.key(),
                reservation,
            },
            Kind::Unreserve => Operation::Unreserve { reservation },
            other => unreachable!("{other:?} is of another kind"),
        })
    }
}

fn operation_of_allocator(model: &Model, draw: &Draw, allocator: Key) -> Operation {
    let bytes = bytes(model, draw, allocator);
    let small = bytes.min(LARGEST_BUFFER);
    match draw.kind {
        Kind::Force => Operation::Force {
            allocator,
            bytes: small.max(1),
        },
        Kind::Unforce => Operation::Unforce { allocator },
        Kind::AllocateBytes => Operation::AllocateBytes { allocator, bytes },
        Kind::ReleaseBytes => Operation::ReleaseBytes {
            allocator,
            bytes: bytes.min(model.external(allocator)),
        },
        Kind::Limit => Operation::Limit {
            allocator,
            limit: resolve_limit(model, allocator, draw.amount),
        },
        Kind::SetReservation => Operation::SetReservation { allocator, bytes },
        Kind::ForceReservation => Operation::ForceReservation {
            allocator,
            bytes: small,
        },
        Kind::RaiseReservation => Operation::RaiseReservation { allocator, bytes },
        Kind::ForceRaiseReservation => Operation::ForceRaiseReservation {
            allocator,
            bytes: small,
        },
        Kind::LowerReservation => Operation::LowerReservation {
            allocator,
            bytes: bytes.min(model.live_reservation(allocator)),
        },
        other => unreachable!("{other:?} is of another kind"),
    }
}

fn close(model: &Model, draw: &Draw, allocator: Key) -> Option<Operation> {
    let allocators = model.allocators();
    if matches!(draw.kind, Kind::Close) {
        return (allocator != allocators[0]).then_some(Operation::Close { allocator });
    }
    let idle = allocators[1..].iter().copied();
    let idle: Vec<Key> = idle.filter(|&key| model.is_idle(key)).collect();
    let allocator = pick(&idle, draw.first)?;
    Some(Operation::Close { allocator })
}

/// The bytes of a draw. A closed allocator is asked for at least one.
fn bytes(model: &Model, draw: &Draw, allocator: Key) -> usize {
    let least = usize::from(model.is_closed(allocator));
    resolve(model, allocator, draw.amount).max(least)
}

fn pick(keys: &[Key], draw: u16) -> Option<Key> {
    (!keys.is_empty()).then(|| keys[usize::from(draw) % keys.len()])
}

fn resolve(model: &Model, allocator: Key, amount: Amount) -> usize {
    let state = model.state(allocator);
    let left = usize::try_from(state.headroom).unwrap_or(0);
    match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Left(more) => left.saturating_add_signed(more),
        Amount::Allocated(more) => state.allocated.saturating_add_signed(more),
        Amount::Part(part) if left < 1 << 40 => left * usize::from(part) / 256,
        Amount::Part(part) => usize::from(part) * 100,
        Amount::Huge(less) => {
            let most = if less.is_multiple_of(2) {
                usize::MAX
            } else {
                UNLIMITED
            };
            most - less
        }
    }
}

/// A limit close to the allocated bytes, so that many requests are refused and some allocators are over it.
fn resolve_limit(model: &Model, allocator: Key, amount: Amount) -> usize {
    let state = model.state(allocator);
    match amount {
        Amount::Bytes(bytes) => state.allocated + bytes,
        Amount::Left(more) | Amount::Allocated(more) => state.allocated.saturating_add_signed(more),
        Amount::Part(part) => state.allocated / 128 * usize::from(part) + 2048,
        Amount::Huge(less) => usize::MAX - less,
    }
}

/// Whether a forced step would make a sum overflow, which panics and is tested elsewhere.
pub fn overflows(model: &Model, operation: &Operation) -> bool {
    if !matches!(
        operation,
        Operation::Force { .. }
            | Operation::ForceReservation { .. }
            | Operation::ForceRaiseReservation { .. }
            | Operation::Transfer { .. }
            | Operation::Release { .. }
    ) {
        return false;
    }
    let mut after = model.clone();
    after.apply(operation);
    after.has_overflowed()
}

/// The next operation that releases something; `None` if nothing is left.
///
/// Requests that wait are dropped first, then external bytes and reservations: there may be so many that a
/// buffer's ownership could not move. Then buffers are released, and allocators are closed, the root last.
pub fn release(model: &Model) -> Option<Operation> {
    if let Some(&wait) = model.waits().first() {
        return Some(Operation::Cancel { wait });
    }
    let allocators = model.allocators();
    for &allocator in allocators.iter().rev() {
        if model.external(allocator) > 0 {
            let bytes = model.external(allocator);
            return Some(Operation::ReleaseBytes { allocator, bytes });
        }
        if model.forced(allocator) > 0 {
            return Some(Operation::Unforce { allocator });
        }
    }
    for &allocator in &allocators {
        let bytes = model.live_reservation(allocator);
        if bytes > 0 {
            return Some(Operation::LowerReservation { allocator, bytes });
        }
    }
    if let Some(&reservation) = model.reservations().first() {
        return Some(Operation::Unreserve { reservation });
    }
    if let Some(&buffer) = model.buffers().first() {
        return Some(Operation::Release { buffer });
    }
    let &allocator = allocators.last()?;
    Some(Operation::Close { allocator })
}

//! Draws that wait, and the operations that they become.

use crate::model::Model;
use crate::operation::{Ask, Key, Operation};

use super::{Draw, Kind, Script, pick, resolve, resolve_limit};

/// The maximum of the requests that wait at one time.
const MOST: usize = 8;

/// The maximum of the bytes that a request waits for.
const LARGEST: usize = 64 * 1024;

/// The weight of each kind of draw, where requests wait.
pub(super) const KINDS: &[(u32, Kind)] = &[
    (12, Kind::Release),
    (14, Kind::Allocate),
    (8, Kind::Child),
    (1, Kind::ReleaseMany),
    (1, Kind::Slice),
    (3, Kind::Share),
    (5, Kind::Transfer),
    (4, Kind::TryTransfer),
    (3, Kind::Reserve),
    (2, Kind::Extend),
    (3, Kind::Shrink),
    (1, Kind::Use),
    (2, Kind::Unreserve),
    (1, Kind::Force),
    (2, Kind::Unforce),
    (6, Kind::AllocateBytes),
    (6, Kind::ReleaseBytes),
    (4, Kind::Limit),
    (5, Kind::SetReservation),
    (1, Kind::ForceReservation),
    (3, Kind::RaiseReservation),
    (1, Kind::ForceRaiseReservation),
    (3, Kind::LowerReservation),
    (1, Kind::Close),
    (2, Kind::CloseIdle),
    (3, Kind::Cap),
    (22, Kind::Wait),
    (9, Kind::Poll),
    (4, Kind::Cancel),
    (2, Kind::Expire),
];

impl Script {
    pub(super) fn operation_of_wait(
        &mut self,
        model: &Model,
        draw: &Draw,
        allocator: Key,
    ) -> Option<Operation> {
        let wait = pick(&model.waits(), draw.second);
        Some(match draw.kind {
            Kind::Cap => Operation::Cap {
                allocator,
                cap: draw
                    .second
                    .is_multiple_of(2)
                    .then(|| resolve_limit(model, allocator, draw.amount)),
            },
            Kind::Wait => {
                if model.waits().len() >= MOST {
                    return None;
                }
                Operation::Wait {
                    wait: self.key(),
                    ask: self.ask(model, draw, allocator)?,
                    deadline: draw
                        .second
                        .is_multiple_of(3)
                        .then(|| self.now + u32::from(draw.first % 8)),
                }
            }
            Kind::Poll => Operation::Poll { wait: wait? },
            Kind::Cancel => Operation::Cancel { wait: wait? },
            Kind::Expire => {
                self.now += u32::from(draw.first % 4);
                Operation::Expire { now: self.now }
            }
            other => unreachable!("{other:?} does not wait"),
        })
    }

    fn ask(&mut self, model: &Model, draw: &Draw, allocator: Key) -> Option<Ask> {
        let bytes = resolve(model, allocator, draw.amount).clamp(1, LARGEST);
        Some(match draw.second % 8 {
            0..3 => Ask::Buffer {
                buffer: self.key(),
                allocator,
                size: bytes,
            },
            3..5 => Ask::Reservation {
                reservation: self.key(),
                allocator,
                bytes,
            },
            5 => {
                let buffer = pick(&model.growable(), draw.first)?;
                let additional = bytes.max(model.length(buffer));
                Ask::Growth { buffer, additional }
            }
            _ => {
                if model.allocators().len() > 14 {
                    return None;
                }
                Ask::Child {
                    allocator: self.key(),
                    parent: allocator,
                    reservation: bytes,
                    limit: resolve_limit(model, allocator, draw.other).max(bytes),
                }
            }
        })
    }
}

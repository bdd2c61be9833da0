//! The operations of `memory-core`.

use crate::sweep::Operation;

mod allocators;
mod buffers;
mod collections;
mod foreign;
mod reservations;
mod waiting;

pub(crate) const ALL: &[(&str, &[Operation])] = &[
    ("core, allocators", allocators::OPERATIONS),
    ("core, buffers", buffers::OPERATIONS),
    ("core, collections", collections::OPERATIONS),
    ("core, foreign memory", foreign::OPERATIONS),
    ("core, reservations", reservations::OPERATIONS),
    ("core, waiting", waiting::OPERATIONS),
];

//! Platforms on which nothing is attributed, so that a forked child needs no handler.

pub(super) fn in_children(_handler: extern "C" fn()) {}

//! Judges a concurrent run after its end: finds wrong refusals, and limits that were passed.
//!
//! Every call records the tick of a common clock before it starts and after it returned. A charge may count
//! from the first tick of its request to the last tick of its release. It certainly counts between the two
//! calls. That gives two totals for every moment and level:
//!
//! * `most`: the bytes that may have been allocated. If a refused request fits with `most` at every moment
//!   between its two ticks, it fitted at every moment: the refusal was wrong. A refused request itself never
//!   counts, because it must never be visible.
//! * `least`: the bytes that certainly were allocated. If they are above a limit, the limit was passed.
//!
//! A level's allocated bytes grow with each number that they are computed from. So a request that fits with
//! `most` also fits with the true value.

mod judge;
mod record;
#[cfg(test)]
mod tests;

pub use self::judge::Summary;
pub use self::record::{History, Level, Log, OpenCharge, OpenLevel, Span};

//! Judges a concurrent run afterwards: which refusals were wrong, and which limits were passed.
//!
//! Every call notes the tick of a common clock before it starts and after it returned. A charge
//! may count from the first tick of its request to the last tick of its release, and it surely
//! counts between the two calls. That gives two totals for every moment and level:
//!
//! * `most`: what may have been allocated. If a refused request fits with `most` at every moment
//!   between its two ticks, it fitted at every moment: the refusal was wrong. A refused request
//!   itself never counts, because it must never be visible.
//! * `least`: what surely was allocated. If that is above a limit, the limit was passed.
//!
//! Allocated bytes grow with everything that they are computed from, so what holds with `most`
//! holds with whatever the true value was.

mod judge;
mod record;
#[cfg(test)]
mod tests;

pub use self::judge::Summary;
pub use self::record::{History, Level, Log, OpenCharge, OpenLevel, Span};

//! What the crate promises, with DataFusion itself.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod admission;
mod ends;
mod held;
mod limits;
#[cfg(feature = "metrics")]
mod metrics;
mod policies;
mod pool;
mod sessions;
mod support;
#[cfg(feature = "sql")]
mod table;
mod wrapped;

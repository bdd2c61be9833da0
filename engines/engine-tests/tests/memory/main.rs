//! What `arrow-memory-datafusion` promises, with DataFusion itself.
//!
//! These tests await DataFusion's futures through [`engine_tests::run`]. If they awaited them directly, much of DataFusion
//! would be compiled again for this program.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod admission;
mod caches;
mod ends;
mod held;
mod limits;
mod metrics;
mod policies;
mod pool;
mod replanned;
mod sessions;
mod support;
mod table;
mod wrapped;

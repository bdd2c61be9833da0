//! The common code of the benchmarks, which measure the cost of accounting.
//!
//! `benches/README.md` describes how to run them, and their results.
#![expect(
    clippy::missing_panics_doc,
    clippy::assertions_on_constants,
    reason = "a benchmark that cannot go on panics, and says why"
)]

pub mod batch;
pub mod curves;
pub mod harness;
pub mod memory;
pub mod pools;
pub mod raw;
pub mod sources;
pub mod threads;
pub mod trees;

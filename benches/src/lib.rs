//! What accounting costs: what the benchmarks have in common.
//!
//! `benches/README.md` says how to run them and what they found.

pub mod batch;
pub mod harness;
pub mod memory;
pub mod pools;
pub mod raw;
pub mod threads;
pub mod trees;

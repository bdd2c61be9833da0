//! Behaviour of the allocator tree and its buffers, by every promise in the docs.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod debug;
mod events;
mod leak_check;
mod leaks;
mod numbers;
mod probes;
mod release;
mod tree;

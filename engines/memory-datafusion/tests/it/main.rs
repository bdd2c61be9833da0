//! What the crate promises, with DataFusion itself.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod admission;
mod ends;
mod limits;
mod pool;
mod sessions;
mod support;

//! The program as people and scripts see it.
#![expect(clippy::unwrap_used, reason = "for tests, as their own unwraps")]

mod demo;
mod errors;
mod program;
mod queries;
#[cfg(unix)]
mod signals;

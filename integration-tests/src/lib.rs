//! Scenarios that run over every backend, and what they are checked against.
//!
//! [`model`] is the reference: the equations of the accounting, naively. [`trace`] reads runs of
//! Arrow Java's tree; both speak of [`operation`]s.
#![expect(
    clippy::missing_panics_doc,
    reason = "whatever is here exists to panic when a number is wrong"
)]

pub mod model;
pub mod operation;
pub mod trace;

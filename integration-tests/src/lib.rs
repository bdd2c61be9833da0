//! Scenarios that run over every backend, and what they are checked against.
//!
//! [`model`] is the reference: the equations of the accounting, naively. [`trace`] reads runs of
//! Arrow Java's tree; both speak of [`operation`]s. [`tree`] does the same operations on a real
//! tree, and [`side_by_side`] compares the two. [`history`] judges concurrent runs. The scenarios in
//! `tests/` run on [`backends`], [`managers`] and [`books`].
#![expect(
    clippy::missing_panics_doc,
    reason = "whatever is here exists to panic when a number is wrong"
)]

pub mod backends;
pub mod books;
pub mod history;
pub mod managers;
pub mod model;
pub mod operation;
pub mod side_by_side;
pub mod trace;
pub mod tree;

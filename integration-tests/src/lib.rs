//! Scenarios that run over every backend, and the references to check them against.
//!
//! [`model`] is the reference: the equations of the accounting, in naive code. [`trace`] reads runs of Arrow
//! Java's tree. Both consist of [`operation`]s. [`tree`] applies the same operations to a real tree, and
//! [`side_by_side`] compares the two. [`script`] makes operations of numbers. [`history`] judges concurrent
//! runs. [`load`] has what programs share that load a tree at random. The scenarios in `tests/` use
//! [`backends`], [`managers`] and [`books`].
#![expect(
    clippy::missing_panics_doc,
    reason = "whatever is here exists to panic when a number is wrong"
)]

pub mod backends;
pub mod books;
pub mod history;
pub mod load;
pub mod managers;
pub mod model;
pub mod operation;
pub mod script;
pub mod side_by_side;
pub mod trace;
pub mod tree;

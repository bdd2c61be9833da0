//! What query engines do under arrow-memory's allocator tree: the parts of which this package's tests and its benchmark
//! are made.
//!
//! A [`Configuration`] is a way to limit DataFusion's memory: one of its own pools, or a tree. Tests and benchmarks take
//! configurations as a parameter, so that a new one is a line in [`configuration`].
//!
//! * [`run`]: statements and data frames, for tests that await them.
//! * [`tpch`]: the 22 queries of TPC-H with their data, and the answers of scale 0.1.
//! * `slt`, with the feature of that name: the sqllogictest files of DataFusion, run in the sessions of a configuration.
//! * [`watch`]: a deadline for queries, which tells one that hangs from one that is slow.
//! * [`heap`]: a global allocator that counts.
//! * [`instants`]: what is compared while a query runs.

pub mod configuration;
pub mod folders;
pub mod heap;
pub mod instants;
pub mod outcome;
pub mod run;
#[cfg(feature = "slt")]
pub mod slt;
pub mod tpch;
pub mod watch;

pub use configuration::{Configuration, Limited};
pub use outcome::Outcome;

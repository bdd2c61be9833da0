//! Each failure of each public operation: of the points at which it calls a manager or other foreign code, one fails or
//! panics, for each of them, until the operation succeeds.
//!
//! After an error everything is as it was: the numbers of the tree, the handles that the operation was given, and what
//! waits. The operation succeeds when it is tried again. After a panic the tree's sums are right, and what is charged is
//! what the handles that are left are charged for. When all handles are dropped, no block is lent, nothing is charged,
//! and every allocator can be closed. A panic in the `Drop` of a handle, or of what a user gave to the tree, does not
//! unwind.
//!
//! An operation is an entry in the list of its crate. [`complete`] checks that no public function is missing.
//!
//! If the program's own allocator fails, the program ends, by Rust's rule, except where a collection asks for an error. The
//! latter is tested in the scopes of `memory-global`.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::result_large_err,
    clippy::unit_arg,
    reason = "an operation is handed on as it is, with whatever it returns"
)]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod arrow;
mod complete;
mod core;
mod device;
mod global;
mod hooks;
mod host;
mod managers;
mod plan;
mod state;
mod sweep;
mod world;

use plan::Point;
use sweep::{Operation, sweep};

const GLOBAL: &[(&str, &[Operation])] = &[("global", global::OPERATIONS)];
const HOST: &[(&str, &[Operation])] = &[("host", host::OPERATIONS)];

#[test]
fn a_failure_or_panic_in_the_core_leaves_everything_as_it_was() {
    let points = sweep("core", core::ALL);
    // Each kind of foreign code that the core calls was called.
    for point in [
        Point::Allocate,
        Point::AllocateZeroed,
        Point::Reallocate,
        Point::PreAllocation,
        Point::Allocation,
        Point::Release,
        Point::FailedAllocation,
        Point::Transfer,
        Point::ChildAdded,
        Point::ChildRemoved,
        Point::Policy,
        Point::Reclaim,
        Point::Event,
        Point::Owner,
        Point::Wake,
    ] {
        assert!(points.contains(&point), "{point:?} was not met");
    }
}

#[test]
fn a_failure_or_panic_under_arrays_leaves_everything_as_it_was() {
    sweep("arrow", arrow::ALL);
}

#[test]
fn a_failure_or_panic_in_scopes_leaves_everything_as_it_was() {
    sweep("global", GLOBAL);
}

#[test]
fn a_failure_or_panic_of_the_host_leaves_everything_as_it_was() {
    sweep("host", HOST);
}

#[test]
fn a_failure_or_panic_of_a_device_leaves_everything_as_it_was() {
    sweep("device", device::ALL);
}

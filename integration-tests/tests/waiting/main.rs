//! Requests that wait for memory, under load, in every executor, and where nobody may wait.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod admissions;
mod callbacks;
mod closing;
mod executors;
mod load;
mod queries;
mod support;
mod wakers;

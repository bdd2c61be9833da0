//! Scenarios over every backend, and the evidence that the accounting is true.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod bad_input;
mod callbacks;
mod closing;
mod failing;
mod kept;
mod limit;
mod model;
mod random;
mod shapes;
mod thread_ends;
mod traces;
mod transfers;

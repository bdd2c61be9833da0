//! Scenarios over every backend, and the evidence that the accounting is true.

mod bad_input;
mod callbacks;
mod closing;
mod failing;
mod limit;
mod model;
mod random;
mod shapes;
mod traces;

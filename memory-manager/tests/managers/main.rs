//! Managers around a real backend, and the choice of it. A binary of its own, since much of this
//! is the process's: its environment, its statistics, its default.
#![expect(
    unsafe_code,
    reason = "guards are tested by breaking things, and a test manager is implemented"
)]

mod backend;
mod children;
mod conformance;
mod environment;
mod guard;
mod logging;
mod subscriber;

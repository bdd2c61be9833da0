//! Managers around a real backend, and its selection. This is a binary of its own, since the environment, the
//! statistics and the default are those of the process.
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

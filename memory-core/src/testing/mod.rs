//! Helpers for tests of backends, and of code that uses allocators (feature `testing`).
//!
//! [`RecordingListener`] records the calls of a listener. Everything else is re-exported from
//! `arrow_memory_manager::testing`, which is for backends: the conformance suite, and managers that fail
//! on demand or check each call.

mod listener;

pub use arrow_memory_manager::testing::*;
pub use listener::{ListenerEvent, RecordingListener};

//! For tests of backends, and of code that uses allocators (feature `testing`).
//!
//! [`RecordingListener`] writes down what an allocator tells its listener. The rest is what
//! `arrow_memory_manager::testing` has for backends: the conformance suite, and managers that fail or keep
//! books.

mod listener;

pub use arrow_memory_manager::testing::*;
pub use listener::{ListenerEvent, RecordingListener};

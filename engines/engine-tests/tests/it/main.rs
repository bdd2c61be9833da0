//! DataFusion under the tree, and beside it under its own pools.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::LazyLock;

use engine_tests::heap::Counting;
use tokio::sync::{Mutex, MutexGuard};

mod harness;
mod instants;
#[cfg(feature = "slt")]
mod slt;
mod spilling;
mod tpch;

#[global_allocator]
static HEAP: Counting = Counting::new();

/// Lets one test run at a time: a query that hangs is told by threads that all sleep, and the queries need both cores.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    ALONE.lock().await
}

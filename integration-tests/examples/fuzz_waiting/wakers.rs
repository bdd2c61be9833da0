//! Wakers that count, panic, or use the tree.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use arrow_memory_core::WaitError;
use arrow_memory_integration_tests::load::Count;

use crate::World;

/// What a waker does.
#[derive(Clone, Copy)]
enum Manner {
    Counts,
    Panics,
    UsesTheTree,
}

struct Wakes {
    world: Weak<World>,
    manner: Manner,
}

/// A waker of any kind.
pub(crate) fn any(world: &Arc<World>) -> Waker {
    let manner = match fastrand::u32(..8) {
        0 => Manner::Panics,
        1 => Manner::UsesTheTree,
        _ => Manner::Counts,
    };
    let world = Arc::downgrade(world);
    Arc::new(Wakes { world, manner }).into()
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        let Some(world) = self.world.upgrade() else {
            return;
        };
        world.totals().add(Count::Woken);
        match self.manner {
            Manner::Counts => {}
            Manner::Panics => std::panic::resume_unwind(Box::new("a waker that panics")),
            Manner::UsesTheTree => use_tree(&world),
        }
    }
}

/// Drops a buffer, allocates one, and asks to wait, which must not happen in a waker.
fn use_tree(world: &World) {
    let dropped = world.pool.try_lock().ok().and_then(|mut pool| pool.pop());
    drop(dropped);
    let Ok(query) = world.queries[fastrand::usize(..world.queries.len())].try_read() else {
        return;
    };
    let query = query.clone();
    if let Ok(buffer) = query.buffer(4096)
        && let Ok(mut pool) = world.pool.try_lock()
    {
        pool.push(buffer);
    }
    for wait in [query.wait(), query.wait().at_most(Duration::ZERO)] {
        if let Err(error @ (WaitError::TimedOut(_) | WaitError::GiveWay(_))) = wait.reserve(1 << 24)
        {
            world.totals().fail(format!("queued in a waker: {error:#}"));
        }
    }
}

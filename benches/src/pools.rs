//! DataFusion's memory pools, behind the feature `datafusion`.

use crate::harness::Group;

/// Adds `GreedyMemoryPool`'s `try_grow` and `shrink` as a case.
///
/// # Panics
///
/// If the pool refuses.
#[cfg(feature = "datafusion")]
pub fn add_greedy(group: &mut Group<'_>, name: &str) -> bool {
    use std::hint::black_box;
    use std::sync::Arc;

    use datafusion_execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};

    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 40));
    let reservation = MemoryConsumer::new("consumer").register(&pool);
    group.add(name, move || {
        reservation.try_grow(black_box(4096)).expect("it fits");
        reservation.shrink(black_box(4096));
    });
    true
}

/// Adds nothing, since DataFusion is not compiled in.
#[cfg(not(feature = "datafusion"))]
pub fn add_greedy(_group: &mut Group<'_>, _name: &str) -> bool {
    false
}

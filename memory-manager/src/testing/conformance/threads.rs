//! Promises about blocks that several threads use.

use std::sync::mpsc;
use std::thread;

use super::bytes::{Random, assert_filled, layout, sizes};
use super::resident::resident_memory_may_change;
use crate::manager::AllocationManager;
use crate::testing::block::Block;

/// A block may be given back on another thread, also when the one that made it is gone.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::blocks_may_be_freed_on_another_thread(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If it may not.
pub fn blocks_may_be_freed_on_another_thread(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let orphans = thread::scope(|scope| {
        let made = scope.spawn(|| {
            let sizes = sizes().flat_map(|size| [size; 3]);
            let blocks = sizes.map(|size| Block::filled(manager, layout(size, 64), 7));
            blocks.collect::<Result<Vec<_>, _>>()
        });
        join(made).expect("usual sizes")
    });
    for block in &orphans {
        assert_filled(block, 7);
    }
    drop(orphans);

    let (sender, receiver) = mpsc::sync_channel::<Block<'_>>(16);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            for block in receiver {
                assert_filled(&block, block.layout().size() as u8);
            }
        });
        for round in 0..2_000 {
            let size = 1 + round * 37 % 9_000;
            let block = Block::filled(manager, layout(size, 64), size as u8);
            sender.send(block.expect("a usual size")).expect("a reader");
        }
        drop(sender);
        join(reader);
    });
}

/// Waits for a thread and its thread-locals, where managers may keep blocks; a scope's end does not.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("no panic")
}

/// Threads may allocate, grow and free at once.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::many_threads_may_work_at_once(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they may not.
pub fn many_threads_may_work_at_once(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    thread::scope(|scope| {
        let work = |thread: u8| {
            move || {
                let mut random = Random(u64::from(thread));
                let mut held: Vec<Block<'_>> = Vec::new();
                for _ in 0..1_000 {
                    let size = random.size(18);
                    match random.below(4) {
                        0 if !held.is_empty() => {
                            let victim = random.below(held.len());
                            held.swap_remove(victim);
                        }
                        1 if !held.is_empty() => {
                            let grown = random.below(held.len());
                            let block = &mut held[grown];
                            block.reallocate(size, thread).expect("a usual size");
                            assert_filled(block, thread);
                        }
                        _ if held.len() < 16 => {
                            let block = Block::filled(manager, layout(size, 64), thread);
                            held.push(block.expect("a usual size"));
                        }
                        _ => held.clear(),
                    }
                }
                for block in &held {
                    assert_filled(block, thread);
                }
            }
        };
        let threads = [1, 2, 3, 4].map(|thread| scope.spawn(work(thread)));
        threads.into_iter().for_each(join);
    });
}

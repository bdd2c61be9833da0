//! Uses an arena from several threads, and with a parent that calls the arena.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use arrow_memory_arena::Arena;
use arrow_memory_core::testing::{Block, StdManager};
use arrow_memory_core::{AllocationManager, ManagerError, ManagerStats};

use crate::{KIB, block, layout, tracked};

/// A parent that uses the arena in each of its calls, which takes the arena's lock.
#[derive(Debug, Default)]
struct Nosy {
    arena: Mutex<Option<Arena>>,
    /// Whether such a use is in progress: the use itself calls this parent again.
    looking: AtomicBool,
}

impl Nosy {
    fn look(&self) {
        if self.looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let arena = self.arena.lock().expect("no panic under it").clone();
        if let Some(arena) = arena {
            let _ = arena.stats();
            let small = arena.allocate(layout(64));
            if let Ok(small) = small {
                // SAFETY: the block was just allocated, with this layout.
                unsafe { arena.deallocate(small, layout(64)) };
            }
        }
        self.looking.store(false, Ordering::Relaxed);
    }
}

// SAFETY: it forwards to `StdManager`, which keeps the promises.
unsafe impl AllocationManager for Nosy {
    fn name(&self) -> &str {
        "nosy"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.look();
        StdManager.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.look();
        // SAFETY: the caller's promises are the same.
        unsafe { StdManager.deallocate(ptr, layout) };
    }

    fn release_unused(&self) {
        self.look();
    }

    fn stats(&self) -> ManagerStats {
        ManagerStats::default()
    }
}

#[test]
fn no_lock_is_held_while_the_parent_is_called() {
    let parent = Arc::new(Nosy::default());
    let arena = Arena::builder()
        .parent(parent.clone())
        .chunk_size(4 * KIB)
        .build()
        .unwrap();
    *parent.arena.lock().unwrap() = Some(arena.clone());

    let mut blocks: Vec<_> = (0..50).map(|_| block(&arena, KIB)).collect();
    blocks.push(block(&arena, 9000));
    blocks.remove(50).reallocate(20_000, 0).unwrap();
    blocks.clear();
    arena.release_unused();
    arena.reset().unwrap();
    // The arena and the parent refer to each other.
    let held = parent.arena.lock().unwrap().take();
    drop(held);
}

#[test]
fn threads_that_race_for_a_chunk_all_get_blocks_and_lose_none() {
    for _ in 0..50 {
        let (parent, arena) = tracked();
        thread::scope(|scope| {
            for value in 0..4_u8 {
                let arena = &arena;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..200_usize {
                        let size = 1 + round * 37 % KIB;
                        held.push(Block::filled(arena, layout(size), value).unwrap());
                        if round % 3 == 0 {
                            held.swap_remove(round / 5 % held.len());
                        }
                    }
                    for block in &held {
                        assert!(block.bytes().iter().all(|&byte| byte == value));
                    }
                });
            }
        });

        assert_eq!(arena.held_bytes(), parent.live_bytes());
        arena.reset().unwrap();
        arena.release_unused();
        parent.assert_clean();
    }
}

#[test]
fn one_thread_may_make_what_another_gives_back() {
    let (parent, arena) = tracked();
    let (sender, receiver) = mpsc::sync_channel::<Block<'_>>(100);

    thread::scope(|scope| {
        scope.spawn(|| {
            for block in receiver {
                let value = block.layout().size() as u8;
                assert!(block.bytes().iter().all(|&byte| byte == value));
            }
        });
        for round in 0..20_000 {
            sender.send(block(&arena, 1 + round % 1500)).unwrap();
        }
        drop(sender);
    });

    arena.reset().unwrap();
    // The channel holds 100 blocks: the arena did not keep the returned ones.
    assert!(
        parent.max_live_bytes() < 600 * KIB,
        "{}",
        parent.max_live_bytes()
    );
}

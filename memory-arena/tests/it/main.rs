//! What the documentation of `arrow_memory_arena` promises.
#![expect(
    unsafe_code,
    reason = "one manager is implemented here, and some blocks are given back by hand"
)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use arrow_memory_arena::{Arena, ArenaError};
use arrow_memory_core::testing::{
    Block, CountingManager, FailingManager, PanickingManager, StdManager, TrackingManager,
};
use arrow_memory_core::{
    AllocError, AllocationManager, ManagerError, ManagerStats, RootAllocator, backend,
};
use arrow_memory_system as _;

const KIB: usize = 1024;

/// An arena with chunks of 4 KiB that grow to 64 KiB: blocks over 1 KiB are large.
fn arena_over(parent: &Arc<TrackingManager>) -> Arena {
    let builder = Arena::builder().parent(parent.clone());
    let builder = builder.chunk_size(4 * KIB).max_chunk_size(64 * KIB);
    builder.build().expect("valid sizes")
}

fn tracked() -> (Arc<TrackingManager>, Arena) {
    let parent = Arc::new(TrackingManager::new());
    let arena = arena_over(&parent);
    (parent, arena)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 64).expect("a valid layout")
}

fn block(arena: &Arena, size: usize) -> Block<'_> {
    Block::filled(arena, layout(size), size as u8).expect("a usual size")
}

#[test]
fn blocks_lie_side_by_side_in_one_chunk() {
    let (parent, arena) = tracked();

    let first = block(&arena, 1);
    let second = block(&arena, 100);
    let third = block(&arena, 64);

    assert_eq!(second.address(), first.address() + 64);
    assert_eq!(third.address(), second.address() + 128);
    assert_eq!(parent.live_bytes(), 4 * KIB);
}

#[test]
fn the_newest_block_grows_shrinks_and_goes_in_place() {
    let (_parent, arena) = tracked();
    let _first = block(&arena, 64);
    let mut newest = block(&arena, 64);
    let address = newest.address();

    newest.reallocate(1000, 1).unwrap();
    assert_eq!(newest.address(), address);
    newest.reallocate(200, 1).unwrap();
    assert_eq!(newest.address(), address);
    assert_eq!(block(&arena, 64).address(), address + 256);
    drop(newest);

    assert_eq!(block(&arena, 64).address(), address);
}

#[test]
fn an_older_block_shrinks_in_place_and_moves_to_grow() {
    let (_parent, arena) = tracked();
    let mut older = block(&arena, 512);
    let newest = block(&arena, 64);
    let address = older.address();

    older.reallocate(64, 0).unwrap();
    assert_eq!(older.address(), address);
    older.reallocate(512, 0).unwrap();
    assert_eq!(older.address(), newest.address() + 64);
}

#[test]
fn a_chunk_starts_again_when_its_last_block_goes() {
    let (parent, arena) = tracked();
    for _ in 0..1000 {
        let older = block(&arena, 1000);
        let newer = block(&arena, 1000);
        // The older first, so that neither goes as the newest but the last.
        drop(older);
        drop(newer);
    }

    assert_eq!(parent.allocations(), 1);
    assert_eq!(arena.high_water_mark(), 2 * KIB);
}

#[test]
fn a_chunk_goes_back_when_its_last_block_goes_while_others_stay() {
    let (parent, arena) = tracked();
    let kept = block(&arena, 64);
    let mut others: Vec<_> = (0..1000).map(|_| block(&arena, KIB)).collect();
    let most = parent.live_bytes();

    // The chunks empty from the oldest to the newest.
    others.drain(..900);

    let rest = parent.live_bytes();
    assert!(most >= 1000 * KIB, "{most}");
    // The 100 last blocks and the first chunk; the largest chunks on the way are one spare.
    assert!(rest <= 3 * 64 * KIB + 4 * KIB + 64 * KIB, "{rest}");
    assert_eq!(arena.held_bytes(), rest);
    assert_eq!(kept.bytes()[63], 64);
}

#[test]
fn an_arena_can_be_used_again_after_everything_went() {
    let (parent, arena) = tracked();
    for _ in 0..20 {
        let blocks: Vec<_> = (1..500).map(|size| block(&arena, size)).collect();
        drop(blocks);
        arena.reset().unwrap();

        assert!(arena.held_bytes() <= 64 * KIB);
        assert_eq!(arena.held_bytes(), parent.live_bytes());
    }
}

#[test]
fn chunks_double_up_to_the_cap() {
    let (parent, arena) = tracked();
    let _blocks: Vec<_> = (0..300).map(|_| block(&arena, KIB)).collect();

    let mut sizes: Vec<_> = parent.live_blocks().iter().map(Layout::size).collect();
    sizes.sort_unstable();
    let expected = [4, 8, 16, 32, 64, 64, 64, 64].map(|size| size * KIB);
    assert_eq!(sizes, expected);
}

#[test]
fn a_block_over_a_quarter_of_a_chunk_is_the_parent_s_own() {
    let counting = Arc::new(CountingManager::new());
    let builder = Arena::builder()
        .parent(counting.clone())
        .chunk_size(4 * KIB);
    let arena = builder.build().unwrap();

    let mut large = Block::zeroed(&arena, layout(KIB + 1)).unwrap();
    let _small = block(&arena, KIB);
    large.reallocate(100_000, 0).unwrap();
    drop(large);

    let calls = counting.calls();
    assert_eq!((calls.allocate_zeroed, calls.reallocate), (1, 1));
    assert_eq!(
        (calls.allocate, calls.deallocate),
        (1, 1),
        "one chunk, one large block"
    );
}

#[test]
fn a_block_moves_when_it_becomes_large_and_back() {
    let (parent, arena) = tracked();
    let mut moving = block(&arena, KIB);
    let in_chunk = moving.address();

    moving.reallocate(10 * KIB, 0).unwrap();
    assert_ne!(moving.address(), in_chunk);
    assert_eq!(parent.live_bytes(), 14 * KIB);
    moving.reallocate(KIB, 0).unwrap();
    assert_eq!(moving.address(), in_chunk);
    assert_eq!(parent.live_bytes(), 4 * KIB);
}

#[test]
fn an_arena_with_live_blocks_is_not_reset_and_says_what_is_live() {
    let (_parent, arena) = tracked();
    let small = block(&arena, 100);
    let large = block(&arena, 5000);

    let error = arena.reset().unwrap_err();

    assert!(
        matches!(
            error,
            ArenaError::StillLive {
                blocks: 2,
                bytes: 5100,
                large_blocks: 1,
                chunks: 1,
                ..
            }
        ),
        "{error:?}"
    );
    let text = "the arena has 2 live blocks of 5100 bytes, 1 of them beside its 1 chunks";
    assert_eq!(error.to_string(), text);
    drop(small);
    drop(large);
    arena.reset().unwrap();
}

#[test]
fn release_unused_keeps_no_chunk_that_is_empty() {
    let (parent, arena) = tracked();
    let kept = block(&arena, 64);
    let others: Vec<_> = (0..100).map(|_| block(&arena, KIB)).collect();
    drop(others);

    arena.release_unused();
    assert_eq!(parent.live_bytes(), 4 * KIB, "the chunk that holds a block");
    drop(kept);
    arena.release_unused();

    assert_eq!(parent.live_bytes(), 0);
    assert_eq!(block(&arena, 64).bytes().len(), 64);
}

#[test]
fn statistics_show_what_one_small_block_retains() {
    let (_parent, arena) = tracked();
    let kept = block(&arena, 64);
    drop((0..100).map(|_| block(&arena, KIB)).collect::<Vec<_>>());
    arena.release_unused();

    let stats = arena.stats();

    assert_eq!(stats.live_bytes, Some(64));
    assert_eq!(stats.active_bytes, Some(4 * KIB));
    assert_eq!(stats.cached_bytes, Some(4 * KIB - 64));
    assert_eq!(stats.allocations, Some(101));
    assert_eq!(stats.total_bytes, Some(100 * KIB as u64 + 64));
    assert_eq!(stats.peak_bytes, Some(100 * KIB + 64));
    arena.reset_peak();
    assert_eq!(arena.stats().peak_bytes, Some(64));
    drop(kept);
}

#[test]
fn the_high_water_mark_includes_freed_blocks_whose_room_is_not_free_yet() {
    let (_parent, arena) = tracked();
    let older = block(&arena, 256);
    let newest = block(&arena, 256);

    drop(older);
    assert_eq!(block(&arena, 256).bytes().len(), 256);

    assert_eq!(arena.high_water_mark(), 768);
    assert_eq!(arena.stats().peak_bytes, Some(512));
    drop(newest);
}

#[test]
fn sizes_that_no_chunk_can_have_are_typed_errors() {
    let build = |chunk_size, max_chunk_size| {
        let builder = Arena::builder().parent(Arc::new(StdManager));
        builder
            .chunk_size(chunk_size)
            .max_chunk_size(max_chunk_size)
            .build()
    };

    for (chunk_size, max) in [
        (0, 0),
        (0, 1),
        (2, 1),
        (1, usize::MAX),
        (usize::MAX, usize::MAX),
    ] {
        let error = build(chunk_size, max).unwrap_err();
        assert!(
            matches!(error, ArenaError::InvalidChunkSize { .. }),
            "{error:?}"
        );
    }
    let error = Arena::builder().chunk_size(0).build().unwrap_err();
    let text = "chunks of 0 bytes that grow to 4194304 cannot be had";
    assert_eq!(error.to_string(), text);
    assert!(build(1, 1).is_ok());
    assert!(build(1, isize::MAX as usize - 64).is_ok());
}

#[test]
fn a_parent_that_refuses_large_chunks_is_asked_for_a_small_one() {
    let parent = Arc::new(FailingManager::new());
    let builder = Arena::builder().parent(parent.clone()).chunk_size(4 * KIB);
    let arena = builder.build().unwrap();
    let _first: Vec<_> = (0..4).map(|_| block(&arena, KIB)).collect();
    // The second chunk would have 8 KiB.
    parent.fail_at(1);

    let _second = block(&arena, KIB);

    assert_eq!(arena.held_bytes(), 8 * KIB);
    assert_eq!(parent.failures(), 1);
}

#[test]
fn a_parent_that_fails_or_panics_leaves_the_arena_as_it_was() {
    let parent = Arc::new(FailingManager::new());
    let panicking = Arc::new(PanickingManager::over(parent.clone()));
    let builder = Arena::builder()
        .parent(panicking.clone())
        .chunk_size(4 * KIB);
    let arena = builder.build().unwrap();
    let mut held = vec![block(&arena, KIB), block(&arena, KIB), block(&arena, 5000)];

    let before = arena.stats();
    for panics in [false, true] {
        if panics {
            panicking.panic_always();
        } else {
            parent.fail_always();
        }
        for block in &mut held {
            let call = std::panic::AssertUnwindSafe(|| block.reallocate(100_000, 0).is_ok());
            assert!(!std::panic::catch_unwind(call).unwrap_or(false));
        }
        let mut filled: Vec<_> = std::iter::from_fn(|| {
            let call = || Block::filled(&arena, layout(KIB), 0);
            let call = std::panic::AssertUnwindSafe(call);
            std::panic::catch_unwind(call).ok().and_then(Result::ok)
        })
        .collect();
        assert_eq!(filled.len(), 2, "what is left of the chunk");
        // The newest first, so that each frees its room at once.
        while filled.pop().is_some() {}
        panicking.recover();
        parent.recover();

        let after = arena.stats();
        assert_eq!(after.live_bytes, before.live_bytes);
        assert_eq!(after.active_bytes, before.active_bytes);
    }
    for block in held {
        let value = block.layout().size() as u8;
        assert!(block.bytes().iter().all(|&byte| byte == value));
    }
    arena.reset().unwrap();
}

#[test]
fn the_error_of_the_parent_is_the_source() {
    let parent = Arc::new(FailingManager::new());
    parent.fail_always();
    let arena = Arena::builder()
        .parent(parent)
        .chunk_size(4 * KIB)
        .build()
        .unwrap();

    let error = arena.allocate(layout(64)).unwrap_err();

    assert_eq!(error.to_string(), "the arena got no chunk of 4096 bytes");
    assert!(std::error::Error::source(&error).is_some());
}

/// A parent that looks at the arena whenever it is called, which needs the arena's lock.
#[derive(Debug, Default)]
struct Nosy {
    arena: Mutex<Option<Arena>>,
    /// Whether it is looking already: what it does there reaches it again.
    looking: AtomicBool,
}

impl Nosy {
    fn look(&self) {
        if self.looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let arena = self.arena.lock().unwrap().clone();
        if let Some(arena) = arena {
            let _ = arena.stats();
            let small = arena.allocate(layout(64));
            if let Ok(small) = small {
                // SAFETY: the block was just made, with this layout.
                unsafe { arena.deallocate(small, layout(64)) };
            }
        }
        self.looking.store(false, Ordering::Relaxed);
    }
}

// SAFETY: it does what `StdManager` does.
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
    // They hold each other.
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
    // The channel holds 100 blocks: the arena did not keep what came back.
    assert!(
        parent.max_live_bytes() < 600 * KIB,
        "{}",
        parent.max_live_bytes()
    );
}

#[test]
fn clones_share_one_arena_and_its_chunks_go_with_the_last_of_them() {
    let (parent, arena) = tracked();
    let other = arena.clone();
    drop(block(&arena, 64));
    drop(arena);
    drop(block(&other, 64));

    assert_eq!(parent.allocations(), 1);
    drop(other);
    parent.assert_clean();
}

#[test]
fn a_leaked_block_outlives_its_arena() {
    // A static reaches what is leaked, so that leak checkers know that it is meant.
    static LEAKED: OnceLock<Arc<TrackingManager>> = OnceLock::new();
    let (parent, arena) = tracked();
    LEAKED.set(parent.clone()).unwrap();
    let leaked = arena.allocate(layout(100)).unwrap();
    // SAFETY: the block is live and has 100 bytes.
    unsafe { leaked.as_ptr().write_bytes(7, 100) };

    drop(arena);

    assert_eq!(parent.live_bytes(), 4 * KIB);
    // SAFETY: it was never given back, so it is valid; its bytes were written above.
    let bytes = unsafe { std::slice::from_raw_parts(leaked.as_ptr(), 100) };
    assert!(bytes.iter().all(|&byte| byte == 7));
}

#[test]
fn an_arena_over_an_allocator_charges_its_chunks_there() {
    let root = RootAllocator::new(1 << 20);
    let query = root.child("query").limit(100 * KIB).build().unwrap();
    let arena = Arena::builder()
        .allocator(&query)
        .chunk_size(16 * KIB)
        .build()
        .unwrap();
    assert_eq!(query.allocated_memory(), 0);

    let small = block(&arena, 64);
    assert_eq!(query.allocated_memory(), 16 * KIB);
    let large = block(&arena, 20_000);
    assert_eq!(query.allocated_memory(), 16 * KIB + 20_032);
    assert_eq!(arena.held_bytes(), 16 * KIB + 20_000);

    drop(small);
    drop(large);
    assert_eq!(query.allocated_memory(), 16 * KIB, "the chunk is kept");
    drop(arena);
    assert_eq!(query.allocated_memory(), 0);
    query.close().unwrap();
}

#[test]
fn an_arena_over_an_allocator_keeps_to_its_limit_and_says_who_refused() {
    let root = RootAllocator::new(40 * KIB);
    let arena = Arena::builder()
        .allocator(&root)
        .chunk_size(16 * KIB)
        .build()
        .unwrap();

    // The second chunk would have 32 KiB, so it has 16; there is no room for a third.
    let mut blocks = Vec::new();
    let error = loop {
        match Block::filled(&arena, layout(KIB), 1) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };

    assert_eq!(blocks.len(), 32);
    assert_eq!(root.allocated_memory(), 32 * KIB);
    let sources: Vec<_> = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    })
    .collect();
    let refused = sources
        .iter()
        .find_map(|error| error.downcast_ref::<AllocError>());
    assert!(
        matches!(refused, Some(AllocError::OutOfMemory { .. })),
        "{sources:?}"
    );
    drop(blocks);
    arena.release_unused();
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_tree_may_stand_on_an_arena() {
    let (parent, arena) = tracked();
    let root = RootAllocator::builder()
        .allocation_manager(Arc::new(arena.clone()))
        .build()
        .unwrap();
    let child = root.child("batch").build().unwrap();

    let mut builder = child.buffer(64).unwrap();
    for byte in 0..3000 {
        builder.extend_from_slice(&[byte as u8]).unwrap();
    }
    let frozen = builder.freeze();

    assert_eq!(frozen[2999], 2999_u32 as u8);
    assert!(arena.reset().is_err());
    drop(frozen);
    arena.reset().unwrap();
    drop((child, root, arena));
    parent.assert_clean();
}

#[test]
fn the_backend_is_found_by_name_and_is_nobody_s_default() {
    assert_eq!(backend::supported(), ["system", "arena"]);
    assert_eq!(backend::manager("arena").unwrap().name(), "arena");
    assert_eq!(backend::default_manager().unwrap().name(), "system");
}

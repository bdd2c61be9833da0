//! Checks the promises in the documentation of `arrow_memory_arena`.
#![expect(
    unsafe_code,
    reason = "one manager is implemented here, and some blocks are given back by hand"
)]

use std::alloc::Layout;
use std::sync::{Arc, OnceLock};

use arrow_memory_arena::{Arena, ArenaError};
use arrow_memory_core::testing::{
    Block, CountingManager, FailingManager, PanickingManager, StdManager, TrackingManager,
};
use arrow_memory_core::{AllocationManager, backend};
use arrow_memory_system as _;

mod threads;
mod trees;

const KIB: usize = 1024;

/// An arena with chunks from 4 KiB to 64 KiB, in which blocks over 1 KiB are large.
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
        // The older block first, so that only the last one is freed as the newest.
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

    // The chunks become empty in order, the oldest first.
    others.drain(..900);

    let rest = parent.live_bytes();
    assert!(most >= 1000 * KIB, "{most}");
    // The 100 last blocks and the first chunk; one of the larger chunks in between is kept as the spare.
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
    assert_eq!(format!("{error:?}"), text);
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
    let text = "chunks of 0 bytes that grow to 4194304 (4.0 MiB) cannot be had";
    assert_eq!(error.to_string(), text);
    assert_eq!(format!("{error:?}"), text);
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
        // The newest block first, so that the room of each is reused at once.
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
    // A static refers to the leaked block, so that leak checkers treat it as intended.
    static LEAKED: OnceLock<Arc<TrackingManager>> = OnceLock::new();
    let (parent, arena) = tracked();
    LEAKED.set(parent.clone()).unwrap();
    let leaked = arena.allocate(layout(100)).unwrap();
    // SAFETY: the block is live and has 100 bytes.
    unsafe { leaked.as_ptr().write_bytes(7, 100) };

    drop(arena);

    assert_eq!(parent.live_bytes(), 4 * KIB);
    // SAFETY: the block was never freed, so it is valid; its bytes were written above.
    let bytes = unsafe { std::slice::from_raw_parts(leaked.as_ptr(), 100) };
    assert!(bytes.iter().all(|&byte| byte == 7));
}

#[test]
fn the_backend_is_found_by_name_and_is_nobody_s_default() {
    assert_eq!(backend::supported(), ["system", "arena"]);
    assert_eq!(backend::manager("arena").unwrap().name(), "arena");
    assert_eq!(backend::default_manager().unwrap().name(), "system");
}

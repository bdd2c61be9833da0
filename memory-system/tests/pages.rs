//! Large blocks on Linux. This is a binary of its own, since resident memory is counted for the process.
#![cfg(target_os = "linux")]

use std::alloc::Layout;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_memory_manager::AllocationManager;
use arrow_memory_manager::testing::Block;
use arrow_memory_system::SystemManager;

static MANAGER: SystemManager = SystemManager::new();

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

fn block(size: usize) -> Block<'static> {
    Block::untouched(&MANAGER, layout(size, 64)).expect("a usual size")
}

fn cached() -> usize {
    MANAGER.stats().cached_bytes.expect("known")
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("a line of kB")
        .trim()
        .parse::<usize>()
        .expect("a number")
        * KIB
}

#[test]
fn growing_a_large_block_moves_pages_and_not_bytes() {
    let _turn = alone();
    let mut blocks: Vec<_> = (0..4).map(|_| block(64 * MIB)).collect();
    let before = resident();

    // Copying would touch 64 MiB at the old and the new address, each time.
    for size in [128 * MIB, 256 * MIB, 512 * MIB] {
        for block in &mut blocks {
            block.resize(size).unwrap();
            assert_eq!(block.address() % (2 * MIB), 0);
        }
    }

    let grown = resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes were touched");
}

#[test]
fn a_large_block_that_is_not_touched_is_not_resident() {
    let _turn = alone();
    MANAGER.release_unused();
    let before = resident();

    let plain = block(256 * MIB);
    let zeroed = Block::zeroed(&MANAGER, layout(256 * MIB, 64)).unwrap();

    let grown = resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes were touched");
    drop((plain, zeroed));
}

#[test]
fn shrinking_a_large_block_gives_its_pages_back_at_once() {
    let _turn = alone();
    MANAGER.release_unused();
    let before = resident();
    let mut shrunk = Block::filled(&MANAGER, layout(128 * MIB, 64), 1).unwrap();
    let address = shrunk.address();

    shrunk.resize(2 * MIB).unwrap();

    assert_eq!(shrunk.address(), address);
    let kept = resident().saturating_sub(before);
    assert!(kept < 32 * MIB, "{kept} bytes are resident");
}

#[test]
fn pages_that_come_back_are_kept_for_the_next_block_until_they_are_asked_for() {
    let _turn = alone();
    MANAGER.release_unused();
    assert_eq!(cached(), 0);

    let first = block(10 * MIB);
    let address = first.address();
    drop(first);
    assert_eq!(cached(), 10 * MIB);

    let second = block(9 * MIB);
    assert_eq!((second.address(), cached()), (address, 0));
    drop(second);
    assert_eq!(cached(), 9 * MIB);

    MANAGER.release_unused();
    assert_eq!(cached(), 0);
}

#[test]
fn kept_pages_are_bounded_however_much_comes_back() {
    let _turn = alone();

    let many: Vec<_> = (0..100).map(|_| block(5 * MIB)).collect();
    drop(many);
    drop(block(500 * MIB));

    assert!(cached() <= 64 * MIB, "{} bytes are kept", cached());
}

#[test]
fn alignments_above_a_huge_page_hold_too() {
    let _turn = alone();
    for shift in 22..=26 {
        let align = 1 << shift;
        for size in [100, 3 * MIB, 40 * MIB] {
            let mut block = Block::filled(&MANAGER, layout(size, align), 1).unwrap();
            assert_eq!(block.address() % align, 0);
            block.reallocate(2 * size, 1).unwrap();
            assert_eq!(block.address() % align, 0);
            assert!(block.bytes().iter().all(|&byte| byte == 1));
        }
    }
}

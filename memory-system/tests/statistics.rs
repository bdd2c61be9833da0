//! Statistics are those of the process, so this is a binary of its own, and its tests run one at a time.

use std::alloc::Layout;
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use arrow_memory_manager::testing::Block;
use arrow_memory_manager::{AllocationManager, ManagerStats};
use arrow_memory_system::SystemManager;

static MANAGER: SystemManager = SystemManager::new();

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn block(size: usize) -> Block<'static> {
    let layout = Layout::from_size_align(size, 64).expect("a valid layout");
    Block::untouched(&MANAGER, layout).expect("a usual size")
}

fn live() -> usize {
    MANAGER.stats().live_bytes.expect("known")
}

fn peak() -> usize {
    MANAGER.stats().peak_bytes.expect("known")
}

/// A block that raises the live bytes to the peak so far, so that every further byte raises the peak.
fn up_to_the_peak() -> Block<'static> {
    block((peak() - live()).max(1))
}

/// The maximum error of the peak: a quantum for each thread that ever counted, and each test has its own
/// thread. (For one thread the peak is exact; the unit tests of `Tally` check that.)
const SLACK: usize = 10 * 256 * KIB;

#[test]
fn the_peak_sees_a_block_that_came_and_went() {
    let _turn = alone();
    let _floor = up_to_the_peak();
    let before = live();

    let one = block(10 * MIB);
    drop(block(100 * MIB));
    let two = block(20 * MIB);
    drop((one, two));

    assert!(peak().abs_diff(before + 110 * MIB) <= SLACK, "{}", peak());
    assert_eq!(live(), before);
}

#[test]
fn the_peak_sees_small_blocks_that_pile_up() {
    let _turn = alone();
    let _floor = up_to_the_peak();
    let before = live();

    let pile: Vec<_> = (0..100_000).map(|_| block(64)).collect();
    drop(pile);

    assert!(peak().abs_diff(before + 6_400_000) <= SLACK, "{}", peak());
}

#[test]
fn the_peak_of_several_threads_is_that_of_their_sum() {
    let _turn = alone();
    let _floor = up_to_the_peak();
    let before = live();

    // Each thread holds its blocks until all threads have theirs, so the true peak is four times 16 MiB.
    let all_hold = std::sync::Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let held: Vec<_> = (0..16_384).map(|_| block(KIB)).collect();
                all_hold.wait();
                drop(held);
            });
        }
    });

    assert!(peak().abs_diff(before + 64 * MIB) <= SLACK, "{}", peak());
}

#[test]
fn growth_and_shrinking_count_with_their_difference() {
    let _turn = alone();
    let before = MANAGER.stats();
    let since = |now: ManagerStats| {
        (
            now.live_bytes.unwrap() - before.live_bytes.unwrap(),
            now.total_bytes.unwrap() - before.total_bytes.unwrap(),
            now.allocations.unwrap() - before.allocations.unwrap(),
        )
    };

    let mut grown = block(1_000);
    assert_eq!(since(MANAGER.stats()), (1_000, 1_000, 1));
    grown.resize(5 * MIB).unwrap();
    assert_eq!(since(MANAGER.stats()), (5 * MIB, 5 * MIB as u64, 1));
    grown.resize(10).unwrap();
    assert_eq!(since(MANAGER.stats()), (10, 5 * MIB as u64, 1));
    drop(grown);
    assert_eq!(since(MANAGER.stats()), (0, 5 * MIB as u64, 1));
}

#[test]
fn what_threads_did_counts_after_they_ended() {
    let _turn = alone();
    let before = MANAGER.stats();

    for _ in 0..20 {
        let mine = block(64);
        let theirs = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                drop(mine);
                block(128)
            });
            thread.join().unwrap()
        });
        assert_eq!(live(), before.live_bytes.unwrap() + 128);
        drop(theirs);
    }

    let after = MANAGER.stats();
    assert_eq!(after.live_bytes, before.live_bytes);
    assert_eq!(after.allocations, before.allocations.map(|all| all + 40));
    assert_eq!(
        after.total_bytes,
        before.total_bytes.map(|all| all + 20 * 192)
    );
}

#[test]
fn blocks_are_counted_in_the_last_destructors_of_a_thread() {
    thread_local! {
        static HELD: RefCell<Vec<Block<'static>>> = const { RefCell::new(Vec::new()) };
    }
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            drop(block(100));
        }
    }
    thread_local! {
        static LAST: Last = const { Last };
    }
    let _turn = alone();
    let before = MANAGER.stats();

    // The two thread-locals are destroyed in either order relative to the manager's own state.
    let ended = thread::spawn(|| {
        LAST.with(|_| ());
        HELD.with_borrow_mut(|held| held.push(block(1_000)));
        thread::spawn(|| {
            HELD.with_borrow_mut(|held| held.push(block(1_000)));
            LAST.with(|_| ());
        })
        .join()
    });
    ended.join().unwrap().unwrap();

    let after = MANAGER.stats();
    assert_eq!(after.live_bytes, before.live_bytes);
    assert_eq!(after.allocations, before.allocations.map(|all| all + 4));
}

#[test]
fn live_bytes_never_pass_below_zero_while_blocks_change_threads() {
    let _turn = alone();
    let floor = live();
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Block<'_>>(8);

    thread::scope(|scope| {
        scope.spawn(move || receiver.into_iter().for_each(drop));
        scope.spawn(move || {
            for _ in 0..20_000 {
                sender.send(block(4 * KIB)).unwrap();
            }
        });
        for _ in 0..2_000 {
            let live = live();
            // Up to ten blocks are in transit, and others may come and go while the shards are read.
            assert!(live >= floor, "{live} below {floor}");
        }
    });

    assert_eq!(live(), floor);
}

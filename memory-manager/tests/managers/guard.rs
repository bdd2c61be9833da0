use std::alloc::Layout;
use std::env;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_manager::testing::{Block, StdManager, TrackingManager};
use arrow_memory_manager::{
    AllocationManager, DEBUG_POOL_VARIABLE, GuardAction, GuardedManager, ManagerError,
};

use crate::children;
use crate::subscriber::Recorder;

/// A manager for tests that overrun blocks and free them twice: its blocks are longer than requested, and
/// never freed.
#[derive(Debug)]
struct Forgiving;

// SAFETY: the blocks are those of `StdManager`, and longer than requested.
unsafe impl AllocationManager for Forgiving {
    fn name(&self) -> &str {
        "forgiving"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let longer = Layout::from_size_align(layout.size() + 64, layout.align());
        StdManager.allocate_zeroed(longer.expect("a valid layout"))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, _layout: Layout) {
        // Leak detectors find the block through this list.
        LEAKED.lock().expect("no panic").push(ptr.as_ptr().addr());
    }
}

static LEAKED: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 64).expect("a valid layout")
}

fn guarded(action: GuardAction) -> GuardedManager {
    GuardedManager::new(Arc::new(Forgiving), action)
}

/// Writes a byte at an offset from the block's start, which may lie outside of it.
fn write(block: &mut Block<'_>, offset: isize, value: u8) {
    let start = block.bytes_mut().as_mut_ptr();
    // SAFETY: these tests stay within the 64 guard bytes on either side, or within the bytes that `Forgiving`
    // adds.
    let target = unsafe { start.offset(offset) };
    // SAFETY: the byte lies within the guard bytes or the block, all of which is writable.
    unsafe { target.write(value) };
}

/// The warnings while `work` runs with a guarded manager, without the addresses.
fn warnings(work: impl FnOnce(&GuardedManager)) -> Vec<String> {
    let manager = guarded(GuardAction::Warn);
    let lines = Recorder::record(|| work(&manager));
    lines.iter().map(|line| without_address(line)).collect()
}

fn without_address(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.strip_prefix("0x") {
        Some(digits) if digits.len() > 4 => "ADDRESS:",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_byte_past_the_end_is_found_when_the_block_comes_back() {
    for offset in [0, 1, 63] {
        let lines = warnings(|manager| {
            let mut block = Block::filled(manager, layout(100), 1).unwrap();
            write(&mut block, 100 + offset, 0x2A);
        });

        let expected = format!(
            "WARN block of 100 bytes at ADDRESS: {offset} bytes past its end, 0x2a was written \
             pool=\"forgiving\""
        );
        assert_eq!(lines, [expected]);
    }
}

#[test]
fn a_byte_before_the_start_is_found_too() {
    let lines = warnings(|manager| {
        let mut block = Block::filled(manager, layout(100), 1).unwrap();
        write(&mut block, -3, 0);
    });
    assert_eq!(
        lines,
        [
            "WARN block of 100 bytes at ADDRESS: 3 bytes before it, 0x00 was written pool=\"forgiving\""
        ]
    );

    let lines = warnings(|manager| {
        let mut block = Block::filled(manager, layout(100), 1).unwrap();
        write(&mut block, -64, 0x77);
    });
    assert_eq!(
        lines,
        [
            "WARN block of 100 bytes at ADDRESS: its size, over 48 bytes before it, was overwritten pool=\"forgiving\""
        ]
    );
}

#[test]
fn damage_is_found_when_a_block_is_reallocated() {
    let lines = warnings(|manager| {
        let mut block = Block::filled(manager, layout(100), 1).unwrap();
        write(&mut block, 100, 0);
        block.reallocate(1_000, 2).unwrap();
        assert_eq!(block.bytes()[..100], [1; 100]);
        // The moved block has new guards, so the damage is reported once.
    });

    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_block_that_comes_back_with_another_size_or_twice_is_found() {
    let lines = warnings(|manager| {
        let ptr = manager.allocate(layout(100)).unwrap();
        // SAFETY: the layout is wrong on purpose; `Forgiving` does not touch the block.
        unsafe { manager.deallocate(ptr, layout(104)) };
        // SAFETY: the block was returned before, on purpose; `Forgiving` does not touch it.
        unsafe { manager.deallocate(ptr, layout(100)) };
    });

    assert_eq!(
        lines,
        [
            "WARN block of 104 bytes at ADDRESS: it was lent with 100 bytes pool=\"forgiving\"",
            "WARN block of 100 bytes at ADDRESS: it was given back before pool=\"forgiving\"",
        ]
    );
}

#[test]
fn what_stays_within_its_block_is_not_reported() {
    let tracking = Arc::new(TrackingManager::new());
    let lines = Recorder::record(|| {
        let manager = GuardedManager::new(tracking.clone(), GuardAction::Warn);
        for align in [1, 64, 4096, 2 << 20] {
            for size in [1, 63, 64, 65, 10_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let mut block = Block::zeroed(&manager, layout).unwrap();
                block.bytes_mut().fill(0xFF);
                block.reallocate(2 * size, 0xFF).unwrap();
                block.reallocate(1, 0xFF).unwrap();
                assert_eq!(block.address() % align, 0);
            }
        }
    });

    assert!(lines.is_empty(), "{lines:?}");
    tracking.assert_clean();
}

#[test]
fn guards_keep_the_name_and_count_what_they_take() {
    let manager = GuardedManager::new(Arc::new(TrackingManager::new()), GuardAction::Abort);
    let _block = Block::untouched(&manager, layout(100)).unwrap();

    assert_eq!(manager.name(), "std");
    assert_eq!(manager.stats().live_bytes, Some(228));
}

#[test]
fn names_of_actions_are_those_of_the_variable() {
    assert_eq!("abort".parse(), Ok(GuardAction::Abort));
    assert_eq!("trap".parse(), Ok(GuardAction::Trap));
    assert_eq!("warn".parse(), Ok(GuardAction::Warn));
    assert_eq!("none".parse(), Ok(GuardAction::None));
    assert_eq!("Abort".parse(), Ok(GuardAction::Abort));
    for off in ["", "0", "OFF", "false", "no"] {
        assert_eq!(off.parse(), Ok(GuardAction::None), "{off}");
    }
    let error = "1".parse::<GuardAction>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`1` is none of abort, trap, warn and none"
    );
}

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_writes_past_the_end() {
    let manager = GuardedManager::by_environment(Arc::new(Forgiving));
    let mut block = Block::filled(&*manager, layout(100), 1).unwrap();
    write(&mut block, 100, 0x2A);
    drop(block);
    println!("survived");
}

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_is_told_nonsense() {
    let lines = Recorder::record(|| {
        for _ in 0..3 {
            let plain: Arc<dyn AllocationManager> = Arc::new(Forgiving);
            let same = GuardedManager::by_environment(Arc::clone(&plain));
            assert!(Arc::ptr_eq(&plain, &same));
        }
    });
    println!("{lines:?} {:?}", env::var(DEBUG_POOL_VARIABLE));
}

/// Writes a byte past the end in a child process. Returns whether it succeeded, its signal and its output.
fn corrupt(action: &str) -> (bool, Option<i32>, String) {
    let output = children::run(
        "guard::child_that_writes_past_the_end",
        &[(DEBUG_POOL_VARIABLE, action)],
    );
    let survived = output.status.success() && children::stdout(&output).contains("survived");
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    #[cfg(not(unix))]
    let signal = None;
    (
        survived,
        signal,
        without_address(&children::stderr(&output)),
    )
}

const FOUND: &str = "block of 100 bytes at ADDRESS: 0 bytes past its end, 0x2a was written \
                     (memory pool `forgiving`)";

#[test]
fn abort_says_what_it_found_and_ends_the_process() {
    let (survived, signal, words) = corrupt("abort");

    assert!(!survived && words.contains(FOUND), "{words}");
    assert!(signal.is_none_or(|signal| signal == SIGABRT), "{signal:?}");
}

#[test]
fn trap_says_what_it_found_and_stops_for_the_debugger() {
    let (survived, signal, words) = corrupt("trap");

    assert!(!survived && words.contains(FOUND), "{words}");
    assert!(signal.is_none_or(|signal| signal == SIGTRAP), "{signal:?}");
}

#[test]
fn warn_says_what_it_found_and_goes_on() {
    let (survived, _, words) = corrupt("warn");

    assert!(survived && words.contains(FOUND), "{words}");
}

#[test]
fn none_and_nothing_at_all_look_away() {
    for action in ["none", ""] {
        let (survived, _, words) = corrupt(action);

        assert!(survived && !words.contains("past its end"), "{words}");
    }
}

#[test]
fn a_word_that_is_no_action_is_warned_about_once() {
    let output = children::run(
        "guard::child_that_is_told_nonsense",
        &[(DEBUG_POOL_VARIABLE, "explode")],
    );

    let expected = r#"["WARN ARROW_DEBUG_MEMORY_POOL is ignored: `explode` is none of abort, trap, warn and none"] Ok("explode")"#;
    let stdout = children::stdout(&output);
    assert!(
        output.status.success() && stdout.contains(expected),
        "{stdout}"
    );
}

const SIGABRT: i32 = 6;
const SIGTRAP: i32 = 5;

//! The registry's protocol on loom's atomics: each pair of racing operations.
//!
//! Each memory has a datum, which its holders read and its release writes. So loom sees not only wrong counts,
//! but also a release that is not ordered after a reader.
#![expect(
    unsafe_code,
    reason = "loom's cell is not Sync; that it is used in order is what is checked"
)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;

/// Memory that is found by its address: a count that is recycled once the memory has been released. It models
/// the count of a foreign allocation, and that of a wrapper's `Arc`.
struct Memory {
    count: AtomicUsize,
    recycled: AtomicBool,
    /// The bytes, which holders read.
    bytes: UnsafeCell<()>,
    /// The place of its entry, if the entry is removed by it. Written after the insertion.
    place: AtomicUsize,
    /// The number of adoptions that are charged now.
    charged: Arc<AtomicUsize>,
}

// SAFETY: all fields but `bytes` are Sync, and loom reports each access to `bytes` that is not ordered.
unsafe impl Sync for Memory {}

type Model = Registry<Arc<Memory>>;

const ADDRESS: usize = 64;
const NOWHERE: usize = usize::MAX;

fn memory(charged: &Arc<AtomicUsize>) -> Arc<Memory> {
    charged.fetch_add(1, Ordering::Relaxed);
    Arc::new(Memory {
        count: AtomicUsize::new(1),
        recycled: AtomicBool::new(false),
        bytes: UnsafeCell::new(()),
        place: AtomicUsize::new(NOWHERE),
        charged: Arc::clone(charged),
    })
}

fn find(registry: &'static Model) -> Option<Arc<Memory>> {
    let mut found = None;
    registry.visit(ADDRESS, |memory| retain(memory, &mut found));
    found
}

fn adopt(registry: &'static Model, charged: &Arc<AtomicUsize>) -> Arc<Memory> {
    if let Some(found) = find(registry) {
        return found;
    }
    let memory = memory(charged);
    let mut found = None;
    let inserted = registry.insert_unless(ADDRESS, Arc::clone(&memory), |known| {
        retain(known, &mut found)
    });
    match (inserted, found) {
        (Ok(_), _) => memory,
        (Err(_), Some(found)) => {
            release(registry, &memory);
            found
        }
        (Err(_), None) => unreachable!(),
    }
}

/// Makes a wrapper. Other threads can find it before its place is stored.
fn wrap(registry: &'static Model, charged: &Arc<AtomicUsize>) -> Arc<Memory> {
    let memory = memory(charged);
    let place = registry.insert(ADDRESS, Arc::clone(&memory), |_| false);
    // Relaxed: the count orders the store before the last drop, like in `known::wrap`.
    memory.place.store(place, Ordering::Relaxed);
    memory
}

fn retain(memory: &Arc<Memory>, found: &mut Option<Arc<Memory>>) -> ControlFlow<()> {
    assert!(
        !memory.recycled.load(Ordering::Relaxed),
        "a recycled count is touched"
    );
    let risen = memory
        .count
        // Relaxed, both: what is read was written before the entry was inserted.
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count > 0).then_some(count + 1)
        });
    if risen.is_err() {
        return ControlFlow::Continue(());
    }
    *found = Some(Arc::clone(memory));
    ControlFlow::Break(())
}

/// Reads the bytes and drops a reference. The last drop releases the memory.
fn release(registry: &'static Model, memory: &Arc<Memory>) {
    assert!(!memory.recycled.load(Ordering::Relaxed), "released twice");
    memory.bytes.with(|_| ());
    if memory.count.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let this = std::ptr::from_ref(&**memory);
    let removed = match memory.place.load(Ordering::Relaxed) {
        // This is adopted memory, which may have an entry or not.
        NOWHERE => registry.remove_first(ADDRESS, |other| {
            std::ptr::eq(std::ptr::from_ref(&**other), this)
        }),
        place => {
            let removed = registry.remove(ADDRESS, place);
            assert!(removed.is_some(), "a wrapper has an entry");
            removed
        }
    };
    if let Some(removed) = &removed {
        assert!(
            std::ptr::eq(std::ptr::from_ref(&**removed), this),
            "another entry was removed"
        );
    }
    drop(removed);
    memory.bytes.with_mut(|_| ());
    memory.recycled.store(true, Ordering::Relaxed);
    memory.charged.fetch_sub(1, Ordering::Relaxed);
}

fn start() -> (&'static Model, Arc<AtomicUsize>) {
    (
        Box::leak(Box::new(Model::new())),
        Arc::new(AtomicUsize::new(0)),
    )
}

fn assert_empty(registry: &'static Model, charged: &AtomicUsize) {
    assert_eq!((charged.load(Ordering::Relaxed), registry.len()), (0, 0));
}

#[test]
fn a_lookup_races_the_last_drop() {
    loom::model(|| {
        let (registry, charged) = start();
        let memory = adopt(registry, &charged);

        let dropper = thread::spawn(move || release(registry, &memory));
        let again = adopt(registry, &charged);
        assert!(again.count.load(Ordering::Relaxed) > 0);
        dropper.join().unwrap();

        assert_eq!(charged.load(Ordering::Relaxed), 1, "one adoption is alive");
        assert_eq!(registry.len(), 1, "and it can be found");
        release(registry, &again);
        assert_empty(registry, &charged);
    });
}

#[test]
fn two_adoptions_of_the_same_memory_end_as_one() {
    loom::model(|| {
        let (registry, charged) = start();

        let other = thread::spawn({
            let charged = Arc::clone(&charged);
            move || adopt(registry, &charged)
        });
        let mine = adopt(registry, &charged);
        let theirs = other.join().unwrap();

        assert!(Arc::ptr_eq(&mine, &theirs));
        assert_eq!((charged.load(Ordering::Relaxed), registry.len()), (1, 1));
        release(registry, &mine);
        release(registry, &theirs);
        assert_empty(registry, &charged);
    });
}

/// The last drop may be on the thread that found it, which removes the entry by a place that the other thread
/// stored.
#[test]
fn a_wrapper_is_found_by_another_thread_while_it_is_made_and_dropped() {
    loom::model(|| {
        let (registry, charged) = start();

        let other = thread::spawn({
            move || {
                if let Some(found) = find(registry) {
                    release(registry, &found);
                }
            }
        });
        let mine = wrap(registry, &charged);
        release(registry, &mine);
        other.join().unwrap();

        assert_empty(registry, &charged);
    });
}

/// There are two entries at one address, and the memory of one is released while the other is looked up. The
/// lookup passes the first, and neither removal touches the other's entry.
#[test]
fn wrappers_at_one_address_come_and_go_by_themselves() {
    loom::model(|| {
        let (registry, charged) = start();
        let first = wrap(registry, &charged);
        let second = wrap(registry, &charged);

        let other = thread::spawn(move || release(registry, &first));
        let found = find(registry).expect("the second is alive");
        release(registry, &second);
        other.join().unwrap();
        release(registry, &found);

        assert_empty(registry, &charged);
    });
}

/// Neither thread finds room in the table, so both make a larger one with the lock released.
#[test]
fn a_table_grows_while_another_thread_inserts() {
    loom::model(|| {
        let registry: &'static Registry<char> = Box::leak(Box::new(Registry::new()));

        let other = thread::spawn(move || registry.insert(64, 'a', |_| false));
        let mine = registry.insert(128, 'b', |_| false);
        let theirs = other.join().unwrap();

        assert_eq!(registry.remove(64, theirs), Some('a'));
        assert_eq!(registry.remove(128, mine), Some('b'));
        assert_eq!(registry.len(), 0);
    });
}

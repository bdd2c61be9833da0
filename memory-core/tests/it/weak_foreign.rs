//! Finding foreign memory by its address while its last buffer is dropped.
#![expect(
    unsafe_code,
    reason = "a registry of foreign memory promises what it leads to"
)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use arrow_memory_core::{ForeignAllocation, ReleaseFn, WeakForeign};

use crate::support::{child, tracked};

const SIZE: usize = 64;

/// The latest allocation, and the number of released ones.
struct Registry {
    latest: Option<(AtomicPtr<u8>, WeakForeign)>,
    released: usize,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    latest: None,
    released: 0,
});

static RELEASE: ReleaseFn = ReleaseFn::new(|start, id| {
    let mut registry = registry();
    let latest = registry.latest.as_ref().map(|(_, weak)| weak.id());
    if latest.is_some() && latest == id {
        registry.latest = None;
    }
    registry.released += 1;
    drop(registry);
    // SAFETY: the memory was a box, and is released once.
    drop(unsafe { Box::from_raw(start.as_ptr().cast::<[u8; SIZE]>()) });
});

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_weak_reference_finds_a_live_buffer_or_none_while_the_last_one_goes() {
    let (manager, root) = tracked(usize::MAX);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let (done, found) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut made = 0;

    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let registry = registry();
                let buffer = registry.latest.as_ref().and_then(|(start, weak)| {
                    let start = NonNull::new(start.load(Ordering::Relaxed))?;
                    // SAFETY: the release takes the lock that this thread holds, and the bytes are
                    // initialised.
                    unsafe { weak.upgrade(start, SIZE) }
                });
                drop(registry);
                let Some(buffer) = buffer else { continue };
                assert_eq!(buffer.as_slice(), [7; SIZE]);
                if found.fetch_add(1, Ordering::Relaxed) % 3 == 0 {
                    drop(buffer.transfer_ownership(&b).unwrap());
                }
            }
        });
        // How often the two threads meet depends on the machine.
        while found.load(Ordering::Relaxed) < 20_000 && made < 60_000 {
            made += 1;
            let start = NonNull::from(Box::leak(Box::new([7_u8; SIZE]))).cast();
            // SAFETY: the bytes are a box's, have no other user, and are freed by the release.
            let foreign = unsafe { ForeignAllocation::with_release(start, SIZE, &RELEASE) };
            let buffer = a.wrap_foreign_allocation(foreign).unwrap();
            let weak = buffer.downgrade().unwrap();
            registry().latest = Some((AtomicPtr::new(start.as_ptr()), weak));
            // Drops the buffer after a delay that varies.
            (0..made % 200).for_each(|_| std::hint::spin_loop());
            drop(buffer);
        }
        done.store(true, Ordering::Relaxed);
    });

    assert!(found.into_inner() > 0, "the two never met");
    assert_eq!(registry().released, made);
    assert_eq!((root.allocated_memory(), manager.live_bytes()), (0, 0));
    root.verify().unwrap();
}

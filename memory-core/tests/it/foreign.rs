//! Foreign memory is charged and shared like our own, and released exactly once.
#![expect(
    unsafe_code,
    reason = "C pointers and memory maps are what this is about"
)]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    AllocError, AllocationListener, AllocatorInfo, BufferAllocator, ForeignAllocation, ForeignId,
    ReleaseFn, Veto,
};

use crate::support::{allocated, child, over, tracked};

/// Bytes that count how often they were dropped.
struct Counted {
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Relaxed: only the number matters.
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Foreign memory of `size` ones, and a counter of its releases.
pub(crate) fn counted(size: usize) -> (ForeignAllocation, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    let bytes = vec![1; size];
    let owner = Counted {
        bytes,
        drops: Arc::clone(&drops),
    };
    (ForeignAllocation::from_owner(owner), drops)
}

pub(crate) fn count(drops: &AtomicUsize) -> usize {
    drops.load(Ordering::Relaxed)
}

#[test]
fn foreign_memory_is_charged_at_its_exact_size_and_shared_like_our_own() {
    let (_, root) = tracked(100);
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let (foreign, drops) = counted(77);

    let buffer = a.wrap_foreign_allocation(foreign).unwrap();
    assert_eq!((buffer.len(), buffer.accounted_size()), (77, 77));
    assert_eq!(allocated([&a, &root]), [77, 77]);
    assert_eq!((a.stats().foreign_bytes, a.stats().own_bytes), (77, 0));
    let (slice, shared) = (buffer.slice(7..), buffer.retain_in(&b).unwrap());
    let moved = shared.transfer_ownership(&b).unwrap();
    drop((buffer, shared));
    assert_eq!(
        allocated([&a, &b]),
        [77, 0],
        "a guest has no charge to move"
    );
    drop(slice);
    assert_eq!(allocated([&a, &b]), [0, 77]);
    assert_eq!((a.stats().foreign_bytes, b.stats().foreign_bytes), (0, 77));

    assert_eq!((moved.buffer.as_slice(), count(&drops)), (&[1; 77][..], 0));
    drop(moved);
    assert_eq!((root.allocated_memory(), count(&drops)), (0, 1));
}

#[test]
fn a_refusal_hands_the_allocation_back_to_be_tried_again() {
    let (_, root) = tracked(100);
    let held = crate::support::ones(&root, 64);
    let (foreign, drops) = counted(50);

    let refused = root.wrap_foreign_allocation(foreign).unwrap_err();

    assert!(
        matches!(refused.source, AllocError::OutOfMemory { .. }),
        "{refused}"
    );
    assert_eq!((refused.allocation.size(), count(&drops)), (50, 0));
    assert_eq!(root.allocated_memory(), 64);
    drop(held);
    let buffer = root.wrap_foreign_allocation(refused.allocation).unwrap();
    assert_eq!((buffer.as_slice(), count(&drops)), (&[1; 50][..], 0));
    drop(buffer);
    assert_eq!((root.allocated_memory(), count(&drops)), (0, 1));
}

#[test]
fn foreign_memory_is_released_once_if_it_is_refused_never_wrapped_or_empty() {
    let (_, root) = tracked(10);

    let (foreign, refused) = counted(50);
    drop(root.wrap_foreign_allocation(foreign).unwrap_err());
    let (foreign, never) = counted(50);
    drop(foreign);
    let (foreign, empty) = counted(0);
    let nothing = root.wrap_foreign_allocation(foreign).unwrap();
    let (foreign, nobody) = counted(0);
    drop(foreign);

    assert_eq!(
        [&refused, &never, &empty, &nobody].map(|it| count(it)),
        [1; 4]
    );
    assert_eq!((nothing.len(), nothing.allocator()), (0, root.clone()));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn forced_foreign_memory_is_taken_in_over_the_limit_also_by_an_allocator_that_is_closing() {
    let (_, root) = tracked(10);
    let scan = child(&root, "scan");
    let held = scan.buffer_from_slice(&[]).unwrap();
    scan.allocate_bytes(1).unwrap();
    scan.close().unwrap_err();
    let (foreign, drops) = counted(50);

    let buffer = scan.wrap_foreign_allocation(foreign.forced()).unwrap();

    assert_eq!((scan.allocated_memory(), scan.is_over_limit()), (51, true));
    drop(buffer);
    assert_eq!((count(&drops), scan.allocated_memory()), (1, 1));
    scan.release_bytes(1);
    drop(held);
    scan.close().unwrap();
    let (foreign, drops) = counted(50);
    let refused = scan.wrap_foreign_allocation(foreign.forced()).unwrap_err();
    assert!(
        matches!(refused.source, AllocError::Closed { .. }),
        "it has left its tree"
    );
    drop(refused);
    assert_eq!(count(&drops), 1);
}

/// The callback that panics, or vetoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoils {
    Veto,
    PreAllocation,
    Allocation,
    FailedAllocation,
    Release,
}

impl AllocationListener for Spoils {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, _size: usize) -> Result<(), Veto> {
        assert_ne!(*self, Self::PreAllocation, "told to");
        match self {
            Self::Veto => Err(Veto::new("told to")),
            _ => Ok(()),
        }
    }

    fn on_allocation(&self, _at: &AllocatorInfo, _size: usize) {
        assert_ne!(*self, Self::Allocation, "told to");
    }

    fn on_release(&self, _at: &AllocatorInfo, _size: usize) {
        assert_ne!(*self, Self::Release, "told to");
    }

    fn on_failed_allocation(
        &self,
        _at: &AllocatorInfo,
        _size: usize,
        _outcome: &arrow_memory_core::AllocationOutcome,
    ) -> bool {
        assert_ne!(*self, Self::FailedAllocation, "told to");
        false
    }
}

#[test]
fn foreign_memory_is_released_once_whatever_callback_panics_or_vetoes() {
    for spoils in [
        Spoils::Veto,
        Spoils::PreAllocation,
        Spoils::Allocation,
        Spoils::FailedAllocation,
        Spoils::Release,
    ] {
        let builder = over(&Arc::new(TrackingManager::new())).limit(100);
        let root = builder.listener(Arc::new(spoils)).build().unwrap();
        let size = if spoils == Spoils::FailedAllocation {
            101
        } else {
            100
        };
        let (foreign, drops) = counted(size);

        let caught = catch_unwind(AssertUnwindSafe(|| {
            root.wrap_foreign_allocation(foreign).map(drop)
        }));

        let panics = !matches!(spoils, Spoils::Veto | Spoils::Release);
        assert_eq!(caught.is_err(), panics, "{spoils:?}");
        assert_eq!(root.allocated_memory(), 0, "{spoils:?}");
        drop(caught);
        assert_eq!(count(&drops), 1, "{spoils:?}");
        root.close().unwrap();
    }
}

#[test]
fn a_release_function_is_told_which_allocation_it_was_or_that_it_was_none() {
    static TOLD: Mutex<Vec<(usize, Option<ForeignId>)>> = Mutex::new(Vec::new());
    static RELEASE: ReleaseFn = ReleaseFn::new(|start, id| {
        TOLD.lock().unwrap().push((start.addr().get(), id));
    });
    static BYTES: [u8; 100] = [7; 100];
    let (_, root) = tracked(100);
    let start = NonNull::from(&BYTES).cast();
    // SAFETY: a constant is never written or freed.
    let foreign = || unsafe { ForeignAllocation::with_release(start, 100, &RELEASE) };

    let (buffer, never_wrapped) = (root.wrap_foreign_allocation(foreign()).unwrap(), foreign());
    let id = buffer.downgrade().unwrap().id();
    let shared = buffer.retain_in(&child(&root, "a")).unwrap();
    drop((never_wrapped, buffer));
    assert_eq!(shared.downgrade().unwrap().id(), id, "whichever ledger");
    drop(shared);

    let address = start.addr().get();
    assert_eq!(
        *TOLD.lock().unwrap(),
        [(address, None), (address, Some(id))]
    );
}

/// A regression: the wrappers that had charged the bytes before accepted them, though no bit was left for the
/// size. The memory was released as if it had no bytes, and its charge was never given back.
#[test]
fn foreign_memory_charged_as_more_than_any_address_space_is_refused_and_handed_back() {
    let (_, root) = tracked(usize::MAX);
    let mut room = ForeignRoom::new(&root, 1 << 61, &mut []).unwrap();
    let mut reservation = root.new_reservation();
    reservation.add(1 << 61).unwrap();
    for bytes in [1 << 61, isize::MAX.unsigned_abs(), usize::MAX] {
        let (foreign, drops) = counted(10);

        let refused = root
            .wrap_foreign_allocation(foreign.charged_as(bytes))
            .unwrap_err();
        let refused = reservation
            .wrap_foreign_allocation(refused.allocation)
            .unwrap_err();
        assert!(
            matches!(refused.source, AllocError::SizeOverflow { .. }),
            "{refused}"
        );
        let again = room.wrap(refused.allocation).unwrap_err();

        let source = again.source;
        assert!(
            matches!(source, AllocError::SizeOverflow { .. }),
            "{source}"
        );
        assert_eq!((again.allocation.charged_size(), count(&drops)), (bytes, 0));
        assert_eq!((room.size(), reservation.size()), (1 << 61, 1 << 61));
        assert_eq!(root.allocated_memory(), 1 << 62);
        drop(again.allocation);
        assert_eq!(count(&drops), 1);
    }
    drop((room, reservation));
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_c_pointer_goes_back_to_the_function_that_it_came_with() {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    let (_, root) = tracked(1000);
    // SAFETY: the arguments are valid; the result is checked.
    let raw = unsafe { libc::calloc(10, 10) };
    let ptr = NonNull::new(raw.cast::<u8>()).unwrap();
    let address = ptr.addr();
    let release = move || {
        FREED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the block is from `calloc`, and is released once.
        unsafe { libc::free(std::ptr::with_exposed_provenance_mut(address.get())) };
    };
    ptr.as_ptr().expose_provenance();
    // SAFETY: `calloc` gave 100 zero bytes, which are not written until they are freed.
    let foreign = unsafe { ForeignAllocation::new(ptr, 100, release) };

    let buffer = root.wrap_foreign_allocation(foreign).unwrap();
    let slice = buffer.slice(50..);
    drop(buffer);

    assert_eq!(
        (slice.as_slice(), FREED.load(Ordering::Relaxed)),
        (&[0; 50][..], 0)
    );
    // On another thread, since the release is `Send`.
    std::thread::spawn(move || drop(slice)).join().unwrap();
    assert_eq!(
        (FREED.load(Ordering::Relaxed), root.allocated_memory()),
        (1, 0)
    );
}

#[test]
fn a_memory_map_is_unmapped_when_the_last_buffer_on_it_goes() {
    let (_, root) = tracked(1 << 20);
    let path = std::env::temp_dir().join(format!("arrow-memory-map-{}", std::process::id()));
    File::create(&path).unwrap().write_all(&[6; 8192]).unwrap();
    let file = File::open(&path).unwrap();
    // SAFETY: this makes a new map; the file is ours and is not written.
    let map = unsafe {
        let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
        libc::mmap(
            std::ptr::null_mut(),
            8192,
            read,
            private,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(map, libc::MAP_FAILED);
    let address = map.expose_provenance();
    let unmapped = Arc::new(AtomicUsize::new(0));
    let released = Arc::clone(&unmapped);
    let release = move || {
        let map = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the region was mapped with this length, and is unmapped once.
        let result = unsafe { libc::munmap(map, 8192) };
        released.store(1 + result.unsigned_abs() as usize, Ordering::Relaxed);
    };
    // SAFETY: the 8192 bytes can be read until they are unmapped.
    let foreign =
        unsafe { ForeignAllocation::new(NonNull::new(map.cast()).unwrap(), 8192, release) };

    let buffer = root.wrap_foreign_allocation(foreign).unwrap();

    assert_eq!((buffer[8191], root.allocated_memory()), (6, 8192));
    let shared = buffer.retain_in(&child(&root, "other")).unwrap();
    drop(buffer);
    assert_eq!((shared[0], count(&unmapped)), (6, 0));
    drop(shared);
    assert_eq!((count(&unmapped), root.allocated_memory()), (1, 0));
    std::fs::remove_file(path).unwrap();
}

/// An owner that uses the tree while it is released.
struct Busy {
    bytes: [u8; 64],
    allocator: BufferAllocator,
    done: Arc<Mutex<Vec<usize>>>,
}

impl AsRef<[u8]> for Busy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let buffer = self.allocator.buffer(100).unwrap().freeze();
        let other = child(&self.allocator.root_allocator(), "made as it went");
        let moved = buffer.transfer_ownership(&other).unwrap();
        drop(buffer);
        let charged = self.allocator.root_allocator().allocated_memory();
        self.done.lock().unwrap().push(charged);
        self.allocator.set_limit(1000);
        drop(moved);
        other.close().unwrap();
    }
}

#[test]
fn a_release_may_use_the_tree_and_holds_the_last_handle() {
    let (manager, root) = tracked(1 << 20);
    let scan = child(&root, "scan");
    let done = Arc::new(Mutex::new(Vec::new()));
    let owner = Busy {
        bytes: [8; 64],
        allocator: scan.clone(),
        done: Arc::clone(&done),
    };
    let buffer = scan
        .wrap_foreign_allocation(ForeignAllocation::from_owner(owner))
        .unwrap();
    drop(scan);

    drop(buffer);

    assert_eq!(
        *done.lock().unwrap(),
        [64 + 128],
        "charged until it is gone"
    );
    assert_eq!(root.allocated_memory(), 0);
    assert!(root.child_allocators().is_empty());
    manager.assert_clean();
    root.close().unwrap();
}

#[test]
fn an_owner_that_panics_when_it_is_asked_for_its_bytes_is_dropped_once() {
    struct Shy(Arc<AtomicUsize>);
    impl AsRef<[u8]> for Shy {
        fn as_ref(&self) -> &[u8] {
            panic!("told to")
        }
    }
    impl Drop for Shy {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let owner = Shy(Arc::clone(&drops));

    let caught = catch_unwind(AssertUnwindSafe(|| ForeignAllocation::from_owner(owner)));

    assert!(caught.is_err());
    assert_eq!(count(&drops), 1);
}

//! Listeners that use the tree, or panic, inside every callback.

mod meddler;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::{
    AllocError, AllocationListener, AllocationManager, AllocationOutcome, AllocatorInfo,
    BufferAllocator, ForeignAllocation, RootAllocator, Veto, WeakBufferAllocator,
};
use arrow_memory_integration_tests::books::{Books, within_a_minute};
use arrow_memory_integration_tests::for_every_backend;

use meddler::{CALLBACKS, Callback, LIMIT, Meddler, Tree, program};

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    a_program_meets_every_callback,
    a_listener_may_allocate_and_release_inside_any_callback,
    a_listener_may_share_and_let_go_inside_any_callback,
    a_listener_may_set_limits_inside_any_callback,
    a_listener_may_create_and_close_children_inside_any_callback,
    a_listener_may_close_the_allocator_inside_any_callback,
    a_listener_may_read_everything_inside_any_callback,
    a_panic_inside_any_callback_leaves_nothing_charged_or_lost,
    a_listener_that_always_panics_lets_drop_finish,
    a_veto_changes_nothing,
    a_listener_that_releases_memory_saves_the_request,
    a_listener_that_promises_in_vain_is_asked_once,
    a_policy_that_panics_leaves_nothing_charged,
    a_policy_may_use_the_tree,
    a_release_closure_that_panics_is_caught_and_the_charge_goes,
);

fn a_program_meets_every_callback(backend: &Backend) {
    let listener = Meddler::new(|_, _| ());
    let tree = Tree::new(backend, &listener);

    assert_eq!(program(&tree), 0);

    assert_eq!(listener.met(), CALLBACKS);
    tree.assert_empty();
}

/// Runs the program with a listener that calls `act` inside one kind of callback, for each kind, and then
/// inside all of them.
fn meddle(backend: &Backend, act: impl Fn(&BufferAllocator, Callback) + Send + Sync + 'static) {
    let act = Arc::new(act);
    for only in CALLBACKS.map(Some).into_iter().chain([None]) {
        let (backend, act) = (Arc::clone(backend), Arc::clone(&act));
        within_a_minute(move || {
            let listener = Meddler::new(move |child, met| {
                if only.is_none_or(|only| only == met) {
                    act(child, met);
                }
            });
            let tree = Tree::new(&backend, &listener);

            assert_eq!(program(&tree), 0, "{only:?}");

            assert_eq!(listener.met(), CALLBACKS);
            tree.root.set_limit(LIMIT);
            tree.assert_empty();
        });
    }
}

fn a_listener_may_allocate_and_release_inside_any_callback(backend: &Backend) {
    let kept = Mutex::new(Vec::new());
    meddle(backend, move |child, _| {
        let mut buffer = child.buffer_zeroed(100).unwrap();
        buffer.resize(1000, 3).unwrap();
        let buffer = buffer.freeze();
        let root = child.root_allocator();
        let moved = buffer.transfer_ownership(&root).unwrap();
        child.allocate_bytes(10).unwrap();
        child.release_bytes(10);
        child.buffer(LIMIT * 2).unwrap_err();
        let mut reservation = child.new_reservation();
        reservation.add(64).unwrap();
        // A buffer of the listener's own lives from one callback to the next, like data that it may spill.
        let mut kept = kept.lock().unwrap();
        if kept.pop().is_none() && !child.is_closed() {
            kept.push(moved.buffer.slice(1..2));
            kept.clear();
        }
    });
}

fn a_listener_may_share_and_let_go_inside_any_callback(backend: &Backend) {
    meddle(backend, |child, _| {
        let root = child.root_allocator();
        let brief = root.child("brief").reservation(64).build().unwrap();
        let mut reservation = brief.new_reservation();
        reservation.add(64).unwrap();
        let buffer = reservation.allocate_buffer().unwrap().freeze();
        let foreign = ForeignAllocation::from_owner(vec![1_u8; 30]);
        let foreign = brief.wrap_foreign_allocation(foreign).unwrap();
        let shared = [
            buffer.retain_in(child).unwrap(),
            foreign.retain_in(&root).unwrap(),
        ];
        brief.allocate_bytes(5).unwrap();
        root.release_unused();
        // Drops the last handle while bytes and buffers are left; then ownership moves, twice.
        drop(brief);
        drop((buffer, foreign));
        assert!(shared.iter().all(|it| it.accounted_size() > 0));
    });
}

fn a_listener_may_set_limits_inside_any_callback(backend: &Backend) {
    let count = AtomicUsize::new(0);
    meddle(backend, move |child, _| {
        // Relaxed: only the number matters.
        let count = count.fetch_add(1, Ordering::Relaxed);
        let limit = [0, 1, 1000, 10_000, LIMIT, usize::MAX][count % 6];
        let root = child.root_allocator();
        child.set_limit(limit);
        root.set_limit(limit.max(5000));
        let _ = child.buffer(100);
        child.set_limit(usize::MAX);
        root.set_limit(LIMIT);
    });
}

fn a_listener_may_create_and_close_children_inside_any_callback(backend: &Backend) {
    meddle(backend, |child, _| {
        let parent = child.root_allocator();
        let own = parent.child("own").reservation(100).build().unwrap();
        let buffer = own.buffer(10).unwrap();
        own.close().unwrap_err();
        drop(buffer);
        own.close().unwrap();
        drop(child.child("dropped").build().unwrap());
    });
}

fn a_listener_may_close_the_allocator_inside_any_callback(backend: &Backend) {
    for callback in CALLBACKS {
        let backend = Arc::clone(backend);
        within_a_minute(move || {
            let listener = Meddler::new(move |child, met| {
                if met == callback {
                    let _ = child.close();
                }
            });
            let tree = Tree::new(&backend, &listener);

            assert_eq!(program(&tree), 0, "{callback:?}");

            assert!(tree.child.is_closed(), "{callback:?}");
            let refused = tree.child.buffer(1).unwrap_err();
            assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
            tree.assert_empty();
        });
    }
}

fn a_listener_may_read_everything_inside_any_callback(backend: &Backend) {
    meddle(backend, |child, _| {
        let root = child.root_allocator();
        for it in [child, &root] {
            let allocated = it.allocated_memory();
            assert!(it.charged_memory() >= allocated);
            assert!(it.peak_memory_allocation() >= allocated);
            assert_eq!(it.is_over_limit(), it.headroom() < 0);
            assert!(!it.to_verbose_string().is_empty());
            assert!(!it.snapshot().entries.is_empty());
            assert_eq!(it.verify(), Ok(()));
            let _ = (it.stats(), it.child_allocators(), it.parent_allocator());
        }
    });
}

fn a_panic_inside_any_callback_leaves_nothing_charged_or_lost(backend: &Backend) {
    for callback in CALLBACKS {
        // The first call panics, then the second, and so on.
        for nth in 0..12 {
            let backend = Arc::clone(backend);
            within_a_minute(move || {
                let count = AtomicUsize::new(0);
                let listener = Meddler::new(move |_, met| {
                    // Relaxed: only the number matters.
                    if met == callback && count.fetch_add(1, Ordering::Relaxed) == nth {
                        panic!("told to");
                    }
                });
                let tree = Tree::new(&backend, &listener);

                let panics = program(&tree);

                assert!(panics <= 1, "{callback:?} {nth}");
                tree.assert_empty();
            });
        }
    }
}

fn a_listener_that_always_panics_lets_drop_finish(backend: &Backend) {
    for callback in [
        Callback::Release,
        Callback::Transfer,
        Callback::ChildRemoved,
    ] {
        let listener = Meddler::new(move |_, met| assert!(met != callback, "told to"));
        let tree = Tree::new(backend, &listener);
        let buffer = tree.child.buffer_from_slice(&[1; 100]).unwrap();
        let shared = buffer.retain_in(&tree.root).unwrap();
        let grandchild = tree.child.child("grandchild").build().unwrap();

        drop(buffer);
        drop(shared);
        drop(grandchild);

        assert!(listener.met().contains(&callback), "{callback:?}");
        tree.assert_empty();
    }
}

/// A listener that refuses requests above 1000 bytes.
struct Frugal;

impl AllocationListener for Frugal {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
        if size > 1000 {
            Err(Veto::new("more than 1000 bytes"))
        } else {
            Ok(())
        }
    }
}

fn a_veto_changes_nothing(backend: &Backend) {
    let root: BufferAllocator = RootAllocator::builder()
        .allocation_manager(Arc::clone(backend))
        .listener(Arc::new(Frugal))
        .build()
        .unwrap()
        .into();
    let child = root.child("child").build().unwrap();
    let mut buffer = child.buffer_zeroed(100).unwrap();
    let before = Books::of(&root);

    let refused = [
        child.buffer(1001).map(drop),
        child.buffer_zeroed(5000).map(drop),
        buffer.resize(2000, 0),
    ];

    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, AllocError::Vetoed { .. }), "{refused}");
        assert!(
            refused.to_string().contains("more than 1000 bytes"),
            "{refused}"
        );
    }
    assert_eq!(Books::of(&root), before);
    assert_eq!(buffer.len(), 100);
}

/// A listener that frees memory when a request fails.
#[derive(Default)]
struct Generous {
    hoard: Mutex<Vec<arrow_memory_core::ArrowBufMut>>,
    asked: AtomicUsize,
}

impl AllocationListener for Generous {
    fn on_failed_allocation(
        &self,
        _at: &AllocatorInfo,
        _size: usize,
        _outcome: &AllocationOutcome,
    ) -> bool {
        // Relaxed: only the number matters.
        self.asked.fetch_add(1, Ordering::Relaxed);
        // The buffer is dropped outside of the lock.
        let given_up = self.hoard.lock().unwrap().pop();
        drop(given_up);
        true
    }
}

fn generous_root(backend: &Backend) -> (Arc<Generous>, BufferAllocator) {
    let listener = Arc::new(Generous::default());
    let root = RootAllocator::builder()
        .name("root")
        .limit(1000)
        .allocation_manager(Arc::clone(backend))
        .listener(Arc::clone(&listener) as Arc<dyn AllocationListener>)
        .build()
        .unwrap();
    (listener, root.into())
}

fn a_listener_that_releases_memory_saves_the_request(backend: &Backend) {
    let (listener, root) = generous_root(backend);
    let child = root.child("child").build().unwrap();
    let hoard = root.buffer(900).unwrap();
    listener.hoard.lock().unwrap().push(hoard);

    let buffer = child.buffer(500).unwrap();

    assert_eq!((buffer.capacity(), root.allocated_memory()), (512, 512));
    assert_eq!(listener.asked.load(Ordering::Relaxed), 1);
}

fn a_listener_that_promises_in_vain_is_asked_once(backend: &Backend) {
    let (listener, root) = generous_root(backend);

    let refused = root.buffer(1001).unwrap_err();

    assert!(
        matches!(refused, AllocError::OutOfMemory { .. }),
        "{refused}"
    );
    assert_eq!(listener.asked.load(Ordering::Relaxed), 1);
    assert_eq!(root.allocated_memory(), 0);
}

#[derive(Debug)]
struct Broken;

impl arrow_memory_core::RoundingPolicy for Broken {
    fn rounded_size(&self, requested: usize) -> usize {
        assert!(requested < 1000, "told to");
        requested
    }
}

fn a_policy_that_panics_leaves_nothing_charged(backend: &Backend) {
    let root: BufferAllocator = RootAllocator::builder()
        .allocation_manager(Arc::clone(backend))
        .rounding_policy(Broken)
        .build()
        .unwrap()
        .into();
    let mut buffer = root.buffer_zeroed(100).unwrap();
    let before = Books::of(&root);

    catch_unwind(AssertUnwindSafe(|| root.buffer(1000).map(drop))).unwrap_err();
    catch_unwind(AssertUnwindSafe(|| buffer.resize(1000, 1))).unwrap_err();

    assert_eq!(Books::of(&root), before);
    assert_eq!(&buffer[..], &[0; 100]);
    drop(buffer);
    root.close().unwrap();
}

/// A policy that allocates from the allocator whose sizes it rounds.
#[derive(Debug, Default)]
struct Greedy(OnceLock<WeakBufferAllocator>);

impl arrow_memory_core::RoundingPolicy for Greedy {
    fn rounded_size(&self, requested: usize) -> usize {
        let allocator = self.0.get().and_then(WeakBufferAllocator::upgrade);
        if let Some(allocator) = allocator.filter(|_| requested > 64) {
            let mut buffer = allocator.buffer_zeroed(64).unwrap();
            buffer.resize(10, 0).unwrap();
            allocator.child("brief").build().unwrap().close().unwrap();
            allocator.set_limit(allocator.limit());
        }
        requested
    }
}

#[derive(Debug)]
struct Shared(Arc<Greedy>);

impl arrow_memory_core::RoundingPolicy for Shared {
    fn rounded_size(&self, requested: usize) -> usize {
        self.0.rounded_size(requested)
    }
}

fn a_policy_may_use_the_tree(backend: &Backend) {
    let backend = Arc::clone(backend);
    within_a_minute(move || {
        let policy = Arc::new(Greedy::default());
        let root: BufferAllocator = RootAllocator::builder()
            .allocation_manager(backend)
            .rounding_policy(Shared(Arc::clone(&policy)))
            .build()
            .unwrap()
            .into();
        policy.0.set(root.downgrade()).unwrap();

        let mut buffer = root.buffer(1000).unwrap();
        buffer.resize(5000, 1).unwrap();

        assert_eq!(root.allocated_memory(), buffer.capacity());
        drop(buffer);
        root.close().unwrap();
    });
}

/// Panics when it is dropped.
struct Grenade([u8; 100]);

impl AsRef<[u8]> for Grenade {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("told to");
    }
}

fn a_release_closure_that_panics_is_caught_and_the_charge_goes(backend: &Backend) {
    let root: BufferAllocator = RootAllocator::builder()
        .allocation_manager(Arc::clone(backend))
        .build()
        .unwrap()
        .into();
    let foreign = ForeignAllocation::from_owner(Grenade([1; 100]));
    let buffer = root.wrap_foreign_allocation(foreign).unwrap();
    assert_eq!(root.allocated_memory(), 100);

    drop(buffer);

    assert_eq!(root.allocated_memory(), 0);
    root.close().unwrap();
}

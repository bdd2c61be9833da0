//! A manager that fails, for each call of a program.

use std::sync::Arc;

use arrow_memory_core::testing::{FailingManager, TrackingManager};
use arrow_memory_core::{
    AllocError, AllocationManager, ArrowBuf, ArrowBufMut, BufferAllocator, RootAllocator,
};
use arrow_memory_integration_tests::books::Books;
use arrow_memory_integration_tests::for_every_backend;

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    whichever_call_fails_every_counter_is_as_before_it,
    a_program_that_tries_again_gets_through_whatever_share_of_calls_fails,
    a_failed_manager_leaves_the_reservation_to_be_used_again,
);

/// The maximum number of attempts of a step.
const TRIES: usize = 20;

/// A manager that fails on request, over one that tracks every block.
fn managers(backend: &Backend) -> (Arc<FailingManager>, Arc<TrackingManager>) {
    let tracking = Arc::new(TrackingManager::over(Arc::clone(backend)));
    (Arc::new(FailingManager::over(tracking.clone())), tracking)
}

fn root(manager: &Arc<FailingManager>, credit: Option<usize>) -> BufferAllocator {
    let mut builder = RootAllocator::builder()
        .name("root")
        .limit(1 << 20)
        .allocation_manager(Arc::clone(manager) as Backend);
    if let Some(credit) = credit {
        builder = builder.credit(credit);
    }
    builder.build().unwrap().into()
}

fn whichever_call_fails_every_counter_is_as_before_it(backend: &Backend) {
    for credit in [None, Some(0)] {
        let calls = {
            let (manager, _) = managers(backend);
            assert_eq!(program(&root(&manager, credit)), 0);
            manager.calls()
        };
        assert!(calls > 10, "the program makes calls");
        for n in 0..calls {
            let (manager, tracking) = managers(backend);
            manager.fail_at(n);
            let root = root(&manager, credit);

            let failures = program(&root);

            // `try_reserve` may succeed in its second attempt, with the exact size.
            assert!(failures <= 1, "call {n}");
            assert_eq!(tracking.live_bytes(), 0, "call {n}");
            assert_eq!(root.allocated_memory(), 0, "call {n}");
            root.close().unwrap();
        }
    }
}

fn a_program_that_tries_again_gets_through_whatever_share_of_calls_fails(backend: &Backend) {
    let mut total = 0;
    for n in 2..12 {
        let (manager, tracking) = managers(backend);
        manager.fail_every(n);
        let root = root(&manager, None);

        total += program(&root);

        assert_eq!(
            (tracking.live_bytes(), root.allocated_memory()),
            (0, 0),
            "every {n}th"
        );
        root.close().unwrap();
    }
    assert!(total > 20, "{total} calls failed for good");
}

fn a_failed_manager_leaves_the_reservation_to_be_used_again(backend: &Backend) {
    let (manager, _) = managers(backend);
    manager.fail_at(0);
    let root = root(&manager, None);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();
    let before = Books::of(&root).at_rest();

    let (error, reservation) = reservation.allocate_buffer().unwrap_err();

    assert!(matches!(error, AllocError::Manager { .. }), "{error}");
    assert_eq!(
        (reservation.size(), Books::of(&root).at_rest()),
        (100, before)
    );
    let buffer = reservation.allocate_buffer().unwrap();
    assert_eq!((buffer.capacity(), root.allocated_memory()), (128, 128));
}

/// Makes buffers in every way, and repeats each step that the manager failed. Returns how often it did.
fn program(root: &BufferAllocator) -> usize {
    let child = root.child("child").reservation(1000).build().unwrap();
    let mut tries = Tries { root, failures: 0 };

    let mut small = tries.again(|| child.buffer(10));
    let zeroed = tries.again(|| child.buffer_zeroed(5000));
    assert!(zeroed.iter().all(|&byte| byte == 0));
    let aligned = tries.again(|| child.buffer_aligned(100, 4096));
    let large = tries.again(|| root.buffer(300_000));
    let copied = tries.again(|| root.buffer_from_slice(&[7; 200]));

    for length in [64, 65, 500, 4000, 70_000] {
        tries.again(|| small.resize(length, 5));
        assert!(small.len() == length && small.iter().all(|&byte| byte == 5));
    }
    tries.again(|| small.try_reserve(1));
    tries.again(|| small.extend_from_slice(&[5; 300]));
    small.truncate(100);
    tries.again(|| small.shrink_to_fit());
    assert!(small.len() == 100 && small.iter().all(|&byte| byte == 5));

    let mut rest: ArrowBufMut = small.split_off(50);
    tries.again(|| rest.resize(1000, 5));
    assert!(rest.iter().all(|&byte| byte == 5) && small.len() == 50);

    let frozen: ArrowBuf = small.freeze();
    let compact = tries.again(|| frozen.slice(3..20).compact());
    assert_eq!((compact.as_slice(), copied[199]), (&[5; 17][..], 7));

    let mut reservation = child.new_reservation();
    reservation.add(700).unwrap();
    let mut held = Some(reservation);
    let used = tries.again(|| {
        let reservation = held.take().expect("it was given back");
        reservation
            .allocate_buffer()
            .map_err(|(error, reservation)| {
                held = Some(reservation);
                error
            })
    });
    assert_eq!(used.capacity(), 704);
    drop((zeroed, aligned, large, copied, rest, frozen, compact, used));
    tries.failures
}

struct Tries<'a> {
    root: &'a BufferAllocator,
    failures: usize,
}

impl Tries<'_> {
    fn again<T>(&mut self, mut step: impl FnMut() -> Result<T, AllocError>) -> T {
        for _ in 0..TRIES {
            let before = Books::of(self.root).at_rest();
            match step() {
                Ok(done) => return done,
                Err(AllocError::Manager { .. }) => self.failures += 1,
                Err(other) => panic!("only the manager fails here: {other}"),
            }
            assert_eq!(Books::of(self.root).at_rest(), before);
        }
        panic!("it failed {TRIES} times in a row");
    }
}

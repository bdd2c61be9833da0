//! A child that is forked while other threads work can use new trees, and release the memory that it
//! inherited.
//!
//! Not a test of the standard harness, since a child would inherit the harness's threads and locks.

#[cfg(unix)]
mod unix {
    #![expect(unsafe_code, reason = "forks")]
    #![expect(
        clippy::unwrap_used,
        reason = "whatever is here is part of a test, also where it is not marked as one"
    )]

    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::thread;
    use std::time::Duration;

    use arrow_memory_arena::Arena;
    use arrow_memory_arrow::Accounted;
    use arrow_memory_arrow::deps::arrow_array::Int64Array;
    use arrow_memory_core::{
        AllocationListener, AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator,
        ForeignAllocation, RootAllocator, WaitError, sampling,
    };
    use arrow_memory_jemalloc as _;
    use arrow_memory_system as _;

    /// The number of children.
    const FORKS: usize = 60;

    /// The time limit of a child in seconds.
    const LIMIT: u32 = 20;

    struct Listener;

    impl AllocationListener for Listener {}

    /// Runs one of each kind of operation, in a tree that other threads use, too.
    fn work(root: &BufferAllocator, turn: usize) {
        let child = root.child("busy").build().unwrap();
        let other = root.child("other").build().unwrap();
        let held: Vec<ArrowBuf> = (0..1500)
            .map(|_| child.buffer_from_slice(&[1; 64]).unwrap())
            .collect();
        let shared: Vec<ArrowBuf> = (held.iter().step_by(10))
            .map(|held| held.transfer_ownership(&other).unwrap().buffer)
            .collect();
        drop(child.buffer(3 << 20));
        let reserved: Vec<AllocationReservation> =
            (0..50).map(|_| child.new_reservation()).collect();
        let foreign = ForeignAllocation::from_owner(vec![1; 100]);
        let foreign = child.wrap_foreign_allocation(foreign).unwrap();
        arrays(&child);
        assert!(child.close().is_err());
        match turn % 4 {
            0 => drop(root.report()),
            1 => drop(sampling::report()),
            2 => drop(root.snapshot()),
            _ => {
                sampling::start("busy", 4096);
                sampling::stop("busy");
            }
        }
        drop((held, shared, reserved, foreign));
        drop(
            RootAllocator::builder()
                .listener(Arc::new(Listener))
                .build(),
        );
    }

    /// Adopts arrays, which are then found by their addresses.
    fn arrays(allocator: &BufferAllocator) {
        let arrays = (0..100).map(|number| Int64Array::from(vec![number; 8]));
        let adopted: Vec<Int64Array> = arrays.map(|it| it.adopt(allocator).unwrap()).collect();
        for array in &adopted {
            let again = array.slice(0, 4).adopt(allocator).unwrap();
            assert_eq!((again.len(), again.values()[0]), (4, array.values()[0]));
        }
    }

    /// The objects that a child inherits and releases.
    struct Inherited {
        buffers: Vec<ArrowBuf>,
        arrays: Vec<Int64Array>,
        reservation: AllocationReservation,
        /// One of the trees that threads of the parent use.
        root: BufferAllocator,
    }

    impl Inherited {
        fn of(root: &BufferAllocator) -> Self {
            let child = root.child("to be inherited").build().unwrap();
            let buffers = (0..2000).map(|_| child.buffer_from_slice(&[3; 64]).unwrap());
            let mut buffers: Vec<ArrowBuf> = buffers.collect();
            buffers.push(child.buffer_zeroed(4 << 20).unwrap().freeze());
            let moved = buffers[0].retain_in(root).unwrap();
            buffers.push(moved);
            let arrays = (0..100).map(|number| Int64Array::from(vec![number; 8]));
            let arrays = arrays.map(|it| it.adopt(root).unwrap()).collect();
            let mut reservation = child.new_reservation();
            reservation.add(100).unwrap();
            Self {
                buffers,
                arrays,
                reservation,
                root: root.clone(),
            }
        }

        fn read_and_release(self) {
            assert!(self.buffers.iter().all(|buffer| buffer[0] % 3 == 0));
            assert!(self.root.allocated_memory() > 0);
            drop((self.root.snapshot(), self.root.report(), self.root.stats()));
            // Takes the lock of each shard of the registry of addresses.
            for array in &self.arrays {
                assert_eq!(array.clone().adopt(&self.root).unwrap().len(), 8);
            }
            drop((self.buffers, self.arrays));
            drop(self.reservation);
        }
    }

    /// Runs in a child.
    fn child(inherited: Vec<Inherited>) {
        let root = RootAllocator::builder().limit(64 << 20).build().unwrap();
        work(&root, 0);
        sampling::start("sampled", 512);
        let sampled = root.child("sampled").build().unwrap();
        let held: Vec<_> = (0..2000).map(|_| sampled.buffer(640).unwrap()).collect();
        drop((sampling::report(), sampling::who_holds()));
        sampling::stop_all();
        drop(held);
        for inherited in inherited {
            inherited.read_and_release();
        }
        assert!(sampled.close().is_ok());
        assert_eq!(root.allocated_memory(), 0);
        // New threads, with slots of their own, work in the child, too.
        if threads_may_end() {
            thread::scope(|scope| drop(scope.spawn(|| work(&root, 1)).join()));
        }
    }

    fn trees() -> Vec<RootAllocator> {
        let debug = RootAllocator::builder().debug(true);
        let plain = || RootAllocator::builder().debug(false).limit(1 << 30);
        vec![
            plain().listener(Arc::new(Listener)).build().unwrap(),
            debug.build().unwrap(),
            plain().backend("jemalloc").build().unwrap(),
            plain()
                .allocation_manager(Arc::new(Arena::new()))
                .build()
                .unwrap(),
        ]
    }

    /// Forks while threads do nothing but adopt arrays and look them up, so that some thread nearly always
    /// holds a lock of the registry of addresses. A child takes all of these locks.
    fn beside_lookups() {
        let root = RootAllocator::builder().debug(false).build().unwrap();
        let stop = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        arrays(&root);
                    }
                });
            }
            let child = || {
                let root = RootAllocator::builder().debug(false).build().unwrap();
                (0..5).for_each(|_| arrays(&root));
            };
            let ended: Vec<i32> = (0..FORKS).map(|_| fork(child)).collect();
            stop.store(true, Ordering::Relaxed);
            ended
        });
        assert!(
            ended.iter().all(|&status| status == 0),
            "exit statuses beside lookups: {ended:?}"
        );
    }

    /// Forks while threads wait for memory of a tree, blocked and by a future. In the child these waits do not
    /// exist: it can release what it inherited, wait, and be granted.
    fn beside_waiters() {
        let root = RootAllocator::builder().limit(1 << 20).build().unwrap();
        let held = root.child("held").build().unwrap().buffer(1 << 20).unwrap();
        let mut waits = Box::pin(root.wait().buffer_async(1 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| drop(root.wait().buffer(1 << 19).unwrap()));
            }
            while root.snapshot().waiters.len() < 4 {
                thread::yield_now();
            }
            let status = fork(|| in_child(&root, held, waits.as_mut()));
            // Here the closure was dropped with what it had captured, so the threads are granted.
            assert_eq!(status, 0, "exit status beside waiters");
            drop(waits);
        });
        assert_eq!(root.allocated_memory(), 0);
    }

    /// The future was queued by the thread that forked, which exists in the child: it waits on, or is queued anew.
    fn in_child(
        root: &RootAllocator,
        held: ArrowBufMut,
        waits: Pin<&mut impl Future<Output = Result<ArrowBufMut, WaitError>>>,
    ) {
        let mut waits = waits;
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(root.snapshot().waiters.len(), 0);
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert_eq!(root.snapshot().waiters.len(), 1);
        let brief = Duration::from_millis(20);
        let timed_out = root.wait().at_most(brief).buffer(64);
        assert!(matches!(timed_out, Err(WaitError::TimedOut(_))));
        thread::scope(|scope| {
            // The child's own timer ends this one.
            let blocked = scope.spawn(|| root.wait().at_most(brief).reserve(64).map(drop));
            assert!(blocked.join().unwrap().is_err());
            let blocked = scope.spawn(|| root.wait().reserve(1 << 20).map(drop));
            while root.snapshot().waiters.len() < 2 {
                thread::yield_now();
            }
            drop(held);
            let Poll::Ready(Ok(buffer)) = waits.as_mut().poll(&mut context) else {
                panic!("granted")
            };
            drop(buffer);
            blocked.join().unwrap().unwrap();
        });
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
    }

    /// Whether a thread may end in a child. It takes a lock of AddressSanitizer's quarantine, which a fork leaves as it
    /// is: if another thread had it, the child waits for ever.
    fn threads_may_end() -> bool {
        std::env::var_os("ASAN_OPTIONS").is_none()
    }

    pub(super) fn main() {
        if threads_may_end() {
            beside_waiters();
        }
        beside_lookups();
        let trees = trees();
        sampling::start("other", 4096);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (turn, root) in trees.iter().enumerate() {
                let stop = &stop;
                scope.spawn(move || {
                    for turn in turn.. {
                        work(root, turn);
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let ended = (0..FORKS)
                .map(|_| {
                    let inherited = trees.iter().map(|root| Inherited::of(root)).collect();
                    fork(|| child(inherited))
                })
                .collect::<Vec<_>>();
            stop.store(true, Ordering::Relaxed);
            let well = ended.iter().filter(|&&status| status == 0).count();
            assert_eq!(well, FORKS, "exit statuses: {ended:?}");
        });
        println!("{FORKS} children of {} busy threads did well", trees.len());
    }

    /// Forks a child, and returns its exit status, or 14 if the alarm ended it.
    fn fork(child: impl FnOnce()) -> i32 {
        // SAFETY: the child's calls are those that this test checks to be safe after a fork.
        let id = unsafe { libc::fork() };
        assert!(id >= 0, "no child");
        if id == 0 {
            // SAFETY: the alarm ends this child if it hangs.
            unsafe { libc::alarm(LIMIT) };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: the call ends the child without the destructors of the parent's statics.
            unsafe { libc::_exit(i32::from(ended.is_err())) };
        }
        let mut status = 0;
        // SAFETY: the call waits for our own child; the pointer is to a local.
        let waited = unsafe { libc::waitpid(id, &raw mut status, 0) };
        assert_eq!(waited, id);
        status
    }
}

fn main() {
    #[cfg(unix)]
    unix::main();
}

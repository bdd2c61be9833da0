//! In a forked child the wrapper attributes nothing, and blocks of the parent can be freed.
//!
//! Not a test of the standard harness, since a child would inherit the harness's threads and locks.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod linux {
    #![expect(unsafe_code, reason = "forks")]
    #![expect(
        clippy::unwrap_used,
        reason = "whatever is here is part of a test, also where it is not marked as one"
    )]

    use std::alloc::System;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use arrow_memory_core::__private::{Order, ProcessLock, heap};
    use arrow_memory_core::{BufferAllocator, RootAllocator};
    use arrow_memory_global::{Attributed, Scope};
    use arrow_memory_system as _;

    #[global_allocator]
    static GLOBAL: Attributed<System> = Attributed::new(System);

    const FORKS: usize = 60;
    /// The time limit of a child in seconds.
    const LIMIT: u32 = 20;

    fn bytes(count: usize) -> Vec<u8> {
        Vec::with_capacity(count)
    }

    /// Allocates and frees in scopes of a tree that other threads use, near its limit.
    fn work(root: &BufferAllocator) {
        let query = root.child("query").limit(100_000).build().unwrap();
        let scope = Scope::new(&query).unwrap();
        scope.run(|| {
            let mut held: Vec<Vec<u8>> = (0..300).map(|i| bytes(512 + i * 10)).collect();
            held.truncate(100);
            held.push(bytes(3 << 20));
        });
        drop(query.buffer(1000));
        let left = scope.run(|| bytes(1000));
        drop((scope, query));
        drop(left);
    }

    /// What the child does, in a call of `run` of the parent.
    fn child(scope: &Scope, mut inherited: Vec<Vec<u8>>, allocator: &BufferAllocator) {
        let before = allocator.allocated_memory();
        assert!(before >= 100 * 1000);
        let mut grown = inherited.pop().unwrap();
        grown.reserve_exact(1 << 20);
        let labels = heap::labels().unwrap();
        assert_eq!(
            labels.id(grown.as_ptr().addr()),
            0,
            "who pays for 1,000 bytes pays for more"
        );
        drop((grown, inherited));
        let in_scope = bytes(50_000);
        let again = scope.run(|| bytes(60_000));
        assert_eq!(
            allocator.allocated_memory(),
            before,
            "the child's heap is attributed"
        );
        drop((in_scope, again));
        assert_eq!(allocator.allocated_memory(), before);

        let root = RootAllocator::new(1 << 20);
        let scope = Scope::new(&root).unwrap();
        let held = scope.run(|| bytes(5000));
        let buffer = root.buffer(1000).unwrap();
        assert_eq!(root.allocated_memory(), buffer.capacity());
        thread::spawn(move || drop((held, buffer))).join().unwrap();
        drop(scope);
        root.close().unwrap();
    }

    /// Calls `work` in a child, and waits for its end.
    fn fork(work: impl FnOnce()) {
        // SAFETY: the child runs code that may be run after a fork of this program, which is what is tested.
        let process = unsafe { libc::fork() };
        assert!(process >= 0);
        if process == 0 {
            // SAFETY: no handler of the signal was installed: the process ends.
            unsafe { libc::alarm(LIMIT) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: takes no pointers.
            unsafe { libc::_exit(i32::from(done.is_err())) };
        }
        let mut status = 0;
        // SAFETY: the status is a valid place.
        let waited = unsafe { libc::waitpid(process, &raw mut status, 0) };
        assert_eq!((waited, status), (process, 0), "a child failed");
    }

    /// Forks while this thread holds a lock of the library, so that its handlers take none.
    fn fork_under_a_lock(scope: &Scope) {
        static LOCK: ProcessLock<()> = ProcessLock::new(Order::Inner, ());
        scope.run(|| {
            let inherited = bytes(1000);
            let held = LOCK.lock();
            fork(|| {
                assert!(heap::current().is_none(), "the child is in a scope");
                assert!(scope.run(heap::current).is_none());
            });
            drop((held, inherited));
        });
    }

    /// Has the threads end, also when a child failed.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn main() {
        if std::env::var_os("ASAN_OPTIONS").is_some() {
            // A thread that ends takes a lock of AddressSanitizer's quarantine, which a fork leaves as it is: if another
            // thread had it, the child waits for ever.
            println!(
                "skipped: a thread that ends in a forked child may wait for ever for AddressSanitizer"
            );
            return;
        }
        let stop = AtomicBool::new(false);
        let root = RootAllocator::unlimited();
        let own = root.child("own").build().unwrap();
        let scope = Scope::new(&own).unwrap();
        thread::scope(|threads| {
            let _stop = Stop(&stop);
            for _ in 0..3 {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        work(&root);
                    }
                });
            }
            for _ in 0..FORKS {
                scope.run(|| {
                    let inherited: Vec<_> = (0..100).map(|i| bytes(1000 + i)).collect();
                    fork(|| child(&scope, inherited, &own));
                });
                assert_eq!(own.allocated_memory(), 0);
            }
        });
        fork_under_a_lock(&scope);
        assert_eq!(root.allocated_memory(), 0);
    }
}

fn main() {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    linux::main();
}

//! [`Server`]: the tree, and what all threads and tasks share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_memory_core::testing::{FailingManager, PanickingManager};
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator, WeakBufferAllocator, backend};
use arrow_memory_integration_tests::load::{Cache, Count, Ground, Totals, lock};

use crate::attic::Attic;

/// The limit of the tree, in bytes.
pub(crate) const LIMIT: usize = 256 << 20;
/// What one ask to spill comes with, in bytes: a quarter of the reserve.
pub(crate) const SHARE: usize = 1 << 20;
/// How many buffers may lie on the shelf.
const SHELF: usize = 32;
const CACHES: usize = 8;
/// How many clients the operator can find.
const DESKS: usize = 64;

/// The message of a panic on purpose.
pub(crate) const PURPOSE: &str = "a client that panics on purpose";

/// What the threads and tasks share.
pub(crate) struct Server {
    pub(crate) root: RootAllocator,
    pub(crate) failing: Arc<FailingManager>,
    pub(crate) panicking: Arc<PanickingManager>,
    pub(crate) ground: Arc<Ground>,
    pub(crate) attic: Attic,
    pub(crate) stop: AtomicBool,
    /// Buffers that clients put here for others, charged to an allocator of its own.
    shelf: Mutex<Vec<ArrowBuf>>,
    pub(crate) shelf_allocator: BufferAllocator,
    caches: Vec<Mutex<Option<Arc<Cache>>>>,
    desks: Vec<Mutex<Option<WeakBufferAllocator>>>,
    arrivals: AtomicU64,
}

impl Server {
    /// A server over the backend of that name.
    ///
    /// # Errors
    ///
    /// There is no such backend, or it does not start.
    pub(crate) fn new(backend: &str) -> Result<Self, arrow_memory_core::BackendError> {
        let failing = Arc::new(FailingManager::over(backend::manager(backend)?));
        let panicking = Arc::new(PanickingManager::over(failing.clone()));
        let root = RootAllocator::builder()
            .name("server")
            .limit(LIMIT)
            .patience(Duration::from_millis(20))
            .spill_reserve(4 * SHARE)
            .allocation_manager(panicking.clone())
            .build()?;
        let shelf_allocator = root.child("shelf").build();
        Ok(Self {
            shelf_allocator: shelf_allocator.expect("it needs no bytes"),
            root,
            failing,
            panicking,
            ground: Arc::new(Ground::with_failing_manager()),
            attic: Attic::default(),
            stop: AtomicBool::new(false),
            shelf: Mutex::default(),
            caches: (0..CACHES).map(|_| Mutex::default()).collect(),
            desks: (0..DESKS).map(|_| Mutex::default()).collect(),
            arrivals: AtomicU64::new(0),
        })
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.ground.totals
    }

    pub(crate) fn stopped(&self) -> bool {
        // Acquire: partner of the Release in `relax`.
        self.stop.load(Ordering::Acquire)
    }

    /// A new client's name.
    pub(crate) fn name(&self) -> String {
        // Relaxed: the count guards no other memory.
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        format!("client-{number}")
    }

    /// Lets the operator find a client.
    pub(crate) fn seat(&self, client: &BufferAllocator) {
        let desk = &self.desks[fastrand::usize(..DESKS)];
        let before = lock(desk).replace(client.downgrade());
        drop(before);
    }

    /// A client that may still be there.
    pub(crate) fn any_client(&self) -> Option<BufferAllocator> {
        let desk = &self.desks[fastrand::usize(..DESKS)];
        let client = lock(desk).clone();
        client.and_then(|client| client.upgrade())
    }

    /// Puts a buffer that is charged to the shelf's allocator on the shelf. One that was there may have to leave.
    pub(crate) fn put(&self, buffer: ArrowBuf) {
        let mut shelf = lock(&self.shelf);
        let full = shelf.len() >= SHELF;
        let surplus = full.then(|| shelf.swap_remove(fastrand::usize(..SHELF)));
        shelf.push(buffer);
        drop(shelf);
        drop(surplus);
    }

    /// Takes a buffer from the shelf.
    pub(crate) fn take(&self) -> Option<ArrowBuf> {
        let mut shelf = lock(&self.shelf);
        let count = shelf.len();
        (count > 0).then(|| shelf.swap_remove(fastrand::usize(..count)))
    }

    /// Replaces a cache of the server, or ends it, or has it take memory.
    pub(crate) fn change_cache(&self) {
        let place = &self.caches[fastrand::usize(..CACHES)];
        let cache = lock(place).clone();
        if cache.is_some_and(|cache| fastrand::u32(..32) > 0 && cache.fill()) {
            return;
        }
        let new = match fastrand::u32(..8) {
            0 => None,
            _ => Cache::new(&self.ground, &self.root),
        };
        let old = std::mem::replace(&mut *lock(place), new);
        drop(old);
    }

    /// Runs something of a client that may panic on purpose; `None` if it did.
    pub(crate) fn survive<T>(&self, body: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.panicked(&*panic);
                None
            }
        }
    }

    /// Counts a panic on purpose, and notes any other.
    pub(crate) fn panicked(&self, panic: &(dyn std::any::Any + Send)) {
        match message(panic) {
            Some(message) if is_on_purpose(message) => self.totals().add(Count::Panicked),
            message => self.totals().fail(format!("a panic: {message:?}")),
        }
    }

    /// Ends the run: nothing fails from now on, and there is room for those that still wait.
    pub(crate) fn relax(&self) {
        // Release: partner of the Acquire in `stopped`.
        self.stop.store(true, Ordering::Release);
        self.failing.recover();
        self.panicking.recover();
        self.root.set_cap(None);
        self.root.set_limit(LIMIT);
        for desk in &self.desks {
            let client = lock(desk).take().and_then(|client| client.upgrade());
            if let Some(client) = client {
                client.set_cap(None);
                client.set_limit(usize::MAX);
            }
        }
        for cache in &self.caches {
            let cache = lock(cache).take();
            drop(cache);
        }
        let shelf = std::mem::take(&mut *lock(&self.shelf));
        drop(shelf);
        self.ground.answer_kept();
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(|it| &**it))
}

/// Whether this is the message of a client or of the manager that panics on purpose.
pub(crate) fn is_on_purpose(message: &str) -> bool {
    message == PURPOSE || (message.starts_with("call ") && message.ends_with(" was to panic"))
}

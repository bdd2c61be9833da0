//! The large blocks that threads keep: [`BlockCache`].
#![expect(
    unsafe_code,
    reason = "to keep a block is to promise that it may be written to and released"
)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};

use super::blocks::{PLACES, ThreadBlocks};
use super::classes::{Class, LARGEST, SMALL};
use crate::events;
use crate::size::KIB;
use crate::sync::Ordering;
use crate::sync::current::unscoped;
use crate::sync::plain::{AtomicU64, make_room};
use crate::sync::process::{Order, ProcessLock};
use crate::thread::{self, AtEnd, NUMBERS};

/// Keeps large blocks that come back, per thread, for reuse.
///
/// For implementations of [`AllocationManager`](crate::AllocationManager) whose library is slow at large
/// blocks; a [`CachingManager`](crate::CachingManager) puts one in front of any
/// manager. Allocators keep small blocks per thread: jemalloc's thread caches end at 32 KiB,
/// mimalloc's pages at 512 KiB, and behind them wait locks, page tables and the system. 64 KiB is the
/// size of one column of a batch.
///
/// Blocks of more than 32 KiB, up to [`CacheLimits::largest_block`], belong to one of eight classes
/// between a power of two and the next. A thread keeps what it frees, within the [`CacheLimits`],
/// if it is of a class that this thread asked for before: one that only frees what others allocate
/// keeps nothing. If a block does not fit, blocks of the least recently used classes are released first. A kept
/// block is released when its thread ends, by [`release`](Self::release), or when the cache is dropped.
///
/// Taking and keeping cost a swap of the thread's own and no lock.
///
/// # How much is kept
///
/// Up to 1,024 threads keep blocks at a time. Each keeps up to
/// [`bytes_per_thread`](CacheLimits::bytes_per_thread), or one block of
/// [`largest_block`](CacheLimits::largest_block) if that is larger, and nothing is released because time
/// passes. So a cache keeps up to 1,024 times the larger of the two: 4 GiB by default, if 1,024 threads
/// have each freed one block of 4 MiB last, and 2 GiB if no block is larger than 2 MiB. A thread that waits
/// keeps what it kept. To have it back, call [`release`](Self::release) from any thread (managers do so in
/// [`release_unused`](crate::AllocationManager::release_unused)), or lower the limits for a program with
/// hundreds of threads. [`bytes`](Self::bytes) says what is kept now.
///
/// A thread that asks for a block of a class costs 8 KiB of bookkeeping, kept until the cache is dropped.
///
/// # Examples
///
/// A manager whose blocks have the sizes of their classes:
///
/// ```
/// use arrow_memory_manager::{BlockCache, CacheLimits};
///
/// let cache = BlockCache::new(CacheLimits::default(), |_block, _size| { /* give it back */ });
/// assert_eq!(cache.size_of_class(100_000), Some(104 * 1024));
/// assert_eq!(cache.size_of_class(1_000), None); // not kept
/// assert!(cache.take(100_000).is_none()); // nothing is there yet: allocate 104 KiB
/// assert_eq!(cache.bytes(), 0);
/// ```
pub struct BlockCache {
    shared: Arc<Shared>,
}

/// How much a [`BlockCache`] or a [`CachingManager`](crate::CachingManager) keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// The maximum number of bytes that one thread keeps, except that a single block may be larger. 2 MiB by
    /// default.
    pub bytes_per_thread: usize,
    /// The maximum number of blocks of one class that one thread keeps, up to 16. 16 by default.
    pub blocks_per_class: usize,
    /// The largest block that is kept, in bytes, rounded up to the size of its class; up to 8 MiB.
    /// 4 MiB by default.
    pub largest_block: usize,
}

impl CacheLimits {
    /// Nothing is kept.
    pub const NONE: Self = Self {
        bytes_per_thread: 0,
        blocks_per_class: 0,
        largest_block: 0,
    };
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes_per_thread: 2 * KIB * KIB,
            blocks_per_class: PLACES,
            largest_block: 4 * KIB * KIB,
        }
    }
}

impl BlockCache {
    /// Keeps blocks within `limits`.
    ///
    /// The cache passes a block that it no longer keeps to `release`, with the size of the block's class in
    /// bytes, on any thread. `release` must not unwind, and owns whatever it needs to free the block.
    pub fn new(
        limits: CacheLimits,
        release: impl Fn(NonNull<u8>, usize) + Send + Sync + 'static,
    ) -> Self {
        // Of a class all sizes are kept, or none.
        let largest_block = match limits.largest_block.min(LARGEST) {
            size if size > SMALL => Class::of(size).size(),
            size => size,
        };
        let shared = Arc::new(Shared {
            // Relaxed: any order will do.
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            limits: CacheLimits {
                largest_block,
                blocks_per_class: limits.blocks_per_class.min(PLACES),
                ..limits
            },
            release: Box::new(release),
            threads: [const { OnceLock::new() }; NUMBERS],
        });
        join(&shared);
        Self { shared }
    }

    /// The limits in force.
    pub fn limits(&self) -> CacheLimits {
        self.shared.limits
    }

    /// The size in bytes of the class of blocks of `size` bytes, up to an eighth more; `None` if such blocks are
    /// not kept.
    #[inline]
    pub fn size_of_class(&self, size: usize) -> Option<usize> {
        self.class(size).map(Class::size)
    }

    /// Takes a block for `size` bytes that this thread kept, if there is one. It has room for the size of its
    /// class. Costs a swap and no lock.
    #[inline]
    pub fn take(&self, size: usize) -> Option<NonNull<u8>> {
        let class = self.class(size)?;
        match self.shared.mine() {
            Some(blocks) => blocks.take(class, told_of_end),
            None => self.shared.ask_first(class),
        }
    }

    /// Keeps a block of `size` bytes for this thread. Returns `false` if it does not; the caller then still owns
    /// the block.
    ///
    /// # Safety
    ///
    /// The block has room for the size of its class, is aligned as all that are kept here, and
    /// `release` may be called with it. If this returns `true`, the caller does not use it any more.
    #[inline]
    pub unsafe fn keep(&self, block: NonNull<u8>, size: usize) -> bool {
        let Some(class) = self.class(size) else {
            return false;
        };
        // A thread that has nothing here has asked for nothing.
        let Some(blocks) = self.shared.mine() else {
            return false;
        };
        if blocks.bytes() + class.size() > self.shared.limits.bytes_per_thread {
            return self.shared.make_room(blocks, block, class);
        }
        blocks.put(class, block, self.shared.limits.blocks_per_class)
    }

    /// Releases the blocks that all threads keep.
    pub fn release(&self) {
        for blocks in self.shared.of_living_threads() {
            self.shared.empty_one(blocks);
        }
    }

    /// The bytes that all threads keep: the sum of the sizes of the blocks' classes.
    pub fn bytes(&self) -> usize {
        let threads = self.shared.of_living_threads();
        threads.map(ThreadBlocks::bytes_seen).sum()
    }

    #[inline]
    fn class(&self, size: usize) -> Option<Class> {
        (size > SMALL && size <= self.shared.limits.largest_block).then(|| Class::of(size))
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache")
            .field("limits", &self.shared.limits)
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// The part of a cache that the hooks at the ends of threads use, too.
struct Shared {
    /// Orders the list of all caches.
    id: u64,
    limits: CacheLimits,
    release: Box<Release>,
    /// By the thread's number; made when the first holder of the number asks, and left to the next ones.
    threads: [OnceLock<Box<ThreadBlocks>>; NUMBERS],
}

type Release = dyn Fn(NonNull<u8>, usize) + Send + Sync;

impl Shared {
    /// The blocks of this thread, which is their owner, if it or an earlier holder of its number has asked
    /// before.
    #[inline]
    fn mine(&self) -> Option<&ThreadBlocks> {
        let blocks = self.threads.get(thread::index())?.get()?;
        Some(blocks)
    }

    /// Makes room for this thread's blocks, if it gets a number, and remembers what it asks for.
    #[cold]
    fn ask_first(&self, class: Class) -> Option<NonNull<u8>> {
        let place = &self.threads[thread::number()?];
        let blocks = match place.get() {
            Some(blocks) => blocks,
            None => {
                // Made before, not in `get_or_init`: nothing is allocated while others are kept out.
                let _ = place.set(unscoped(|| Box::new(ThreadBlocks::new())));
                place.get()?
            }
        };
        blocks.take(class, told_of_end)
    }

    /// The blocks of all threads that may keep some. Those of threads that have ended are empty: a thread keeps
    /// nothing before it has [`EMPTY`] called at its end, which empties them before the number is given back.
    fn of_living_threads(&self) -> impl Iterator<Item = &ThreadBlocks> {
        thread::taken().filter_map(|number| Some(&**self.threads[number].get()?))
    }

    /// Releases blocks of other classes until there is room for one of this class, or nothing left,
    /// and keeps it if it can.
    #[cold]
    fn make_room(&self, mine: &ThreadBlocks, block: NonNull<u8>, class: Class) -> bool {
        let limits = &self.limits;
        if mine.free_place(class, limits.blocks_per_class).is_none() {
            return false;
        }
        while mine.bytes() + class.size() > limits.bytes_per_thread {
            match mine.give_up(class) {
                Some((block, class)) => (self.release)(block, class.size()),
                None if mine.bytes() == 0 => break,
                None => return false,
            }
        }
        mine.put(class, block, limits.blocks_per_class)
    }

    fn empty_one(&self, blocks: &ThreadBlocks) {
        blocks.empty(|block, class| (self.release)(block, class.size()));
    }

    /// Releases what the calling thread, which is ending, keeps for its number.
    fn thread_ends(&self, number: usize) {
        if let Some(blocks) = self.threads[number].get() {
            self.empty_one(blocks);
            blocks.forget();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        leave(self);
        for blocks in self.threads.iter().filter_map(OnceLock::get) {
            self.empty_one(blocks);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Whether this thread will have its blocks released when it ends. It is asked for before the first block
/// of a class is kept, by each holder of a number anew.
#[cold]
fn told_of_end() -> bool {
    thread::at_end(&EMPTY)
}

/// Has the caches of a thread that ends release what they keep for it.
static EMPTY: AtEnd = AtEnd(|number| {
    let Some(number) = number else { return };
    let mut next = 0;
    while let Some(cache) = next_cache(&mut next) {
        // The lock is free: `release` may use this cache.
        cache.thread_ends(number);
        // This may be the last reference, which drops the manager below. A panic of its `Drop` would end
        // the program: this runs in the destructor of a thread-local.
        if events::catch(|| drop(cache)) {
            events::manager_panicked();
        }
    }
});

/// The first cache from `*id` on that is still there; `*id` is moved behind it. A cache that is made
/// later has nothing of a thread that is ending.
fn next_cache(id: &mut u64) -> Option<Arc<Shared>> {
    let caches = CACHES.lock();
    let first = caches.partition_point(|cache| cache.0 < *id);
    caches[first..].iter().find_map(|(other, cache)| {
        *id = other + 1;
        cache.upgrade()
    })
}

/// Enters a cache into the list. Memory for the list is allocated and freed without the lock.
fn join(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    let mut spare = Vec::new();
    loop {
        let mut caches = CACHES.lock();
        let Err(capacity) = make_room(&mut caches, &mut spare) else {
            // Two that are made at once may come in the other order; the list is sorted all the same.
            let place = caches.partition_point(|cache| cache.0 < shared.id);
            caches.insert(place, (shared.id, weak));
            return;
        };
        drop(caches);
        spare = unscoped(|| Vec::with_capacity(capacity));
    }
}

/// Takes a cache from the list.
fn leave(shared: &Shared) {
    let mut caches = CACHES.lock();
    let place = caches.binary_search_by_key(&shared.id, |cache| cache.0);
    let left = place.map(|place| caches.remove(place));
    // The cache's memory is freed with its last weak reference.
    drop(caches);
    drop(left);
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// All caches there are, in the order of their numbers.
static CACHES: ProcessLock<Vec<(u64, Weak<Shared>)>> = ProcessLock::new(Order::Inner, Vec::new());

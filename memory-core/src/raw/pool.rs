//! Where slots come from: chunks that all threads share, and a cache for each thread.
//!
//! A thread takes and returns slots without synchronisation, from a list of at most
//! [`MOST_CACHED`] of them; a slot may be returned on another thread than took it. Lists are
//! filled from and emptied into the chunks under one lock, [`BATCH`] slots at a time. A chunk all
//! of whose slots are free is given back, but for one. When a thread ends, its list is emptied;
//! a slot that is taken or returned after that (in another thread-local's destructor) goes to
//! the chunks directly.
//!
//! Chunks also make it possible to walk over all slots in use: that is how a failed `close` finds
//! the outstanding ledgers, although nothing is recorded when a buffer is allocated.
//!
//! # Invariants
//!
//! 1. A slot is in use, in one thread's list, or in its chunk's list; never in two of them.
//! 2. A chunk starts at a multiple of [`CHUNK`], so that a slot's address leads to it. It is
//!    freed under the lock, when all its slots are in its own list.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(unsafe_code, reason = "an allocator of slots")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;

use super::slot::{Face, Slot};
use crate::size::KIB;
use crate::sync::plain::{Mutex, MutexGuard, lock};
use crate::thread::{self, AtEnd};

/// The most free slots that a thread keeps.
const MOST_CACHED: usize = 1024;

/// How many slots move between a thread and the chunks at once.
const BATCH: usize = 256;

/// The size and alignment of a chunk: from here on mimalloc, too, has blocks that are aligned to
/// their size. One of 64 KiB costs it 128.
const CHUNK: usize = 256 * KIB;

const CHUNK_LAYOUT: Layout = match Layout::from_size_align(CHUNK, CHUNK) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// How many slots follow a chunk's head.
const SLOTS: usize = (CHUNK - size_of::<Head>()) / size_of::<Slot>();

/// The head of a chunk; its slots follow.
struct Head {
    /// Links of the list of all chunks, and of the list of chunks with free slots.
    all: Links,
    partial: Links,
    /// The free slots that are here and not with a thread.
    free: FreeList,
}

#[derive(Clone, Copy, Default)]
struct Links {
    previous: Option<NonNull<Head>>,
    next: Option<NonNull<Head>>,
}

/// A list of free slots, linked through their `next`.
#[derive(Default)]
struct FreeList {
    first: Option<NonNull<FreeSlot>>,
    count: usize,
}

/// A slot that is not in use: only the link is looked at, which lies behind the face, where the start
/// of the memory is while it is in use. The rest stays ready (a slot's invariant 4).
#[repr(C)]
struct FreeSlot {
    /// All zero: no node.
    face: [usize; size_of::<Face>() / size_of::<usize>()],
    next: Option<NonNull<FreeSlot>>,
}

/// The chunks of all threads.
struct Pool {
    all: Option<NonNull<Head>>,
    partial: Option<NonNull<Head>>,
    /// Chunks all of whose slots are free.
    empty: usize,
}

// SAFETY: the chunks belong to the pool, and are touched under its lock only.
unsafe impl Send for Pool {}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    all: None,
    partial: None,
    empty: 0,
});

fn pool() -> MutexGuard<'static, Pool> {
    lock(&POOL)
}

/// A thread's list of free slots.
///
/// It has no destructor, so that taking and returning need not ask whether it is still there: a
/// thread that has not started, or that is ending, has an empty list with no room, and every use
/// of it takes the slow path, which registers [`EMPTY`] to be called when the thread ends.
struct Cache {
    first: Cell<Option<NonNull<FreeSlot>>>,
    /// How many slots may be returned before some must go to the chunks.
    room: Cell<usize>,
}

thread_local! {
    static CACHE: Cache = const { Cache { first: Cell::new(None), room: Cell::new(0) } };
}

/// Empties the list of a thread that ends.
static EMPTY: AtEnd = AtEnd(|_number| {
    CACHE.with(|cache| {
        cache.room.set(0);
        flush(cache, usize::MAX);
    });
});

/// A slot for the caller: ready, with a null node, and a block that says nothing.
#[inline]
pub(crate) fn take() -> NonNull<Slot> {
    CACHE.with(|cache| match cache.first.get() {
        Some(slot) => {
            // SAFETY: slots in a list are free and alive, and this list is the thread's own.
            cache.first.set(unsafe { (*slot.as_ptr()).next });
            cache.room.set(cache.room.get() + 1);
            slot.cast()
        }
        None => refill(cache).cast(),
    })
}

/// Returns a slot that was used for more than an allocation of our own with one ledger; its node is
/// null.
///
/// # Safety
///
/// The slot came from [`take`], and nobody uses it any more.
#[inline]
pub(crate) unsafe fn put_used(slot: NonNull<Slot>) {
    // SAFETY: the caller's promise; the pool initialised it.
    unsafe { Slot::make_ready(slot) };
    // SAFETY: the caller's promise, and it is ready now.
    unsafe { put(slot) };
}

/// Returns a slot that is ready again, whose node is null.
///
/// # Safety
///
/// The slot came from [`take`], it is ready, and nobody uses it any more.
#[inline]
pub(crate) unsafe fn put(slot: NonNull<Slot>) {
    debug_assert!(
        // SAFETY: the caller's promise.
        unsafe { Slot::is_ready(slot) },
        "a slot with something left of its last use"
    );
    debug_assert!(
        // SAFETY: the face is a slot's first field, alive as long as its chunk.
        unsafe { slot.cast::<Face>().as_ref() }
            .node_address()
            .is_null()
    );
    let slot = slot.cast::<FreeSlot>();
    CACHE.with(|cache| {
        if cache.room.get() == 0 {
            // SAFETY: the caller's promise.
            return unsafe { put_slowly(cache, slot) };
        }
        cache.room.set(cache.room.get() - 1);
        // SAFETY: the caller's promise: the slot is free and in no list.
        unsafe { cache.push(slot) };
    });
}

/// Calls `visit` for every slot in use, of all threads.
///
/// Others go on working meanwhile: of a slot that is taken or returned just then, `visit` may see
/// either state, so it must be content with atomics. No chunk is freed meanwhile.
pub(crate) fn for_each_in_use(mut visit: impl FnMut(&Face)) {
    let pool = pool();
    let mut next = pool.all;
    while let Some(chunk) = next {
        for index in 0..SLOTS {
            // SAFETY: the chunk is alive under the lock, and `index` is within it.
            let slot = unsafe { slot_at(chunk, index) };
            // SAFETY: the face is a slot's first field; it was initialised when the chunk was
            // made (zeros are valid atomics), and is only written through atomics since.
            let face = unsafe { slot.cast::<Face>().as_ref() };
            if !face.node_address().is_null() {
                visit(face);
            }
        }
        // SAFETY: the chunk is alive under the lock.
        next = unsafe { chunk.as_ref() }.all.next;
    }
}

/// A slot from the chunks, and some more for the list.
#[cold]
#[inline(never)]
fn refill(cache: &Cache) -> NonNull<FreeSlot> {
    let living = thread::at_end(&EMPTY);
    let mut pool = pool();
    if living {
        for _ in 1..BATCH {
            let slot = pool.pop();
            // SAFETY: the slot was in its chunk's list and is in none now.
            unsafe { cache.push(slot) };
        }
        cache.room.set(MOST_CACHED - (BATCH - 1));
    }
    pool.pop()
}

/// Returns a slot when the list has no room: because it is full, or because the thread has just
/// started or is ending.
///
/// # Safety
///
/// The slot is free and in no list.
#[cold]
#[inline(never)]
unsafe fn put_slowly(cache: &Cache, slot: NonNull<FreeSlot>) {
    let living = thread::at_end(&EMPTY);
    if !living {
        // SAFETY: the caller's promise.
        return unsafe { pool().push(slot) };
    }
    if cache.first.get().is_none() {
        cache.room.set(MOST_CACHED);
    } else {
        flush(cache, BATCH);
        cache.room.set(BATCH);
    }
    cache.room.set(cache.room.get() - 1);
    // SAFETY: the caller's promise.
    unsafe { cache.push(slot) };
}

/// Moves slots from the list to their chunks.
fn flush(cache: &Cache, count: usize) {
    let mut pool = pool();
    for _ in 0..count {
        let Some(slot) = cache.first.get() else {
            return;
        };
        // SAFETY: slots in a list are free and alive, and this list is the thread's own.
        cache.first.set(unsafe { (*slot.as_ptr()).next });
        // SAFETY: the slot was in this list and is in none now.
        unsafe { pool.push(slot) };
    }
}

impl Cache {
    /// # Safety
    ///
    /// The slot is free and in no list.
    #[inline]
    unsafe fn push(&self, slot: NonNull<FreeSlot>) {
        // SAFETY: the caller's promise: the slot is nobody else's.
        unsafe { (*slot.as_ptr()).next = self.first.get() };
        self.first.set(Some(slot));
    }
}

impl FreeList {
    #[inline]
    fn pop(&mut self) -> Option<NonNull<FreeSlot>> {
        let slot = self.first?;
        // SAFETY: slots in a list are free and alive.
        self.first = unsafe { (*slot.as_ptr()).next };
        self.count -= 1;
        Some(slot)
    }

    /// # Safety
    ///
    /// The slot is free and in no list.
    #[inline]
    unsafe fn push(&mut self, slot: NonNull<FreeSlot>) {
        // SAFETY: the caller's promise: the slot is nobody else's.
        unsafe { (*slot.as_ptr()).next = self.first };
        self.first = Some(slot);
        self.count += 1;
    }
}

/// The place of a slot in a chunk.
///
/// # Safety
///
/// The chunk's memory is there, and `index < SLOTS`.
unsafe fn slot_at(chunk: NonNull<Head>, index: usize) -> NonNull<FreeSlot> {
    // SAFETY: the slots follow the head; both have an alignment of 8.
    let first = unsafe { chunk.add(1) }.cast::<Slot>();
    // SAFETY: `index` is within the chunk by the caller's promise and the value of SLOTS.
    unsafe { first.add(index) }.cast()
}

impl Pool {
    /// A free slot that is in no thread's list.
    fn pop(&mut self) -> NonNull<FreeSlot> {
        let chunk = self.partial.unwrap_or_else(|| self.grow());
        // SAFETY: chunks are alive under the lock, which `&mut self` stands for.
        let head = unsafe { &mut *chunk.as_ptr() };
        if head.free.count == SLOTS {
            self.empty -= 1;
        }
        let slot = head
            .free
            .pop()
            .expect("a chunk in the partial list has a free slot");
        if head.free.count == 0 {
            self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        }
        slot
    }

    /// Returns a slot to its chunk.
    ///
    /// # Safety
    ///
    /// The slot is free and in no list.
    unsafe fn push(&mut self, slot: NonNull<FreeSlot>) {
        let address = slot.as_ptr().map_addr(|address| address & !(CHUNK - 1));
        // SAFETY: not null, since chunks are not at address 0.
        let chunk = unsafe { NonNull::new_unchecked(address) }.cast::<Head>();
        // SAFETY: by invariant 2 that is the slot's chunk, alive under the lock.
        let head = unsafe { &mut *chunk.as_ptr() };
        // SAFETY: the caller's promise.
        unsafe { head.free.push(slot) };
        let count = head.free.count;
        if count == 1 {
            self.link(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        }
        if count < SLOTS {
            return;
        }
        if self.empty == 0 {
            self.empty = 1;
            return;
        }
        self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        self.unlink(chunk, |head| &mut head.all, |pool| &mut pool.all);
        // SAFETY: made by `grow` with this layout, out of all lists, and all its slots are free
        // and with it (invariant 2).
        unsafe { dealloc(chunk.as_ptr().cast(), CHUNK_LAYOUT) };
    }

    /// A new chunk, all free, in both lists.
    #[cold]
    fn grow(&mut self) -> NonNull<Head> {
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(CHUNK_LAYOUT) };
        let Some(chunk) = NonNull::new(memory.cast::<Head>()) else {
            handle_alloc_error(CHUNK_LAYOUT)
        };
        let head = Head {
            all: Links::default(),
            partial: Links::default(),
            free: FreeList::default(),
        };
        // SAFETY: fresh memory, large and aligned enough.
        unsafe { chunk.write(head) };
        for index in (0..SLOTS).rev() {
            // SAFETY: fresh memory, within the chunk.
            let slot = unsafe { slot_at(chunk, index) };
            // SAFETY: as above.
            unsafe {
                slot.write(FreeSlot {
                    face: Default::default(),
                    next: None,
                })
            };
            // SAFETY: as above; what is not written here or below is never read.
            unsafe { Slot::make_ready(slot.cast()) };
            // SAFETY: the chunk is ours, and the slot is in no list.
            unsafe { (*chunk.as_ptr()).free.push(slot) };
        }
        self.empty += 1;
        self.link(chunk, |head| &mut head.all, |pool| &mut pool.all);
        self.link(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        chunk
    }

    fn link(
        &mut self,
        chunk: NonNull<Head>,
        links: impl Fn(&mut Head) -> &mut Links,
        list: impl Fn(&mut Self) -> &mut Option<NonNull<Head>>,
    ) {
        let next = list(self).replace(chunk);
        // SAFETY: chunks are alive under the lock; one reference at a time.
        *links(unsafe { &mut *chunk.as_ptr() }) = Links {
            previous: None,
            next,
        };
        if let Some(next) = next {
            // SAFETY: as above.
            links(unsafe { &mut *next.as_ptr() }).previous = Some(chunk);
        }
    }

    fn unlink(
        &mut self,
        chunk: NonNull<Head>,
        links: impl Fn(&mut Head) -> &mut Links,
        list: impl Fn(&mut Self) -> &mut Option<NonNull<Head>>,
    ) {
        // SAFETY: chunks are alive under the lock; one reference at a time.
        let Links { previous, next } = *links(unsafe { &mut *chunk.as_ptr() });
        match previous {
            // SAFETY: as above.
            Some(previous) => links(unsafe { &mut *previous.as_ptr() }).next = next,
            None => *list(self) = next,
        }
        if let Some(next) = next {
            // SAFETY: as above.
            links(unsafe { &mut *next.as_ptr() }).previous = previous;
        }
    }
}

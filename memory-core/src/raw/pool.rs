//! Where slots come from: chunks that all threads share, and a cache for each thread.
//!
//! A thread takes and returns slots without synchronisation, from a list of at most
//! [`MAX_CACHED`] of them; a slot may be returned on another thread than took it. Lists are
//! filled from and emptied into the chunks under one lock, [`BATCH`] slots at a time. A chunk all
//! of whose slots are free is given back, but for one. A free slot in a thread's list keeps its chunk, and
//! after many buffers were dropped each of a thousand slots may keep another one. So where
//! most of the memory is free, a thread keeps at most [`FEW`] slots. That is looked at when its list is full or empty:
//! a thread that dropped its buffers before, and has done nothing since, keeps up to [`MAX_CACHED`] slots, and so up to
//! as many chunks. When a thread ends, its list is emptied;
//! a slot that is taken or returned after that (in another thread-local's destructor) goes to
//! the chunks directly.
//!
//! Chunks also make it possible to walk over all slots in use: that is how a failed `close` finds
//! the outstanding ledgers, although nothing is recorded when a buffer is allocated. A walk takes
//! the lock once for each chunk, to find the next one, and holds none while it looks at the slots.
//! Instead it marks the pool as being walked, and no chunk is freed meanwhile.
//!
//! Under the lock at most [`MAX_CACHED`] slots are linked or unlinked. Chunks are allocated before
//! it is taken and freed after it is released.
//!
//! # Invariants
//!
//! 1. A slot is in use, in one thread's list, or in its chunk's list; never in two of them.
//! 2. A chunk starts at a multiple of `CHUNK`, so that a slot's address leads to it. It is in
//!    `all` from when it was added until it is taken out to be freed, when all its slots are in its
//!    own list. It is in `partial` if some of its slots are in its list and some are not, and in
//!    `empty` if all are.
//! 3. While `walks` is above zero no chunk is taken out of `all`. New chunks are put in front. So a
//!    chunk that a walk got from `all` under the lock, since it raised `walks`, stays in memory until
//!    it lowers it, and the chunks behind it in `all` stay the same.
//! 4. A face is initialised before its chunk is added, and only written through atomics since. So
//!    a thread that found the chunk under the lock may read its faces without it.
#![expect(unsafe_code, reason = "an allocator of slots")]

mod chunks;

use std::cell::Cell;
use std::ptr::NonNull;

use self::chunks::{CHUNK, FreeSlot, Pool, SLOTS, free_chunk, new_chunk, slot_at};
use super::slot::{Face, Slot};
use crate::sync::process::{Order, ProcessGuard, ProcessLock};
use crate::thread::{self, AtEnd};

/// The maximum of free slots that a thread keeps.
const MAX_CACHED: usize = 1024;

/// How many slots move between a thread and the chunks at once.
const BATCH: usize = 256;

/// The maximum of free slots that a thread keeps where most of the chunks' memory is free.
const FEW: usize = 8;

/// The lock over the chunks. A walk that was under way when the process forked does not go on in the
/// child.
static POOL: ProcessLock<Pool> =
    ProcessLock::new(Order::Inner, Pool::new()).in_child(|pool| pool.walks = 0);

fn pool() -> ProcessGuard<Pool> {
    POOL.lock()
}

/// A thread's list of free slots.
///
/// It has no destructor, so that taking and returning need not ask whether it is still there: a
/// thread that has not started, or that is ending, has an empty list with no room, and every use
/// of it takes the slow path, which registers [`EMPTY`] to be called when the thread ends.
struct Cache {
    first: Cell<Option<NonNull<FreeSlot>>>,
    /// How many slots may be returned before some must go to the chunks. It is subtracted from before that is
    /// asked, which takes fewer instructions: below zero, none may.
    room: Cell<isize>,
}

thread_local! {
    static CACHE: Cache = const { Cache { first: Cell::new(None), room: Cell::new(0) } };
}

/// Empties the list of a thread that ends.
static EMPTY: AtEnd = AtEnd(|_number| {
    CACHE.with(|cache| {
        cache.room.set(0);
        let mut pool = pool();
        let surplus = flush(&mut pool, cache, usize::MAX);
        drop(pool);
        if surplus {
            free_surplus();
        }
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

/// Returns a slot whose node is null, and that may have links, a release or another home: it was used for
/// more than an allocation of our own with one ledger.
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
        let left = cache.room.get() - 1;
        cache.room.set(left);
        if left < 0 {
            // SAFETY: the caller's promise.
            return unsafe { put_slowly(cache, slot) };
        }
        // SAFETY: the caller's promise: the slot is free and in no list.
        unsafe { cache.push(slot) };
    });
}

/// The bytes of all chunks.
pub(crate) fn bytes() -> usize {
    pool().count() * CHUNK
}

/// Calls `visit` for the slots in use, of all threads, until it answers `false`.
///
/// No lock is held while `visit` runs, and other threads go on working. Of a slot that is taken or
/// returned just then, `visit` may see either state, so it reads nothing but atomics. Slots of
/// chunks that are added after the start are left out. No chunk is freed meanwhile.
pub(crate) fn for_each_in_use(mut visit: impl FnMut(&Face) -> bool) {
    let _walk = Walk::start();
    let mut next = pool().all;
    while let Some(chunk) = next {
        for index in 0..SLOTS {
            // SAFETY: the chunk is in memory by invariant 3, and `index` is within it.
            let slot = unsafe { slot_at(chunk, index) };
            // SAFETY: the face is a slot's first field (zeros are valid atomics), and by invariant 4
            // it may be read without the lock.
            let face = unsafe { slot.cast::<Face>().as_ref() };
            if !face.node_address().is_null() && !visit(face) {
                return;
            }
        }
        let pool = pool();
        // SAFETY: the chunk is in memory by invariant 3, and heads are touched under the lock only.
        next = unsafe { chunk.as_ref() }.all.next;
        drop(pool);
    }
}

/// A walk that is under way: while it exists no chunk is freed.
struct Walk;

impl Walk {
    fn start() -> Self {
        pool().walks += 1;
        Self
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        pool().walks -= 1;
        free_surplus();
    }
}

/// Frees the empty chunks but one. Does nothing while there are walks; the last of them calls this again.
#[cold]
fn free_surplus() {
    loop {
        let surplus = pool().take_surplus();
        let Some(chunk) = surplus else { return };
        // SAFETY: it was taken just now.
        unsafe { free_chunk(chunk) };
    }
}

/// A slot from the chunks, and some more for the list.
#[cold]
#[inline(never)]
fn refill(cache: &Cache) -> NonNull<FreeSlot> {
    let living = thread::at_end(&EMPTY);
    let (mut more, mut fresh) = (0, None);
    loop {
        let mut pool = pool();
        if let Some(chunk) = fresh.take() {
            pool.add(chunk);
        }
        let (most, batch) = if pool.is_sparse() {
            (FEW, FEW)
        } else {
            (MAX_CACHED, BATCH)
        };
        while living
            && more < batch - 1
            && let Some(slot) = pool.pop()
        {
            // SAFETY: the slot was in its chunk's list and is in none now.
            unsafe { cache.push(slot) };
            more += 1;
        }
        if let Some(slot) = pool.pop() {
            if living {
                // The pool may have become sparse since the first slots were taken.
                cache.room.set(most.saturating_sub(more) as isize);
            }
            return slot;
        }
        drop(pool);
        fresh = Some(new_chunk());
    }
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
    // There was none, and the caller has subtracted one.
    cache.room.set(0);
    let living = thread::at_end(&EMPTY);
    let first = cache.first.get().is_none();
    let mut pool = pool();
    let surplus = if living {
        // SAFETY: the caller's promise.
        unsafe { cache.push(slot) };
        let (flushed, room) = match (pool.is_sparse(), first) {
            (true, _) => (usize::MAX, FEW),
            (false, true) => (0, MAX_CACHED - 1),
            (false, false) => (BATCH, BATCH - 1),
        };
        cache.room.set(room as isize);
        flush(&mut pool, cache, flushed)
    } else {
        // SAFETY: the caller's promise.
        unsafe { pool.push(slot) }
    };
    drop(pool);
    if surplus {
        free_surplus();
    }
}

/// Moves slots from the list to their chunks. `true`: there is a chunk to be freed when the lock is free.
fn flush(pool: &mut Pool, cache: &Cache, count: usize) -> bool {
    let mut surplus = false;
    for _ in 0..count {
        let Some(slot) = cache.first.get() else {
            break;
        };
        // SAFETY: slots in a list are free and alive, and this list is the thread's own.
        cache.first.set(unsafe { (*slot.as_ptr()).next });
        // SAFETY: the slot was in this list and is in none now.
        surplus |= unsafe { pool.push(slot) };
    }
    surplus
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

#[cfg(all(test, not(loom)))]
mod tests;

//! The chunks that slots are in: [`Pool`], which its lock protects. The invariants are those of the
//! parent module.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(unsafe_code, reason = "an allocator of slots")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::super::slot::{Face, Slot};
use crate::size::KIB;
use crate::sync::current::unscoped;

/// The size and alignment of a chunk: from here on mimalloc, too, has blocks that are aligned to
/// their size. One of 64 KiB costs it 128.
pub(super) const CHUNK: usize = 256 * KIB;

const CHUNK_LAYOUT: Layout = match Layout::from_size_align(CHUNK, CHUNK) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// How many slots follow a chunk's head.
pub(super) const SLOTS: usize = (CHUNK - size_of::<Head>()) / size_of::<Slot>();

/// So many chunks are not worth the effort to give some of them back.
const FEW_CHUNKS: usize = 8;

/// The head of a chunk; its slots follow.
pub(super) struct Head {
    /// Links of the list of all chunks.
    pub(super) all: Links,
    /// Links of the list of chunks with free slots, or of that of the empty ones.
    partial: Links,
    /// The free slots that are here and not with a thread.
    free: FreeList,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Links {
    previous: Option<NonNull<Head>>,
    pub(super) next: Option<NonNull<Head>>,
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
pub(super) struct FreeSlot {
    /// All zero: no node.
    face: [usize; size_of::<Face>() / size_of::<usize>()],
    pub(super) next: Option<NonNull<FreeSlot>>,
}

/// The chunks of all threads.
pub(super) struct Pool {
    pub(super) all: Option<NonNull<Head>>,
    /// Chunks with free slots and others.
    partial: Option<NonNull<Head>>,
    /// Chunks all of whose slots are free, and how many they are.
    empty: Option<NonNull<Head>>,
    empty_count: usize,
    /// How many chunks there are.
    count: usize,
    /// How many slots are in the lists of their chunks.
    free: usize,
    /// Walks that are on their way.
    pub(super) walks: usize,
}

// SAFETY: the chunks belong to the pool, and but for their faces, which are atomics, they are touched
// under its lock only.
unsafe impl Send for Pool {}

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

impl Pool {
    pub(super) const fn new() -> Self {
        Self {
            all: None,
            partial: None,
            empty: None,
            empty_count: 0,
            count: 0,
            free: 0,
            walks: 0,
        }
    }

    /// How many chunks there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many chunks have slots that are in use or with a thread.
    #[cfg(all(test, not(loom)))]
    pub(super) fn kept(&self) -> usize {
        self.count - self.empty_count
    }

    /// Whether most of the memory is free, and would be given back if threads did not keep slots of it: there are more
    /// than a few chunks, and less than a quarter of their slots is in use or with a thread.
    pub(super) fn is_sparse(&self) -> bool {
        let all = self.count * SLOTS;
        self.count > FEW_CHUNKS && self.free > all - all / 4
    }

    /// A free slot that is in no thread's list; `None`: a chunk must be added.
    pub(super) fn pop(&mut self) -> Option<NonNull<FreeSlot>> {
        let chunk = self.partial.or_else(|| self.reopen())?;
        // SAFETY: chunks are alive under the lock, which `&mut self` stands for.
        let head = unsafe { &mut *chunk.as_ptr() };
        let slot = head
            .free
            .pop()
            .expect("a chunk in the partial list has a free slot");
        if head.free.count == 0 {
            self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        }
        self.free -= 1;
        Some(slot)
    }

    /// An empty chunk becomes a partial one, since a slot of it is about to be taken.
    #[cold]
    fn reopen(&mut self) -> Option<NonNull<Head>> {
        let chunk = self.empty?;
        self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.empty);
        self.empty_count -= 1;
        self.link(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        Some(chunk)
    }

    /// Returns a slot to its chunk. `true`: there is a chunk to be freed when the lock is free.
    ///
    /// # Safety
    ///
    /// The slot is free and in no list.
    pub(super) unsafe fn push(&mut self, slot: NonNull<FreeSlot>) -> bool {
        let address = slot.as_ptr().map_addr(|address| address & !(CHUNK - 1));
        // SAFETY: not null, since chunks are not at address 0.
        let chunk = unsafe { NonNull::new_unchecked(address) }.cast::<Head>();
        // SAFETY: by invariant 2 that is the slot's chunk, alive under the lock.
        let head = unsafe { &mut *chunk.as_ptr() };
        // SAFETY: the caller's promise.
        unsafe { head.free.push(slot) };
        self.free += 1;
        let count = head.free.count;
        if count == 1 {
            self.link(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        }
        if count < SLOTS {
            return false;
        }
        self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.partial);
        self.link(chunk, |head| &mut head.partial, |pool| &mut pool.empty);
        self.empty_count += 1;
        self.empty_count > 1
    }

    /// Takes an empty chunk out that is one too many, to be freed when the lock is free; none while
    /// somebody walks.
    pub(super) fn take_surplus(&mut self) -> Option<NonNull<Head>> {
        let chunk = self.empty?;
        if self.empty_count <= 1 || self.walks > 0 {
            return None;
        }
        self.unlink(chunk, |head| &mut head.partial, |pool| &mut pool.empty);
        self.unlink(chunk, |head| &mut head.all, |pool| &mut pool.all);
        self.empty_count -= 1;
        self.count -= 1;
        self.free -= SLOTS;
        Some(chunk)
    }

    /// Adds a new chunk.
    pub(super) fn add(&mut self, chunk: NonNull<Head>) {
        self.link(chunk, |head| &mut head.all, |pool| &mut pool.all);
        self.link(chunk, |head| &mut head.partial, |pool| &mut pool.empty);
        self.empty_count += 1;
        self.count += 1;
        self.free += SLOTS;
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

/// The place of a slot in a chunk.
///
/// # Safety
///
/// The chunk's memory is there, and `index < SLOTS`.
pub(super) unsafe fn slot_at(chunk: NonNull<Head>, index: usize) -> NonNull<FreeSlot> {
    // SAFETY: the slots follow the head; both have an alignment of 8.
    let first = unsafe { chunk.add(1) }.cast::<Slot>();
    // SAFETY: `index` is within the chunk by the caller's promise and the value of SLOTS.
    unsafe { first.add(index) }.cast()
}

/// A new chunk, all of whose slots are free, in no list. The lock is free.
#[cold]
pub(super) fn new_chunk() -> NonNull<Head> {
    // SAFETY: the layout's size is not zero.
    let memory = unscoped(|| unsafe { alloc(CHUNK_LAYOUT) });
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
    chunk
}

/// Frees a chunk.
///
/// # Safety
///
/// It came from [`Pool::take_surplus`], and this is called once. The lock is free.
pub(super) unsafe fn free_chunk(chunk: NonNull<Head>) {
    // SAFETY: made by `new_chunk` with this layout, out of all lists, and all its slots are free and
    // with it; no walk can see it (invariants 2 and 3).
    unsafe { dealloc(chunk.as_ptr().cast(), CHUNK_LAYOUT) };
}

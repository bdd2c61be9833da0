//! The table of all accounts of the process.
//!
//! It consists of chunks, which are never freed: an account is found by its id with two loads, at any time. Ids of
//! accounts that have ended are used again, so there are as many as were ever in use at once.
#![expect(
    unsafe_code,
    reason = "chunks are kept as pointers to their first slots"
)]

use super::account::{Account, Slot};
#[cfg(not(loom))]
use crate::sync::process::{Order, ProcessLock};
use crate::sync::{Ordering, plain};

/// The id of the account by which a program asks whether its global allocator attributes.
pub(super) const PROBE: u32 = 1;

/// The first id of another account.
const FIRST: u32 = 2;

/// The bits of an id.
pub const ID_BITS: u32 = 22;

/// The free accounts.
struct Free {
    /// The first of the list, or 0.
    first: u32,
    /// The chunks that there are.
    chunks: usize,
}

const SHIFT: u32 = 10;
const CHUNK: usize = if cfg!(loom) { 8 } else { 1 << SHIFT };
const CHUNKS: usize = 4096;
const _: () = assert!(CHUNKS << SHIFT <= 1 << ID_BITS);

#[cfg(not(loom))]
mod place {
    use super::{CHUNKS, Free, Order, ProcessLock, Slot, plain};
    use crate::sync::process::ProcessGuard;

    static DIRECTORY: [plain::AtomicPtr<Slot>; CHUNKS] =
        [const { plain::AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];

    static FREE: ProcessLock<Free> = ProcessLock::new(
        Order::Inner,
        Free {
            first: 0,
            chunks: 0,
        },
    );

    #[inline]
    pub(super) fn directory() -> &'static [plain::AtomicPtr<Slot>; CHUNKS] {
        &DIRECTORY
    }

    pub(super) fn free() -> ProcessGuard<Free> {
        FREE.lock()
    }
}

/// In a model each execution has a table of its own, since loom's atomics belong to one.
#[cfg(loom)]
mod place {
    use super::{CHUNKS, Free, Slot, plain};
    use crate::sync::{Mutex, MutexGuard, lock};

    pub(super) struct Table {
        directory: Vec<plain::AtomicPtr<Slot>>,
        free: Mutex<Free>,
    }

    loom::lazy_static! {
        static ref TABLE: Table = Table {
            directory: (0..2).map(|_| plain::AtomicPtr::new(std::ptr::null_mut())).collect(),
            free: Mutex::new(Free { first: 0, chunks: 0 }),
        };
    }

    pub(super) fn directory() -> &'static [plain::AtomicPtr<Slot>] {
        const { assert!(CHUNKS >= 2) };
        &TABLE.directory
    }

    pub(super) fn free() -> MutexGuard<'static, Free> {
        lock(&TABLE.free)
    }
}

/// The account with this id, if there is such a chunk.
#[inline]
fn find(id: u32, order: Ordering) -> Option<Account> {
    let (chunk, index) = (id as usize / CHUNK, id as usize % CHUNK);
    let first = place::directory().get(chunk)?.load(order);
    if first.is_null() {
        return None;
    }
    // SAFETY: a chunk has `CHUNK` slots.
    let slot = unsafe { first.add(index) };
    // SAFETY: chunks are never freed, and slots are only shared.
    Some(Account::from_slot(unsafe { &*slot }))
}

/// The account with an id that was in use at the time of an earlier event of this thread.
pub(in crate::accounting) fn account(id: u32) -> Account {
    // Relaxed: the id was learnt from whoever made its chunk, by what came after that.
    find(id, Ordering::Relaxed).unwrap_or_else(|| unreachable!("an id without a chunk"))
}

impl Account {
    /// The account with an id that [`id`](Self::id) returned.
    ///
    /// # Safety
    ///
    /// `id` came from [`id`](Self::id), by what happens before this call.
    #[inline]
    pub unsafe fn of(id: u32) -> Self {
        let (chunk, index) = (id as usize / CHUNK, id as usize % CHUNK);
        // SAFETY: the chunk is within the directory, since there is an account with this id.
        let chunk = unsafe { place::directory().get_unchecked(chunk) };
        // Relaxed: the chunk was installed before the id was first returned, and so before this call.
        let first = chunk.load(Ordering::Relaxed);
        // SAFETY: by the caller's promise the chunk is there, and has `CHUNK` slots.
        let slot = unsafe { first.add(index) };
        // SAFETY: chunks are never freed, and slots are only shared.
        Self::from_slot(unsafe { &*slot })
    }
}

/// A free account, for one owner. `None`: there are as many as can be. Allocates: with no lock held.
pub(super) fn take() -> Option<Account> {
    loop {
        let mut free = place::free();
        if let Some(account) = pop(&mut free) {
            return Some(account);
        }
        let chunk = free.chunks;
        drop(free);
        let place = place::directory().get(chunk)?;
        let first = (chunk * CHUNK) as u32;
        let slots: Box<[Slot]> = (first..).take(CHUNK).map(Slot::new).collect();
        let slots = Box::leak(slots);
        let mut free = place::free();
        if free.chunks != chunk {
            // Another thread was faster, which is rare, and the memory is not much.
            drop(free);
            // SAFETY: it was leaked above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(slots) });
            continue;
        }
        free.chunks += 1;
        // Release: partner of the Acquire in `charged`. Others learn the ids by other ways.
        place.store(slots.as_mut_ptr(), Ordering::Release);
        for slot in slots.iter().rev() {
            let account = Account::from_slot(slot);
            if account.id() >= FIRST {
                push(&mut free, account);
            }
        }
    }
}

/// The account with a reserved id.
pub(super) fn reserved(id: u32) -> Option<Account> {
    debug_assert!(id < FIRST);
    // Acquire: partner of the Release in `take`.
    if find(id, Ordering::Acquire).is_none() {
        give_back(take()?);
    }
    find(id, Ordering::Acquire)
}

fn pop(free: &mut Free) -> Option<Account> {
    if free.first == 0 {
        return None;
    }
    let first = account(free.first);
    free.first = first.next();
    Some(first)
}

fn push(free: &mut Free, account: Account) {
    account.set_next(std::mem::replace(&mut free.first, account.id()));
}

/// Gives an account back, which nobody has and which has no bytes. A tree's mutex may be held.
pub(in crate::accounting) fn give_back(account: Account) {
    debug_assert!(account.granted() == 0 && !account.is_held());
    push(&mut place::free(), account);
}

/// Bytes that are charged to all accounts of the process. Each account is read at another instant.
pub(super) fn charged() -> usize {
    let chunks = 0..place::directory().len();
    let mut sum = 0_usize;
    for id in chunks.map(|chunk| (chunk * CHUNK) as u32) {
        // Acquire: partner of the Release in `take`.
        if find(id, Ordering::Acquire).is_none() {
            break;
        }
        for id in id..id + CHUNK as u32 {
            let account = account(id);
            let granted = account.granted();
            sum = sum.saturating_add(granted.saturating_sub(account.held().credit));
        }
    }
    sum
}

/// Gives back accounts that were left with their names, from the first one on. Frees the names: with no lock held.
pub(in crate::accounting) fn give_back_all(first: u32) {
    let mut next = first;
    while next != 0 {
        let account = account(next);
        next = account.next();
        drop(account.take_name());
        give_back(account);
    }
}

//! A small number for each thread, its *slot*: what is kept by thread is indexed by it.
//!
//! A slot is an index into arrays, so each thread finds its part of any number of objects without
//! searching. [`Tally`](crate::Tally) counts in shards by slot, a
//! [`BlockCache`](crate::BlockCache) keeps blocks by slot.
//!
//! # Invariants
//!
//! 1. A slot is held by at most one living thread: its bit in `HELD` is set by an Acquire
//!    compare-exchange when it is taken and cleared by a Release when the thread ends, so its next
//!    holder sees all that the last one wrote.
//! 2. Before the bit is cleared, every tenant is told: what it keeps for the slot can go.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use crate::sync::ProcessLock;
use crate::sync::plain::{copy_out, push};
use crate::sync::process::Order;

/// How many threads can have a slot at once.
pub(crate) const SLOT_COUNT: usize = 128;

/// What keeps something by slot, and wants to know when its holder ends.
pub(crate) trait Tenant: fmt::Debug + Send + Sync {
    /// The thread that holds `slot` is ending: the caller, which has no slot any more.
    fn slot_ends(&self, slot: usize);
}

/// Tells `tenant` of each slot that ends, as long as it lives.
pub(crate) fn join(tenant: &Arc<impl Tenant + 'static>) {
    let tenant: Weak<dyn Tenant> = Arc::<_>::downgrade(tenant) as Weak<dyn Tenant>;
    let count = TENANTS.lock().len();
    let mut dead = Vec::with_capacity(count);
    TENANTS.lock().retain_mut(|known| {
        let lives = known.strong_count() > 0 || dead.len() == dead.capacity();
        if !lives {
            // Dropped when the lock is free: it may be the last reference to the tenant's memory.
            dead.push(std::mem::replace(known, tenant.clone()));
        }
        lives
    });
    push(|| TENANTS.lock(), |tenants| tenants, tenant);
}

/// This thread's slot, if it has asked for one and got it. Costs a load.
#[inline]
pub(crate) fn held() -> Option<usize> {
    let slot = SLOT.get() as usize;
    (slot < SLOT_COUNT).then_some(slot)
}

/// This thread's slot. `None` if all are held, or the thread is about to end.
#[inline]
pub(crate) fn slot() -> Option<usize> {
    held().or_else(lease)
}

/// Asks for a slot, as often as the thread comes by: one may have become free.
#[cold]
fn lease() -> Option<usize> {
    if SLOT.get() == UNASKED {
        let slot = LEASE.try_with(|lease| {
            let slot = claim()?;
            lease.0.set(slot);
            Some(slot)
        });
        SLOT.set(match slot {
            Ok(slot) => slot.unwrap_or(UNASKED),
            Err(_) => NO_SLOT,
        });
    }
    held()
}

/// A thread's hold on its slot; dropped with the thread's locals.
struct Lease(Cell<u32>);

impl Drop for Lease {
    fn drop(&mut self) {
        SLOT.set(NO_SLOT);
        let slot = self.0.get();
        if slot < NO_SLOT {
            // No lock is held while a tenant works: it may come back here.
            let mut tenants = Vec::new();
            let count = |tenants: &Vec<_>| tenants.len();
            copy_out(
                &mut tenants,
                || TENANTS.lock(),
                count,
                |known, copy| copy.extend_from_slice(known),
            );
            for tenant in tenants.iter().filter_map(Weak::upgrade) {
                tenant.slot_ends(slot as usize);
            }
            // Release: its partner is the Acquire in `claim`, so the next holder sees our writes.
            HELD[slot as usize / 32].fetch_and(!(1 << (slot % 32)), Ordering::Release);
        }
    }
}

/// The lowest free slot. If there is none that costs four loads.
fn claim() -> Option<u32> {
    for (index, word) in HELD.iter().enumerate() {
        let claimed = word.fetch_update(
            // Acquire: its partner is the Release in `Lease::drop`.
            Ordering::Acquire,
            // Relaxed: nothing is read before a slot is ours.
            Ordering::Relaxed,
            |bits| (bits != u32::MAX).then(|| bits | (bits + 1)),
        );
        if let Ok(bits) = claimed {
            return Some(index as u32 * 32 + bits.trailing_ones());
        }
    }
    None
}

thread_local! {
    /// This thread's slot, `NO_SLOT` or `UNASKED`. It has no destructor, so it can always be read.
    static SLOT: Cell<u32> = const { Cell::new(UNASKED) };
    /// Gives the slot back when the thread ends.
    static LEASE: Lease = const { Lease(Cell::new(NO_SLOT)) };
}

/// One bit for each slot that is held.
static HELD: [AtomicU32; SLOT_COUNT / 32] = [const { AtomicU32::new(0) }; SLOT_COUNT / 32];

/// Who wants to know when a slot ends.
static TENANTS: ProcessLock<Vec<Weak<dyn Tenant>>> = ProcessLock::new(Order::Inner, Vec::new());

/// A thread that has no thread-locals any more.
const NO_SLOT: u32 = SLOT_COUNT as u32;

/// A thread that has not asked for a slot yet, or found every one held.
const UNASKED: u32 = u32::MAX;

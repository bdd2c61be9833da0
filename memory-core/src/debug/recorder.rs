//! The registry of a tree in debug mode: every ledger and every buffer that is alive.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use slab::Slab;

use super::evidence::{History, OutstandingBuffer};
use super::history::{Event, Latest, Operation, Origin, Trail};
use crate::sync::Ordering;
use crate::sync::plain::{AtomicU64, Mutex, MutexGuard, lock};

/// How many maps share the ledgers, so that threads seldom wait for each other.
const SHARDS: usize = 32;

/// Knows the ledgers and buffers of one tree.
pub(crate) struct Recorder {
    /// The next number for a ledger, a buffer or a reservation.
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

/// The ledgers by the addresses of their slots.
type Shard = HashMap<usize, LedgerRecord, BuildHasherDefault<WordHasher>>;

/// One ledger, as long as a registered buffer holds it.
struct LedgerRecord {
    id: u64,
    origin: Arc<Origin>,
    latest: Latest,
    /// Never empty.
    views: Slab<ViewRecord>,
}

/// One buffer.
struct ViewRecord {
    id: u64,
    seen: Seen,
    origin: Arc<Origin>,
    latest: Latest,
}

/// What a buffer looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) address: usize,
    /// The length, or the capacity of a writable buffer, in bytes.
    pub(crate) length: usize,
    pub(crate) writable: bool,
}

impl Seen {
    /// An `ArrowBuf`.
    pub(crate) fn shared(ptr: NonNull<u8>, length: usize) -> Self {
        Self {
            address: ptr.addr().get(),
            length,
            writable: false,
        }
    }

    /// An `ArrowBufMut`.
    pub(crate) fn writable(ptr: NonNull<u8>, capacity: usize) -> Self {
        Self {
            writable: true,
            ..Self::shared(ptr, capacity)
        }
    }
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// The number that the next ledger, buffer or reservation gets: what is alive and has a lower
    /// one was there before.
    pub(crate) fn next_id(&self) -> u64 {
        // Relaxed: numbers, not memory.
        self.next.load(Ordering::Relaxed)
    }

    fn new_id(&self) -> u64 {
        // Relaxed: as above.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The trail of a reservation that is being made.
    pub(crate) fn trail(&self, caller: &'static Location<'static>) -> Trail {
        Trail::new(self.new_id(), Origin::now(Operation::Created, caller))
    }

    /// Registers a buffer on the ledger whose slot is at this address; its key. The caller has a
    /// reference to the ledger that it keeps until it calls [`remove`](Self::remove).
    pub(crate) fn add(
        &self,
        ledger: usize,
        seen: Seen,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> usize {
        // With no lock held: the walk of the stack is by far the longest part.
        let origin = Origin::now(operation, caller);
        let mut shard = self.shard(ledger);
        let record = shard.entry(ledger).or_insert_with(|| LedgerRecord {
            id: self.new_id(),
            origin: Arc::clone(&origin),
            latest: Latest::default(),
            views: Slab::with_capacity(1),
        });
        let id = self.new_id();
        if !record.views.is_empty() {
            let mut event = origin.event.clone();
            (event.operation, event.detail) = (Operation::BufferAdded, id as usize);
            record.latest.push(event);
        }
        record.views.insert(ViewRecord {
            id,
            seen,
            origin,
            latest: Latest::default(),
        })
    }

    /// Takes a buffer out, and its ledger if that was the last.
    pub(crate) fn remove(&self, ledger: usize, view: usize) {
        let mut shard = self.shard(ledger);
        let Some(record) = shard.get_mut(&ledger) else {
            debug_assert!(false, "a registered ledger");
            return;
        };
        let gone = record.views.try_remove(view);
        let whole = if record.views.is_empty() {
            shard.remove(&ledger)
        } else {
            let id = gone.as_ref().map_or(0, |view| view.id);
            let event = Event::now(Operation::BufferDropped, id as usize, None);
            record.latest.push(event);
            None
        };
        drop(shard);
        // Memory is given back with no lock held.
        drop((gone, whole));
    }

    /// Notes an event of a buffer, and what it looks like now.
    pub(crate) fn note(
        &self,
        ledger: usize,
        view: usize,
        seen: Seen,
        (operation, detail): (Operation, usize),
        caller: &'static Location<'static>,
    ) {
        let event = Event::now(operation, detail, Some(caller));
        if let Some(record) = self.shard(ledger).get_mut(&ledger)
            && let Some(view) = record.views.get_mut(view)
        {
            view.seen = seen;
            view.latest.push(event);
        }
    }

    /// What is known of a ledger and of the buffers that hold it, oldest first.
    pub(crate) fn ledger(&self, ledger: usize) -> Option<(History, Vec<OutstandingBuffer>)> {
        let shard = self.shard(ledger);
        let record = shard.get(&ledger)?;
        let history = History::new(record.id, &record.origin, &record.latest);
        let mut buffers: Vec<OutstandingBuffer> = record
            .views
            .iter()
            .map(|(_, view)| view.to_outstanding())
            .collect();
        drop(shard);
        buffers.sort_by_key(|buffer| buffer.history.id);
        Some((history, buffers))
    }

    /// What is known of one buffer.
    pub(crate) fn buffer(&self, ledger: usize, view: usize) -> Option<OutstandingBuffer> {
        let shard = self.shard(ledger);
        Some(shard.get(&ledger)?.views.get(view)?.to_outstanding())
    }

    fn shard(&self, ledger: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[hash(ledger) as usize % SHARDS])
    }
}

impl ViewRecord {
    fn to_outstanding(&self) -> OutstandingBuffer {
        OutstandingBuffer {
            address: self.seen.address,
            length: self.seen.length,
            writable: self.seen.writable,
            history: History::new(self.id, &self.origin, &self.latest),
        }
    }
}

/// Hashes addresses: of slots, which differ by multiples of 8, and those of a stack.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = hash(self.0.rotate_left(5) as usize ^ address);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn hash(address: usize) -> u64 {
    // Fibonacci hashing; the map takes its bits from both ends.
    let product = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

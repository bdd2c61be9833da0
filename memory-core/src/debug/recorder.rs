//! The registry of debug mode: all ledgers and buffers that are alive.

use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use super::history::{Event, Latest, Operation, Origin, Trail};
use crate::report::{History, OutstandingBuffer};
use crate::sync::plain::{AtomicU64, copy_out};
use crate::sync::process::{Order, ProcessGuard};
use crate::sync::table::{Entry, Room, Table, spread};
use crate::sync::{Ordering, ProcessLock};

/// The number of tables that share the ledgers, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// Registers the ledgers and buffers of one tree, and assigns their IDs.
pub(crate) struct Recorder {
    /// The ID of the next ledger, buffer or reservation.
    next: AtomicU64,
}

/// The ledgers of all trees in debug mode by the addresses of their slots. A shard's lock is held while
/// one ledger or buffer is looked up, linked or unlinked, or while the IDs of one ledger's buffers are
/// copied.
static LEDGERS: [ProcessLock<Table<LedgerRecord>>; SHARDS] =
    [const { ProcessLock::new(Order::Inner, Table::new()) }; SHARDS];

/// A ledger that has at least one registered buffer.
struct LedgerRecord {
    id: u64,
    origin: Arc<Origin>,
    latest: Latest,
    /// The buffers by their IDs. Never empty while the lock is free.
    views: Table<ViewRecord>,
}

/// A registered buffer.
#[derive(Clone)]
struct ViewRecord {
    id: u64,
    seen: Seen,
    origin: Arc<Origin>,
    latest: Latest,
}

/// The address, length and kind of a buffer, which reports show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) address: usize,
    /// The length, or for a writable buffer the capacity, in bytes.
    pub(crate) length: usize,
    pub(crate) writable: bool,
}

impl Seen {
    /// Describes an `ArrowBuf`.
    pub(crate) fn shared(ptr: NonNull<u8>, length: usize) -> Self {
        Self {
            address: ptr.addr().get(),
            length,
            writable: false,
        }
    }

    /// Describes an `ArrowBufMut`.
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
        }
    }

    /// Returns the ID that the next ledger, buffer or reservation gets. Live ones with a lower ID were
    /// created before this call.
    pub(crate) fn next_id(&self) -> u64 {
        // Relaxed: IDs guard no memory.
        self.next.load(Ordering::Relaxed)
    }

    fn new_id(&self) -> u64 {
        // Relaxed: IDs guard no memory.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the trail of a new reservation.
    pub(crate) fn trail(&self, caller: &'static Location<'static>) -> Trail {
        Trail::new(self.new_id(), Origin::now(Operation::Created, caller))
    }

    /// Registers a buffer on the ledger whose slot is at this address, and returns the buffer's key. The
    /// caller has a reference to the ledger that it keeps until it calls [`remove`](Self::remove).
    pub(crate) fn add(
        &self,
        ledger: usize,
        seen: Seen,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> usize {
        // All records are created before the lock is taken: the walk of the stack is by far the longest
        // part.
        let origin = Origin::now(operation, caller);
        let mut record = Some(Entry::new(ledger, LedgerRecord::new(Arc::clone(&origin))));
        let mut view = Some(Entry::new(0, ViewRecord::new(seen, Arc::clone(&origin))));
        let (mut ledger_room, mut view_room) = (Room::default(), Room::default());
        let gone;
        let id = loop {
            ledger_room.prepare();
            view_room.prepare();
            let mut ledgers = shard(ledger);
            if ledgers.get(ledger).is_none() {
                if !ledger_room.is_in(&mut ledgers) {
                    continue;
                }
                if let Some(mut record) = record.take() {
                    record.value.id = self.new_id();
                    ledgers.insert(record);
                }
            }
            let Some(known) = ledgers.get_mut(ledger) else {
                continue;
            };
            // A new record always has room, so it does not stay without a buffer.
            if !view_room.is_in(&mut known.views) {
                continue;
            }
            let id = self.new_id();
            gone = (!known.views.is_empty()).then(|| {
                let mut event = origin.event.clone();
                (event.operation, event.detail) = (Operation::BufferAdded, id as usize);
                known.latest.push(event)
            });
            if let Some(mut view) = view.take() {
                (view.key, view.value.id) = (id as usize, id);
                known.views.insert(view);
            }
            break id as usize;
        };
        drop(gone);
        id
    }

    /// Removes a buffer, and its ledger if that was the last one.
    pub(crate) fn remove(&self, ledger: usize, view: usize) {
        let event = Event::now(Operation::BufferDropped, view, None);
        let mut ledgers = shard(ledger);
        let Some(record) = ledgers.get_mut(ledger) else {
            debug_assert!(false, "a registered ledger");
            return;
        };
        let gone = record.views.remove(view);
        let (mut whole, mut forgotten) = (None, None);
        if record.views.is_empty() {
            whole = ledgers.remove(ledger);
        } else {
            forgotten = record.latest.push(event);
        }
        drop(ledgers);
        // Freed with no lock held.
        drop((gone, whole, forgotten));
    }

    /// Adds an event to a buffer's history, and updates its address and length.
    pub(crate) fn note(
        &self,
        ledger: usize,
        view: usize,
        seen: Seen,
        (operation, detail): (Operation, usize),
        caller: &'static Location<'static>,
    ) {
        let event = Event::now(operation, detail, Some(caller));
        let mut ledgers = shard(ledger);
        let record = ledgers.get_mut(ledger);
        let view = record.and_then(|record| record.views.get_mut(view));
        let gone = view.map(|view| {
            view.seen = seen;
            view.latest.push(event)
        });
        drop(ledgers);
        drop(gone);
    }

    /// Returns the history of a ledger and its buffers, oldest first. A ledger may have a million
    /// buffers, so their IDs are copied under the lock, and then each buffer is looked up by itself.
    /// Buffers that are dropped meanwhile are left out.
    pub(crate) fn ledger(&self, ledger: usize) -> Option<(History, Vec<OutstandingBuffer>)> {
        let mut known = None;
        let mut views: Vec<usize> = Vec::new();
        copy_out(
            &mut views,
            || shard(ledger),
            |ledgers| ledgers.get(ledger).map_or(0, |record| record.views.len()),
            |ledgers, copy| {
                if let Some(record) = ledgers.get(ledger) {
                    known = Some((record.id, Arc::clone(&record.origin), record.latest.clone()));
                    copy.extend(record.views.iter().map(|entry| entry.key));
                }
            },
        );
        let (id, origin, latest) = known?;
        views.sort_unstable();
        let views = views.into_iter();
        let buffers = views.filter_map(|view| self.buffer(ledger, view)).collect();
        Some((History::new(id, &origin, &latest), buffers))
    }

    /// Returns one buffer with its history.
    pub(crate) fn buffer(&self, ledger: usize, view: usize) -> Option<OutstandingBuffer> {
        let ledgers = shard(ledger);
        let view = ledgers.get(ledger)?.views.get(view)?.clone();
        drop(ledgers);
        Some(view.to_outstanding())
    }
}

fn shard(ledger: usize) -> ProcessGuard<Table<LedgerRecord>> {
    // The table uses the lowest bits, so this picks the shard by others.
    LEDGERS[(spread(ledger) >> 32) as usize % SHARDS].lock()
}

impl LedgerRecord {
    fn new(origin: Arc<Origin>) -> Self {
        Self {
            id: 0,
            origin,
            latest: Latest::default(),
            views: Table::with_room(),
        }
    }
}

impl ViewRecord {
    fn new(seen: Seen, origin: Arc<Origin>) -> Self {
        Self {
            id: 0,
            seen,
            origin,
            latest: Latest::default(),
        }
    }

    fn to_outstanding(&self) -> OutstandingBuffer {
        OutstandingBuffer {
            address: self.seen.address,
            length: self.seen.length,
            writable: self.seen.writable,
            history: History::new(self.id, &self.origin, &self.latest),
        }
    }
}

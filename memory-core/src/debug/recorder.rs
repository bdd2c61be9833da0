//! The registry of debug mode: every ledger and every buffer that is alive.

use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use super::history::{Event, Latest, Operation, Origin, Trail};
use crate::report::{History, OutstandingBuffer};
use crate::sync::plain::{AtomicU64, copy_out};
use crate::sync::process::{Order, ProcessGuard};
use crate::sync::table::{Entry, Room, Table, spread};
use crate::sync::{Ordering, ProcessLock};

/// How many tables share the ledgers, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// Knows the ledgers and buffers of one tree: it numbers them.
pub(crate) struct Recorder {
    /// The next number for a ledger, a buffer or a reservation.
    next: AtomicU64,
}

/// The ledgers of all trees in debug mode by the addresses of their slots. Under a shard's lock one
/// ledger or buffer is looked up, linked or unlinked, or the numbers of one ledger's buffers are copied.
static LEDGERS: [ProcessLock<Table<LedgerRecord>>; SHARDS] =
    [const { ProcessLock::new(Order::Inner, Table::new()) }; SHARDS];

/// One ledger, as long as a registered buffer holds it.
struct LedgerRecord {
    id: u64,
    origin: Arc<Origin>,
    latest: Latest,
    /// The buffers by their numbers. Never empty when the lock is free.
    views: Table<ViewRecord>,
}

/// One buffer.
#[derive(Clone)]
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
        // All is made with no lock held: the walk of the stack is by far the longest part.
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
            // A new record has room: it is not left without a buffer.
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

    /// Takes a buffer out, and its ledger if that was the last.
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
        // Memory is given back with no lock held.
        drop((gone, whole, forgotten));
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

    /// What is known of a ledger and of the buffers that hold it, oldest first. A ledger may have a million
    /// of them, so their numbers are copied under the lock, and then each is looked up by itself. Buffers that go
    /// meanwhile are left out.
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

    /// What is known of one buffer.
    pub(crate) fn buffer(&self, ledger: usize, view: usize) -> Option<OutstandingBuffer> {
        let ledgers = shard(ledger);
        let view = ledgers.get(ledger)?.views.get(view)?.clone();
        drop(ledgers);
        Some(view.to_outstanding())
    }
}

fn shard(ledger: usize) -> ProcessGuard<Table<LedgerRecord>> {
    // Other bits than the table uses, which takes the lowest.
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

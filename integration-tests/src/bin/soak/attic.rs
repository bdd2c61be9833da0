//! The leaks: what clients have forgotten, of which the run knows.
//!
//! A leak is found when its client is closed: the report of the closing has to name it, and nothing else. The oldest
//! leaks are mended, so that a long run does not grow by them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use arrow_memory_core::{
    AllocationReservation, AllocatorId, ArrowBuf, ArrowBufMut, BufferAllocator, CloseError,
};
use arrow_memory_integration_tests::load::lock;

/// How many leaks there are at most before the oldest one is mended.
const LEAKS: usize = 64;

/// What a client leaks.
#[derive(Default)]
pub(crate) struct Leak {
    /// Buffers, and further handles on some of them.
    buffers: Vec<ArrowBufMut>,
    shared: Vec<[ArrowBuf; 2]>,
    reservations: Vec<AllocationReservation>,
    external: usize,
}

impl Leak {
    /// Leaks a few things of a client, if it still gets memory.
    pub(crate) fn of(client: &BufferAllocator) -> Self {
        let mut leak = Self::default();
        for _ in 0..fastrand::u32(1..4) {
            let bytes = fastrand::usize(1..8 << 10);
            match fastrand::u32(..4) {
                0 => leak.buffers.extend(client.buffer(bytes)),
                1 => {
                    let buffer = client.buffer_from_slice(&vec![7; bytes]);
                    leak.shared
                        .extend(buffer.map(|it| [it.slice(..bytes / 2 + 1), it]));
                }
                2 => {
                    let mut reservation = client.new_reservation();
                    if reservation.add(bytes).is_ok() {
                        leak.reservations.push(reservation);
                    }
                }
                _ => {
                    if client.allocate_bytes(bytes).is_ok() {
                        leak.external += bytes;
                    }
                }
            }
        }
        leak
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// The bytes of the buffers.
    fn block_bytes(&self) -> usize {
        let exclusive = self.buffers.iter().map(ArrowBufMut::capacity);
        let shared = self
            .shared
            .iter()
            .map(|[buffer, _]| buffer.accounted_size());
        exclusive.chain(shared).sum()
    }

    fn reserved_bytes(&self) -> usize {
        self.reservations.iter().map(|it| it.size()).sum()
    }

    /// All bytes that stay charged.
    fn bytes(&self) -> usize {
        self.block_bytes() + self.reserved_bytes() + self.external
    }

    /// What the report of the closing says that differs from what was leaked.
    pub(crate) fn differs(&self, report: &CloseError) -> Option<String> {
        let owned = report.ledgers.iter().filter(|ledger| ledger.owning);
        let found = (
            report.allocated,
            owned.map(|ledger| ledger.size).sum::<usize>(),
            report.buffers(),
            report.reservations.len(),
            report.reserved_bytes,
            report.external_bytes,
            report.children.len(),
        );
        let leaked = (
            self.bytes(),
            self.block_bytes(),
            self.buffers.len() + 2 * self.shared.len(),
            self.reservations.len(),
            self.reserved_bytes(),
            self.external,
            0,
        );
        let differs = found != leaked;
        differs.then(|| format!("leaked {leaked:?}, and the report has {found:?}:\n{report}"))
    }
}

/// The leaks that were not mended yet, with their clients.
#[derive(Default)]
pub(crate) struct Attic(Mutex<VecDeque<(BufferAllocator, Leak)>>);

impl Attic {
    /// Keeps a leak, and returns the oldest one if there are too many.
    pub(crate) fn keep(
        &self,
        client: BufferAllocator,
        leak: Leak,
    ) -> Option<(BufferAllocator, Leak)> {
        let mut leaks = lock(&self.0);
        leaks.push_back((client, leak));
        (leaks.len() > LEAKS).then(|| leaks.pop_front()).flatten()
    }

    /// The bytes of all leaks.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.0).iter().map(|(_, leak)| leak.bytes()).sum()
    }

    /// Who leaked.
    pub(crate) fn clients(&self) -> BTreeSet<AllocatorId> {
        lock(&self.0)
            .iter()
            .map(|(client, _)| client.id())
            .collect()
    }

    /// Mends all leaks. Returns how many they were.
    ///
    /// # Errors
    ///
    /// The report of a client that has more than its leaks.
    pub(crate) fn mend_all(&self) -> Result<usize, Box<CloseError>> {
        let leaks = std::mem::take(&mut *lock(&self.0));
        let count = leaks.len();
        leaks.into_iter().try_for_each(mend)?;
        Ok(count)
    }
}

/// Releases what was leaked.
///
/// # Errors
///
/// The report of the client if it has more than that.
pub(crate) fn mend((client, leak): (BufferAllocator, Leak)) -> Result<(), Box<CloseError>> {
    let external = leak.external;
    drop(leak);
    client.release_bytes(external);
    client.close().map_err(Box::new)
}

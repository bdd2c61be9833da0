//! An operator of a query, and its consumers: what they declare, and the batches that it holds.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arrow_memory_arrow::{Kept, Shares};
use arrow_memory_core::{AllocError, BufferAllocator};
use arrow_memory_global::Scope;

use crate::options::Charge;

/// An operator of a query: a node of the plan, or, where the plan is not known, all consumers of one name without the
/// number of the partition.
pub(crate) struct Operator {
    pub(crate) name: Box<str>,
    /// The number of the plan's node, if it is one: unique in the process.
    pub(crate) node: Option<u64>,
    /// Charged for what the operator declares, and under [`Charge::Larger`] for the batches that it holds.
    pub(crate) allocator: BufferAllocator,
    /// Charged for the batches that it holds, if those are counted.
    pub(crate) batches: Option<BufferAllocator>,
    /// What it has handed on and still has, such as the groups that an aggregate returns in slices.
    pub(crate) kept: Kept,
    pub(crate) charge: Charge,
    /// In which the operator runs, so that its heap counts as held: if the program's global allocator attributes what is
    /// allocated.
    heap: Option<Scope>,
    pub(crate) declared: Peak,
    /// Declared bytes, and those that are about to be.
    announced: AtomicUsize,
    pub(crate) refused: AtomicU64,
    /// The number of times that it was refused for the sake of others.
    pub(crate) revoked: AtomicU64,
    /// Nanoseconds that its requests have waited.
    waited: AtomicU64,
    pub(crate) can_spill: AtomicBool,
    /// Whether its query has ended.
    ended: AtomicBool,
    streams: Mutex<Streams>,
}

/// The streams of an operator.
#[derive(Default)]
struct Streams {
    /// How many that it returns have not ended.
    open: usize,
    /// What each stream that the operator returns has spilled, those that have ended included.
    spills: Vec<Arc<dyn Spills>>,
    /// What those who read these streams share with the operator.
    shares: Vec<Weak<Shares>>,
    /// The partitions of the streams that it reads.
    inputs: Vec<usize>,
}

/// Knows how much one stream of an operator has spilled.
pub(crate) trait Spills: Send + Sync {
    /// Returns the bytes that it has spilled so far.
    fn spilled(&self) -> usize;
}

/// The numbers of an operator, in bytes where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) declared: usize,
    pub(crate) held: usize,
    /// What it is charged for.
    pub(crate) charged: usize,
    /// The peak of what it was charged for.
    pub(crate) peak: usize,
    pub(crate) held_peak: usize,
    pub(crate) spilled: usize,
    pub(crate) refused: u64,
    pub(crate) revoked: u64,
    pub(crate) forced_bytes: u64,
    pub(crate) waited: Duration,
}

/// A number of bytes and the largest value that it had.
#[derive(Default)]
pub(crate) struct Peak {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Peak {
    // Relaxed, all: numbers for reports and policies. The allocator's own counts order what must be ordered.

    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Subtracts bytes, at most as many as there are, and returns how many.
    fn take(&self, bytes: usize) -> usize {
        let less = |now: usize| Some(now.saturating_sub(bytes));
        let before = self
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.unwrap_or_else(|now| now).min(bytes)
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Operator {
    pub(crate) fn new(
        name: &str,
        node: Option<u64>,
        allocator: BufferAllocator,
        batches: Option<BufferAllocator>,
        charge: Charge,
    ) -> Self {
        let attributes = charge == Charge::Larger && arrow_memory_global::is_installed();
        // A closed allocator opens none.
        let heap = attributes.then(|| Scope::new(&allocator).ok()).flatten();
        Self {
            heap,
            name: name.into(),
            node,
            allocator,
            batches,
            kept: Kept::new(),
            charge,
            declared: Peak::default(),
            announced: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            can_spill: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }

    /// Charges declared bytes if they fit.
    fn try_declare(&self, bytes: usize) -> Result<(), AllocError> {
        match self.charge {
            // A reservation covers the batches of its allocator: the larger of the two is charged.
            Charge::Larger => self.allocator.raise_reservation(bytes),
            Charge::Declared | Charge::Observed => self.allocator.allocate_bytes(bytes),
        }
    }

    fn declare(&self, bytes: usize) {
        match self.charge {
            Charge::Larger => self.allocator.force_raise_reservation(bytes),
            Charge::Declared | Charge::Observed => self.allocator.force_allocate(bytes),
        };
    }

    fn withdraw(&self, bytes: usize) {
        match self.charge {
            Charge::Larger => self.allocator.lower_reservation(bytes),
            Charge::Declared | Charge::Observed => self.allocator.release_bytes(bytes),
        }
    }

    /// Runs code of the operator.
    pub(crate) fn run<R>(&self, code: impl FnOnce() -> R) -> R {
        match &self.heap {
            Some(heap) => heap.run(code),
            None => code(),
        }
    }

    /// Looks whether it has let go of what it has handed on, for a maximum of so many allocations. Returns the number of
    /// those whose charge ended.
    pub(crate) fn sweep(&self, at_most: usize) -> usize {
        // SeqCst, as in `retire`: what was added after that is not kept.
        match self.ended.load(Ordering::SeqCst) {
            true => self.kept.clear(),
            false => self.kept.sweep(at_most),
        }
    }

    /// Does the same with all of it, and with what those who read its streams share with it.
    pub(crate) fn sweep_all(&self) -> usize {
        let shares = self.streams().shares.clone();
        let shared = shares.iter().filter_map(Weak::upgrade);
        self.sweep(usize::MAX) + shared.map(|shares| shares.sweep()).sum::<usize>()
    }

    /// Notes a stream that the operator returns, and what is shared with its reader.
    pub(crate) fn returns(&self, stream: Arc<dyn Spills>, shares: &Arc<Shares>) {
        let mut streams = self.streams();
        streams.open += 1;
        streams.spills.push(stream);
        streams.shares.retain(|shares| shares.strong_count() > 0);
        streams.shares.push(Arc::downgrade(shares));
    }

    /// Notes that such a stream has ended. After the last one none of the operator's code runs, so whoever still has what
    /// it has handed on is somebody else: a cache, or a plan.
    pub(crate) fn has_returned(&self) {
        let last = {
            let mut streams = self.streams();
            streams.open = streams.open.saturating_sub(1);
            streams.open == 0
        };
        if last {
            self.kept.clear();
        } else {
            self.sweep(usize::MAX);
        }
    }

    /// Notes a stream that the operator reads.
    pub(crate) fn begins_to_read(&self, partition: usize) {
        self.streams().inputs.push(partition);
    }

    /// Notes that such a stream has ended.
    pub(crate) fn has_read(&self, partition: usize) {
        let inputs = &mut self.streams().inputs;
        if let Some(index) = inputs.iter().position(|&open| open == partition) {
            inputs.swap_remove(index);
        }
    }

    /// Whether it reads that partition. Of an operator whose plan is not known nobody knows; then the answer is yes.
    fn reads(&self, partition: Option<usize>) -> bool {
        let streams = self.streams();
        let open = |partition| streams.inputs.contains(&partition);
        self.node.is_none() || partition.map_or(!streams.inputs.is_empty(), open)
    }

    /// Notes that a request has waited.
    pub(crate) fn has_waited(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: a number for reports.
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Reads the numbers, one after another.
    pub(crate) fn numbers(&self) -> Numbers {
        let declared = self.declared.now();
        let (held, held_peak) = self.batches.as_ref().map_or((0, 0), |batches| {
            (batches.allocated_memory(), batches.peak_memory_allocation())
        });
        // An operator has one charge. So the peak of the larger of two numbers is the larger of their peaks.
        let (charged, peak) = match self.charge {
            Charge::Larger => (declared.max(held), self.declared.peak().max(held_peak)),
            Charge::Declared | Charge::Observed => (declared, self.declared.peak()),
        };
        let spills = self.streams().spills.clone();
        // Relaxed, all: numbers for reports.
        Numbers {
            declared,
            held,
            charged,
            peak,
            held_peak,
            spilled: spills.iter().map(|stream| stream.spilled()).sum(),
            refused: self.refused.load(Ordering::Relaxed),
            revoked: self.revoked.load(Ordering::Relaxed),
            waited: Duration::from_nanos(self.waited.load(Ordering::Relaxed)),
            // An allocator that has left its tree still knows this.
            forced_bytes: self.allocator.stats().forced_bytes,
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the operator's allocators leave their trees once nothing is declared and no batch is held: now, or with the
    /// last bytes.
    pub(crate) fn retire(&self) {
        // SeqCst, with `announced`: whoever comes second of this and the last withdrawal sees the other.
        self.ended.store(true, Ordering::SeqCst);
        self.kept.clear();
        self.leave_if_empty();
        if self.charge == Charge::Observed
            && let Some(batches) = &self.batches
        {
            batches.retire();
        }
    }

    /// Counts bytes that are about to be charged, so that the operator does not leave its tree meanwhile.
    fn announce(&self, bytes: usize) {
        // SeqCst: as `retire` says.
        self.announced.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts bytes that are not charged any more, or were not.
    fn has_withdrawn(&self, bytes: usize) {
        // SeqCst: as `retire` says.
        let before = self.announced.fetch_sub(bytes, Ordering::SeqCst);
        if before == bytes && self.ended.load(Ordering::SeqCst) {
            self.leave_if_empty();
        }
    }

    /// An allocator that retires counts bytes, and not a reservation. So it does not retire before that is zero.
    fn leave_if_empty(&self) {
        let by_reservation = self.charge == Charge::Larger;
        if !by_reservation || self.announced.load(Ordering::SeqCst) == 0 {
            self.allocator.retire();
        }
    }
}

/// A consumer as it comes from DataFusion.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) id: usize,
    pub(crate) name: &'a str,
    pub(crate) can_spill: bool,
    pub(crate) frees_by_spilling: bool,
}

/// What DataFusion calls a consumer, usually one partition of an operator.
pub(crate) struct Consumer {
    pub(crate) name: Box<str>,
    pub(crate) can_spill: bool,
    pub(crate) operator: Arc<Operator>,
    /// Whether it can spill, and others get what it spills. A repartitioning spills what it was about to keep, and nothing
    /// else.
    pub(crate) frees_by_spilling: bool,
    /// The number in its name, usually that of the partition of which it reads the input.
    partition: Option<usize>,
    /// Bytes that the operator's allocator is charged for this consumer: never more, at any instant.
    declared: Peak,
    /// [`KEEPS`], [`MARKED`] or [`SPILLS`].
    revocation: AtomicU8,
}

/// Nobody has asked the consumer to spill since it last gave something back.
const KEEPS: u8 = 0;
/// It is to be refused when it asks next.
const MARKED: u8 = 1;
/// It was refused, and is not refused again for others' sake before it has given something back: it may need its next
/// request in order to spill.
const SPILLS: u8 = 2;

impl Consumer {
    pub(crate) fn new(seen: Seen<'_>, operator: Arc<Operator>) -> Self {
        Self {
            name: seen.name.into(),
            can_spill: seen.can_spill,
            frees_by_spilling: seen.can_spill && seen.frees_by_spilling,
            operator,
            partition: partition(seen.name),
            declared: Peak::default(),
            revocation: AtomicU8::new(KEEPS),
        }
    }

    /// Whether it would spill if it were refused: it can, has something to spill, and is not done with its input. After
    /// that, a sort merges what it has, and an aggregate reads again what it has spilled; refusing either is the end of
    /// the query.
    pub(crate) fn would_spill(&self) -> bool {
        self.can_spill && self.declared() > 0 && self.operator.reads(self.partition)
    }

    /// Whether it declares batches on their way, which exist already, and spilling gives nothing to others.
    pub(crate) fn passes_on(&self) -> bool {
        self.can_spill && !self.frees_by_spilling
    }

    /// Whether it keeps others from what they need and could be told so: not if it was told already.
    pub(crate) fn can_give_way(&self) -> bool {
        // Relaxed: as in `revoke`.
        self.frees_by_spilling
            && self.revocation.load(Ordering::Relaxed) == KEEPS
            && self.would_spill()
    }

    /// Asks the consumer to spill at its next request.
    pub(crate) fn revoke(&self) {
        // Relaxed, as all of this: it decides who is refused, and orders nothing.
        let _marked_or_spilling =
            self.revocation
                .compare_exchange(KEEPS, MARKED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the consumer is to be refused for others' sake: it was asked to, and would still spill. Answers so once.
    pub(crate) fn gives_way(&self) -> bool {
        if self.revocation.load(Ordering::Relaxed) != MARKED || !self.would_spill() {
            return false;
        }
        let told =
            self.revocation
                .compare_exchange(MARKED, SPILLS, Ordering::Relaxed, Ordering::Relaxed);
        if told.is_ok() {
            self.operator.revoked.fetch_add(1, Ordering::Relaxed);
        }
        told.is_ok()
    }

    /// Charges bytes if they fit. Zero always fits.
    pub(crate) fn try_grow(&self, bytes: usize) -> Result<(), AllocError> {
        if bytes == 0 {
            return Ok(());
        }
        self.operator.announce(bytes);
        match self.operator.try_declare(bytes) {
            Ok(()) => {
                self.operator.declared.add(bytes);
                self.declared.add(bytes);
                Ok(())
            }
            Err(error) => {
                self.operator.has_withdrawn(bytes);
                Err(error)
            }
        }
    }

    /// Charges bytes whatever the limits say.
    pub(crate) fn grow(&self, bytes: usize) {
        if bytes > 0 {
            self.operator.announce(bytes);
            self.operator.declare(bytes);
            self.operator.declared.add(bytes);
            self.declared.add(bytes);
        }
    }

    /// Whether its operator holds batches beyond what it declares, of at least that many bytes.
    pub(crate) fn declares_what_it_holds(&self, bytes: usize) -> bool {
        let operator = &self.operator;
        let held = || operator.allocator.allocated_memory();
        operator.charge == Charge::Larger && operator.declared.now().saturating_add(bytes) <= held()
    }

    /// Gives bytes back, at most as many as it has declared.
    pub(crate) fn shrink(&self, bytes: usize) {
        let taken = self.declared.take(bytes);
        if taken > 0 {
            self.operator.declared.take(taken);
            self.operator.withdraw(taken);
            self.operator.has_withdrawn(taken);
            self.revocation.store(KEEPS, Ordering::Relaxed);
        }
    }

    pub(crate) fn declared(&self) -> usize {
        self.declared.now()
    }
}

/// Returns the number in the brackets of a consumer's name: `ExternalSorter[3]`.
fn partition(name: &str) -> Option<usize> {
    let (_, number) = name.split_once('[')?;
    number.split_once(']')?.0.parse().ok()
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Operator").field(&self.name).finish()
    }
}

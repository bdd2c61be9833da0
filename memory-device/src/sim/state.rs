//! The memory of a simulated device, and its work that is not done yet.
#![expect(unsafe_code, reason = "copies from and to memory of the host")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem;
use std::mem::MaybeUninit;
use std::time::Instant;

use arrow_memory_core::ManagerStats;

use crate::event::Event;

/// What unwritten memory contains, and what a read gets that is not ordered after a write.
pub(super) const POISON: u8 = 0xDB;

/// The first address. No user process has memory there: on x86-64 the address is not canonical, and on 64-bit Arm, which may
/// ignore the upper byte, bit 55 makes it one of the kernel's half.
const FIRST: u64 = 0x6D80_0000_0000_0000;

/// Blocks start at multiples of this, with unused addresses between them.
const SPACING: u64 = 1 << 20;

/// A use of a simulated device that is wrong on a real one, even if it happens to work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hazard {
    /// Bytes were read while an unfinished copy was still to write them: a synchronisation was forgotten. The reader
    /// got poison.
    #[non_exhaustive]
    ReadTooEarly {
        /// The address of the bytes.
        at: u64,
        /// Their number.
        len: usize,
    },
    /// Bytes were written while an unfinished copy still reads or writes them.
    #[non_exhaustive]
    WrittenTooEarly {
        /// The address of the bytes.
        at: u64,
        /// Their number.
        len: usize,
    },
    /// A block was given back without the event of a copy that still uses it.
    #[non_exhaustive]
    FreedTooEarly {
        /// The address of the block.
        at: u64,
    },
    /// Bytes were used that lie in no live block.
    #[non_exhaustive]
    NoBlock {
        /// The address of the bytes.
        at: u64,
        /// Their number.
        len: usize,
    },
}

/// Bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) len: usize,
}

impl Span {
    fn end(self) -> u64 {
        self.at.saturating_add(self.len as u64)
    }

    fn meets(self, other: Span) -> bool {
        self.at < other.end() && other.at < self.end()
    }
}

/// Bytes of the host.
pub(super) struct HostBytes {
    start: *mut MaybeUninit<u8>,
    len: usize,
}

// SAFETY: by the contract of a manager's copies the bytes stay as they are until the copy is done, whichever
// thread does it.
unsafe impl Send for HostBytes {}

impl HostBytes {
    /// Bytes to be read.
    pub(super) fn from(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr().cast_mut().cast(),
            len: bytes.len(),
        }
    }

    /// Bytes to be written.
    pub(super) fn to(bytes: &mut [MaybeUninit<u8>]) -> Self {
        Self {
            start: bytes.as_mut_ptr(),
            len: bytes.len(),
        }
    }

    /// # Safety
    ///
    /// `from` made this, and the copy is not done yet.
    unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the caller's promise, and the contract of `copy_in`.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    /// # Safety
    ///
    /// `to` made this, and the copy is not done yet.
    unsafe fn fill(&self, byte: u8) {
        // SAFETY: the caller's promise, and the contract of `copy_out`.
        unsafe { self.start.cast::<u8>().write_bytes(byte, self.len) };
    }

    /// # Safety
    ///
    /// `to` made this, the copy is not done yet, and `bytes` has the same length.
    unsafe fn write(&self, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), self.len);
        let (from, to) = (bytes.as_ptr(), self.start.cast::<u8>());
        // SAFETY: the caller's promise, and the contract of `copy_out`; the device's bytes are elsewhere.
        unsafe { to.copy_from_nonoverlapping(from, self.len) };
    }
}

/// Work of the device.
pub(super) enum Work {
    In {
        from: HostBytes,
        to: Span,
    },
    Out {
        from: Span,
        to: HostBytes,
    },
    Within {
        from: Span,
        to: Span,
    },
    /// Nothing, after an event of whatever kind.
    Wait(Event),
    /// Nothing, so that there is an event of all that came before.
    Mark,
}

impl Work {
    fn reads(&self) -> Option<Span> {
        match self {
            Self::Out { from, .. } | Self::Within { from, .. } => Some(*from),
            _ => None,
        }
    }

    fn writes(&self) -> Option<Span> {
        match self {
            Self::In { to, .. } | Self::Within { to, .. } => Some(*to),
            _ => None,
        }
    }

    fn uses(&self, span: Span) -> bool {
        let (reads, writes) = (self.reads(), self.writes());
        reads.into_iter().chain(writes).any(|used| used.meets(span))
    }

    /// Leaves poison in the host's memory until the copy is done.
    pub(super) fn begin(&self) {
        if let Self::Out { to, .. } = self {
            // SAFETY: the copy begins now.
            unsafe { to.fill(POISON) };
        }
    }
}

/// Work in a stream.
pub(super) struct Pending {
    pub(super) id: u64,
    /// When it is done, at the earliest.
    pub(super) due: Instant,
    pub(super) work: Work,
    pub(super) fails: bool,
}

/// The work of a stream that is not done, in order.
#[derive(Default)]
struct Queue {
    work: VecDeque<Pending>,
    /// The first work that failed. All later work fails, too.
    failed: Option<u64>,
    /// No handle and no event of the stream is left. Its work is done all the same.
    abandoned: bool,
}

/// A block of the device.
struct SimBlock {
    bytes: Vec<u8>,
    /// Given back, while a copy is under way.
    freed: bool,
}

/// All that a simulated device knows.
pub(super) struct State {
    blocks: BTreeMap<u64, SimBlock>,
    next_address: u64,
    next_id: u64,
    /// The streams that have a handle, an event or work.
    streams: BTreeMap<usize, Queue>,
    next_stream: usize,
    hazards: Vec<Hazard>,
    stats: ManagerStats,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            blocks: BTreeMap::new(),
            next_address: FIRST,
            next_id: 0,
            streams: BTreeMap::new(),
            next_stream: 0,
            hazards: Vec::new(),
            stats: ManagerStats::default(),
        }
    }

    pub(super) fn stats(&self) -> ManagerStats {
        self.stats
    }

    pub(super) fn take_hazards(&mut self) -> Vec<Hazard> {
        mem::take(&mut self.hazards)
    }

    /// The bytes of all blocks, also of those that are given back while a copy is under way.
    pub(super) fn used(&self) -> usize {
        self.blocks.values().map(|block| block.bytes.len()).sum()
    }

    /// The address of a new block; `None` if the host has no memory for it.
    pub(super) fn allocate(&mut self, size: usize) -> Option<u64> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).ok()?;
        bytes.resize(size, POISON);
        let at = self.next_address;
        self.next_address += (size as u64).div_ceil(SPACING) * SPACING + SPACING;
        let freed = false;
        self.blocks.insert(at, SimBlock { bytes, freed });
        let live = self.stats.live_bytes.unwrap_or(0) + size;
        self.stats.live_bytes = Some(live);
        self.stats.peak_bytes = Some(self.stats.peak_bytes.unwrap_or(0).max(live));
        self.stats.total_bytes = Some(self.stats.total_bytes.unwrap_or(0) + size as u64);
        self.stats.allocations = Some(self.stats.allocations.unwrap_or(0) + 1);
        Some(at)
    }

    /// Takes a block back. `covered` says whether an event tells when that work of that stream is over.
    pub(super) fn free(&mut self, at: u64, size: usize, covered: impl Fn(usize, u64) -> bool) {
        let known = self.blocks.get_mut(&at).filter(|block| !block.freed);
        let Some(block) = known.filter(|block| block.bytes.len() == size) else {
            self.hazards.push(Hazard::NoBlock { at, len: size });
            return;
        };
        block.freed = true;
        let live = self.stats.live_bytes.unwrap_or(0);
        self.stats.live_bytes = Some(live.saturating_sub(size));
        let span = Span { at, len: size };
        let uncovered = self
            .streams
            .iter()
            .flat_map(|(&stream, queue)| queue.work.iter().map(move |pending| (stream, pending)))
            .any(|(stream, pending)| pending.work.uses(span) && !covered(stream, pending.id));
        if uncovered {
            self.hazards.push(Hazard::FreedTooEarly { at });
        }
        self.sweep();
    }

    /// Frees the blocks that were given back and that no work uses any more.
    fn sweep(&mut self) {
        let Self {
            blocks, streams, ..
        } = self;
        blocks.retain(|&at, block| {
            let span = Span {
                at,
                len: block.bytes.len(),
            };
            let mut work = streams.values().flat_map(|queue| &queue.work);
            let mut in_use = || work.any(|pending| pending.work.uses(span));
            !block.freed || in_use()
        });
    }

    /// Whether all these bytes lie in a live block; a hazard if not.
    pub(super) fn check(&mut self, span: Span) -> bool {
        let live = self.find(span).is_some_and(|(_, block)| !block.freed);
        if !live {
            let Span { at, len } = span;
            self.hazards.push(Hazard::NoBlock { at, len });
        }
        live
    }

    fn find(&self, span: Span) -> Option<(u64, &SimBlock)> {
        let (&at, block) = self.blocks.range(..=span.at).next_back()?;
        let end = at + block.bytes.len() as u64;
        (span.end() <= end && span.at < end).then_some((at, block))
    }

    /// The bytes of a span that lies in a block, live or given back.
    fn bytes(&mut self, span: Span) -> Option<&mut [u8]> {
        let (at, _) = self.find(span)?;
        let start = usize::try_from(span.at - at).ok()?;
        let block = self.blocks.get_mut(&at)?;
        block.bytes.get_mut(start..start + span.len)
    }

    /// The number of a new stream.
    pub(super) fn add_stream(&mut self) -> usize {
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(number, Queue::default());
        number
    }

    /// Forgets a stream of which no handle and no event is left, once its work is done.
    pub(super) fn abandon(&mut self, stream: usize) {
        match self.streams.get_mut(&stream) {
            Some(queue) if !queue.work.is_empty() => queue.abandoned = true,
            _ => drop(self.streams.remove(&stream)),
        }
    }

    /// The numbers of all streams.
    pub(super) fn streams(&self) -> Vec<usize> {
        self.streams.keys().copied().collect()
    }

    /// The first work of a stream that is not done.
    pub(super) fn first(&self, stream: usize) -> Option<&Pending> {
        self.streams.get(&stream)?.work.front()
    }

    /// Puts work at the end of a stream; its number.
    pub(super) fn push(&mut self, stream: usize, work: Work, due: Instant, fails: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let queue = self.streams.entry(stream).or_default();
        queue.work.push_back(Pending {
            id,
            due,
            work,
            fails,
        });
        id
    }

    pub(super) fn is_done(&self, stream: usize, id: u64) -> bool {
        self.first(stream).is_none_or(|next| next.id > id)
    }

    /// Whether that work of a stream, or earlier work of it, has failed.
    pub(super) fn has_failed(&self, stream: usize, id: u64) -> bool {
        let failed = self.streams.get(&stream).and_then(|queue| queue.failed);
        failed.is_some_and(|first| first <= id)
    }

    /// Does the first work of a stream, and returns it, to be dropped without the lock. `in_vain` says that it waited
    /// for work that failed.
    pub(super) fn finish_first(&mut self, stream: usize, in_vain: bool) -> Option<Pending> {
        let queue = self.streams.get_mut(&stream)?;
        let pending = queue.work.pop_front()?;
        let fails = pending.fails || in_vain || queue.failed.is_some();
        if fails {
            queue.failed.get_or_insert(pending.id);
        }
        if queue.abandoned && queue.work.is_empty() {
            self.streams.remove(&stream);
        }
        self.perform(&pending.work, pending.id, fails);
        self.sweep();
        Some(pending)
    }

    /// Does work that is in no stream, whatever is under way.
    pub(super) fn perform_now(&mut self, work: &Work) {
        self.perform(work, u64::MAX, false);
    }

    /// Does work. What was begun before it and is not done is not ordered before it: that is a hazard where the two
    /// meet.
    fn perform(&mut self, work: &Work, id: u64, fails: bool) {
        let early = work.reads().filter(|&span| self.is_written_by(span, id));
        if let Some(Span { at, len }) = early {
            self.hazards.push(Hazard::ReadTooEarly { at, len });
        }
        if let Some(Span { at, len }) = work.writes().filter(|&span| self.is_used_by(span, id)) {
            self.hazards.push(Hazard::WrittenTooEarly { at, len });
        }
        let poison = fails || early.is_some();
        match work {
            Work::In { from, to } => {
                // SAFETY: the copy is done after this.
                let from = unsafe { from.as_slice() };
                if let Some(to) = self.bytes(*to) {
                    put(to, from, poison);
                }
            }
            Work::Out { from, to } => {
                if let Some(from) = self.bytes(*from).filter(|_| !poison) {
                    // SAFETY: the copy is done after this, and both lengths are those of the request.
                    unsafe { to.write(from) };
                } else {
                    // SAFETY: the copy is done after this.
                    unsafe { to.fill(POISON) };
                }
            }
            Work::Within { from, to } => {
                let bytes = self.bytes(*from).map(|bytes| bytes.to_vec());
                if let (Some(bytes), Some(to)) = (bytes, self.bytes(*to)) {
                    put(to, &bytes, poison);
                }
            }
            Work::Wait(_) | Work::Mark => {}
        }
    }

    /// The work that was begun before `id` and is not done.
    fn begun_before(&self, id: u64) -> impl Iterator<Item = &Work> {
        let pending = self.streams.values().flat_map(|queue| &queue.work);
        pending
            .filter(move |pending| pending.id < id)
            .map(|pending| &pending.work)
    }

    fn is_written_by(&self, span: Span, id: u64) -> bool {
        self.begun_before(id)
            .any(|work| work.writes().is_some_and(|written| written.meets(span)))
    }

    fn is_used_by(&self, span: Span, id: u64) -> bool {
        self.begun_before(id).any(|work| work.uses(span))
    }
}

fn put(to: &mut [u8], from: &[u8], poison: bool) {
    if poison {
        to.fill(POISON);
    } else {
        to.copy_from_slice(from);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("blocks", &self.blocks.len())
            .field("hazards", &self.hazards)
            .finish_non_exhaustive()
    }
}

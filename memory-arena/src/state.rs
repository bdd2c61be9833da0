//! An arena's books: which chunks there are, what is live in them. No memory is obtained or
//! returned here: [`Arena`](crate::Arena) does that when the lock around the books is free.
//!
//! # Invariants
//!
//! 1. Every live block that is not large lies in `current` or in exactly one of `full`, whose
//!    count of live blocks includes it.
//! 2. `full` is sorted by address, and each of them has a live block. Chunks do not overlap.
//! 3. `spare` has no block. Any other chunk that is empty and not `current` is returned to
//!    the parent at once.
//! 4. Every chunk has at least the first chunk's size, four times the largest block that is cut
//!    from one, so an empty chunk has room for any.
//! 5. `held` is the sum of the chunks' sizes and the large blocks' bytes; `occupied` is the sum of
//!    what the chunks have cut and the large blocks' bytes.
//! 6. `full` has room for all chunks that there are, so that it never grows under the lock.

use std::alloc::Layout;
use std::mem;
use std::ptr::NonNull;

use arrow_memory_core::ManagerStats;

use crate::chunk::Chunk;
use crate::error::ArenaError;
use crate::padded;

/// What an arena's lock protects.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The chunk that blocks are cut from.
    current: Option<Chunk>,
    /// Chunks that were current before and have live blocks.
    full: Vec<Chunk>,
    /// An empty chunk, ready to become current.
    spare: Option<Chunk>,
    /// The number of chunks that the parent was asked for. The growth policy computes the next size from it.
    obtained: u32,
    /// Bytes that the parent lent.
    held: usize,
    /// Bytes that cannot be cut off now.
    occupied: usize,
    /// The maximum of `occupied` so far.
    high_water_mark: usize,
    /// Blocks lent, live.
    live_blocks: usize,
    /// Their bytes, as asked for.
    live_bytes: usize,
    /// How many of `live_blocks` are large.
    large_blocks: usize,
    /// The maximum of `live_bytes` since the last reset.
    peak_bytes: usize,
    /// Bytes lent in total, with growth.
    total_bytes: u64,
    /// Blocks lent in total.
    allocations: u64,
}

impl State {
    /// Cuts a block from the current chunk, or from the spare one, or needs another chunk.
    #[inline]
    pub(crate) fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let current = match &mut self.current {
            Some(current) => current,
            none => none.insert(self.spare.take()?),
        };
        let before = current.used();
        let block = match current.cut(padded(layout.size()), layout.align()) {
            Some(block) => {
                self.occupied += current.used() - before;
                block
            }
            None => self.allocate_from_spare(layout)?,
        };
        self.lent(layout.size());
        Some(block)
    }

    /// Makes sure that [`add`](Self::add) has room for one more chunk, perhaps in the empty list `spare`,
    /// which was made while the lock was free. If not, says for how many chunks the caller must make
    /// another one. What is left in `spare` must be dropped while the lock is free.
    pub(crate) fn make_room(&mut self, spare: &mut Vec<Chunk>) -> Result<(), usize> {
        let chunks = self.full.len() + self.current.iter().chain(&self.spare).count();
        let wanted = chunks + 1;
        if self.full.capacity() >= wanted {
            return Ok(());
        }
        if spare.capacity() < wanted {
            return Err(wanted.next_power_of_two().max(8));
        }
        spare.append(&mut self.full);
        mem::swap(&mut self.full, spare);
        Ok(())
    }

    /// Adds a chunk that the parent lent and cuts a block. There is room: [`make_room`](Self::make_room)
    /// said so since the lock was taken.
    ///
    /// Also returns a chunk to give back to the parent, if one is too many: other threads may have
    /// added one, too, or given blocks back, since it was asked for.
    pub(crate) fn add(
        &mut self,
        chunk: Chunk,
        layout: Layout,
    ) -> (Option<NonNull<u8>>, Option<Chunk>) {
        self.held += chunk.size();
        match self.allocate(layout) {
            Some(block) => (Some(block), self.keep_spare(chunk)),
            None => {
                let superfluous = self.make_current(chunk);
                (self.allocate(layout), superfluous)
            }
        }
    }

    /// How many bytes the next chunk shall have.
    pub(crate) fn next_chunk_size(&mut self, first: usize, max: usize) -> usize {
        let doubled = 1_usize
            .checked_shl(self.obtained)
            .and_then(|by| first.checked_mul(by));
        self.obtained = self.obtained.saturating_add(1);
        doubled.map_or(max, |size| size.min(max))
    }

    /// Takes a block back. Returns a chunk to give back to the parent, if one is too many now.
    #[inline]
    #[must_use]
    pub(crate) fn deallocate(&mut self, block: NonNull<u8>, layout: Layout) -> Option<Chunk> {
        self.live_blocks -= 1;
        self.live_bytes -= layout.size();
        let size = padded(layout.size());
        match &mut self.current {
            Some(current) if current.contains(block.addr().get()) => {
                let before = current.used();
                current.take_back(block, size);
                self.occupied -= before - current.used();
                None
            }
            _ => self.deallocate_from_full(block, size),
        }
    }

    /// Changes a block's size in its chunk, if it can be done without moving it.
    pub(crate) fn resize(&mut self, block: NonNull<u8>, old: usize, new: usize) -> bool {
        let address = block.addr().get();
        let chunk = match &mut self.current {
            Some(current) if current.contains(address) => current,
            _ => match find(&self.full, address) {
                Some(index) => &mut self.full[index],
                None => return false,
            },
        };
        let before = chunk.used();
        let resized = chunk.resize(block, padded(old), padded(new));
        if resized {
            let now = chunk.used();
            self.occupy(before, now);
            self.resized(old, new);
        }
        resized
    }

    /// Counts a large block, which the parent serves.
    pub(crate) fn large_lent(&mut self, size: usize) {
        self.large_blocks += 1;
        self.held += size;
        self.occupy(0, size);
        self.lent(size);
    }

    /// Counts a large block that is returned to the parent.
    pub(crate) fn large_returned(&mut self, size: usize) {
        self.large_blocks -= 1;
        self.held -= size;
        self.occupy(size, 0);
        self.live_blocks -= 1;
        self.live_bytes -= size;
    }

    /// Counts a large block that the parent resized.
    pub(crate) fn large_resized(&mut self, old: usize, new: usize) {
        self.held = self.held - old + new;
        self.occupy(old, new);
        self.resized(old, new);
    }

    /// The empty chunks, but for the current one if `keep_current`.
    pub(crate) fn take_empty(&mut self, keep_current: bool) -> [Option<Chunk>; 2] {
        let current = self
            .current
            .take_if(|chunk| !keep_current && chunk.is_empty());
        let taken = [current, self.spare.take()];
        for chunk in taken.iter().flatten() {
            self.held -= chunk.size();
        }
        taken
    }

    /// An error that says what is live, if anything is.
    pub(crate) fn check_empty(&self) -> Result<(), ArenaError> {
        if self.live_blocks == 0 {
            return Ok(());
        }
        let current = self
            .current
            .iter()
            .filter(|chunk| !chunk.is_empty())
            .count();
        Err(ArenaError::StillLive {
            blocks: self.live_blocks,
            bytes: self.live_bytes,
            large_blocks: self.large_blocks,
            chunks: self.full.len() + current,
        })
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn high_water_mark(&self) -> usize {
        self.high_water_mark
    }

    pub(crate) fn reset_peak(&mut self) {
        self.peak_bytes = self.live_bytes;
    }

    /// What there is; the bytes that are held and not live count as cached.
    pub(crate) fn stats(&self) -> ManagerStats {
        let empty = self
            .current
            .iter()
            .chain(&self.spare)
            .filter(|chunk| chunk.is_empty());
        let empty: usize = empty.map(Chunk::size).sum();
        let mut stats = ManagerStats::default();
        stats.live_bytes = Some(self.live_bytes);
        stats.peak_bytes = Some(self.peak_bytes);
        stats.total_bytes = Some(self.total_bytes);
        stats.allocations = Some(self.allocations);
        stats.active_bytes = Some(self.held - empty);
        stats.cached_bytes = Some(self.held - self.live_bytes);
        stats
    }

    #[cold]
    fn allocate_from_spare(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let spare = self.spare.take()?;
        // The current chunk had no room, so it is not empty, and the spare one's place is free.
        let superfluous = self.make_current(spare);
        debug_assert!(superfluous.is_none());
        let current = self.current.as_mut()?;
        // An empty chunk has room, by invariant 4.
        let block = current.cut(padded(layout.size()), layout.align())?;
        self.occupied += current.used();
        Some(block)
    }

    fn make_current(&mut self, chunk: Chunk) -> Option<Chunk> {
        debug_assert!(chunk.is_empty());
        let before = self.current.replace(chunk)?;
        if before.is_empty() {
            return self.keep_spare(before);
        }
        let index = self
            .full
            .partition_point(|full| full.address() < before.address());
        debug_assert!(self.full.len() < self.full.capacity(), "invariant 6");
        self.full.insert(index, before);
        None
    }

    #[cold]
    fn deallocate_from_full(&mut self, block: NonNull<u8>, size: usize) -> Option<Chunk> {
        let Some(index) = find(&self.full, block.addr().get()) else {
            debug_assert!(false, "{block:p} is in no chunk of this arena");
            return None;
        };
        let chunk = &mut self.full[index];
        let before = chunk.used();
        chunk.take_back(block, size);
        self.occupied -= before - chunk.used();
        if !chunk.is_empty() {
            return None;
        }
        let empty = self.full.remove(index);
        self.keep_spare(empty)
    }

    /// Keeps the larger of two empty chunks and returns the other one, which is not held any more.
    fn keep_spare(&mut self, empty: Chunk) -> Option<Chunk> {
        let superfluous = match &mut self.spare {
            Some(spare) if spare.size() < empty.size() => Some(mem::replace(spare, empty)),
            Some(_) => Some(empty),
            None => {
                self.spare = Some(empty);
                None
            }
        };
        self.held -= superfluous.as_ref().map_or(0, Chunk::size);
        superfluous
    }

    #[inline]
    fn lent(&mut self, size: usize) {
        self.live_blocks += 1;
        self.live_bytes += size;
        self.allocations += 1;
        self.total_bytes += size as u64;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        self.high_water_mark = self.high_water_mark.max(self.occupied);
    }

    fn resized(&mut self, old: usize, new: usize) {
        self.live_bytes = self.live_bytes - old + new;
        self.total_bytes += new.saturating_sub(old) as u64;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
    }

    fn occupy(&mut self, before: usize, now: usize) {
        self.occupied = self.occupied - before + now;
        self.high_water_mark = self.high_water_mark.max(self.occupied);
    }
}

#[cfg(test)]
impl State {
    /// Checks every invariant, and the sums against what the caller holds.
    pub(crate) fn check(&self, live_blocks: usize, live_bytes: usize) {
        let chunks = || self.full.iter().chain(&self.current).chain(&self.spare);
        assert!(self.full.capacity() >= chunks().count());
        assert_eq!(
            (self.live_blocks, self.live_bytes),
            (live_blocks, live_bytes)
        );
        let in_chunks: usize = chunks().map(Chunk::live).sum();
        assert_eq!(in_chunks + self.large_blocks, live_blocks);
        assert!(self.full.is_sorted_by_key(Chunk::address));
        assert!(self.full.iter().all(|chunk| !chunk.is_empty()));
        assert!(self.spare.iter().all(Chunk::is_empty));
        for chunk in chunks() {
            assert!(chunk.used() <= chunk.size());
            assert_eq!(chunk.used() == 0, chunk.is_empty());
            let others = chunks().filter(|other| other.contains(chunk.address()));
            assert_eq!(others.count(), 1, "only itself");
        }
        let size: usize = chunks().map(Chunk::size).sum();
        let used: usize = chunks().map(Chunk::used).sum();
        // What is not in chunks is large, in both sums alike.
        assert_eq!(self.held - size, self.occupied - used);
        assert!(self.live_bytes <= self.occupied && self.occupied <= self.held);
        assert!(self.peak_bytes >= self.live_bytes && self.high_water_mark >= self.occupied);
    }
}

/// The chunk of a sorted list in which `address` lies.
fn find(chunks: &[Chunk], address: usize) -> Option<usize> {
    let above = chunks.partition_point(|chunk| chunk.address() <= address);
    let index = above.checked_sub(1)?;
    chunks[index].contains(address).then_some(index)
}

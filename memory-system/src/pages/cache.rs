//! Mappings that were given back and are kept for the next block of about their size.
#![expect(unsafe_code, reason = "regions go from thread to thread")]

use std::ptr::NonNull;

use arrow_memory_manager::__private::{Order, ProcessGuard, ProcessLock};

/// A mapping of whole pages, which the owner of this value owns.
#[derive(Debug)]
pub(super) struct Region {
    /// Its first byte.
    pub(super) start: NonNull<u8>,
    /// Its length in bytes.
    pub(super) len: usize,
}

// SAFETY: memory belongs to no thread, and the owner of the value is the only owner of the pages.
unsafe impl Send for Region {}

/// Regions that are kept for reuse: at most [`CACHED_BYTES`] in [`CACHED_REGIONS`].
///
/// The lock is held for a look at a few words. Under it nothing is allocated and the system is not
/// called: regions that have to go are handed to the caller. A fork waits for it.
pub(super) struct Cache(ProcessLock<Kept>);

/// The result of an attempt to keep a region.
#[derive(Debug)]
pub(super) enum Put {
    /// The cache keeps the region.
    Kept,
    /// There is no room: the caller unmaps the first region, and tries again with the second one.
    Full(Region, Region),
    /// The region is longer than all that the cache may keep.
    Refused(Region),
}

#[derive(Debug)]
struct Kept {
    /// The oldest first.
    regions: [Option<Region>; CACHED_REGIONS],
    /// How many there are.
    count: usize,
    /// The sum of their lengths.
    bytes: usize,
}

impl Cache {
    pub(super) const fn new() -> Self {
        let kept = Kept {
            regions: [const { None }; CACHED_REGIONS],
            count: 0,
            bytes: 0,
        };
        Self(ProcessLock::new(Order::Inner, kept))
    }

    /// A region of `len` bytes, or up to a quarter more, that is aligned to `align`.
    pub(super) fn take(&'static self, len: usize, align: usize) -> Option<Region> {
        let mut kept = self.lock();
        let index = kept.find(len, align)?;
        kept.remove(index)
    }

    /// Keeps a region, if there is room for it.
    pub(super) fn put(&'static self, region: Region) -> Put {
        if region.len > CACHED_BYTES {
            return Put::Refused(region);
        }
        let mut kept = self.lock();
        let full = kept.count == CACHED_REGIONS || kept.bytes + region.len > CACHED_BYTES;
        match if full { kept.remove(0) } else { None } {
            Some(oldest) => Put::Full(oldest, region),
            None => {
                kept.push(region);
                Put::Kept
            }
        }
    }

    /// Takes the oldest region out.
    pub(super) fn pop(&'static self) -> Option<Region> {
        self.lock().remove(0)
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&'static self) -> usize {
        self.lock().bytes
    }

    fn lock(&'static self) -> ProcessGuard<Kept> {
        self.0.lock()
    }
}

impl Kept {
    /// The place of the shortest region that `Cache::take` may answer with.
    fn find(&self, len: usize, align: usize) -> Option<usize> {
        let mut shortest = None;
        // The latest first: its bytes are most likely still in the processor's caches.
        for (index, region) in self.regions[..self.count].iter().enumerate().rev() {
            let region = region.as_ref()?;
            let fits = region.len >= len && region.len - len <= len / 4;
            let aligned = region.start.as_ptr().addr() & (align - 1) == 0;
            if fits && aligned && shortest.is_none_or(|(_, other)| region.len < other) {
                shortest = Some((index, region.len));
                if region.len == len {
                    break;
                }
            }
        }
        shortest.map(|(index, _)| index)
    }

    fn push(&mut self, region: Region) {
        self.bytes += region.len;
        self.regions[self.count] = Some(region);
        self.count += 1;
    }

    fn remove(&mut self, index: usize) -> Option<Region> {
        let region = self.regions.get_mut(index)?.take()?;
        self.regions[index..self.count].rotate_left(1);
        self.count -= 1;
        self.bytes -= region.len;
        Some(region)
    }
}

/// The maximum number of bytes that are kept: as many as glibc's heap keeps at its end.
pub(super) const CACHED_BYTES: usize = 64 * 1024 * 1024;

/// The maximum number of regions that are kept: as many of the smallest ones as `CACHED_BYTES` has room for.
const CACHED_REGIONS: usize = CACHED_BYTES / super::THRESHOLD;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn cache() -> &'static Cache {
        Box::leak(Box::new(Cache::new()))
    }

    /// A region that is nowhere; nothing here looks inside.
    fn region(start_mib: usize, mib: usize) -> Region {
        let start = std::ptr::without_provenance_mut(start_mib * MIB);
        Region {
            start: NonNull::new(start).expect("not at 0"),
            len: mib * MIB,
        }
    }

    /// Keeps a region of so many MiB; the lengths of those that went for it, in MiB.
    fn put(cache: &'static Cache, mib: usize) -> Vec<usize> {
        let mut region = region(2, mib);
        let mut gone = Vec::new();
        loop {
            match cache.put(region) {
                Put::Kept => return gone,
                Put::Full(oldest, again) => {
                    gone.push(oldest.len / MIB);
                    region = again;
                }
                Put::Refused(refused) => {
                    gone.push(refused.len / MIB);
                    return gone;
                }
            }
        }
    }

    fn take(cache: &'static Cache, mib: usize) -> Option<usize> {
        Some(cache.take(mib * MIB, MIB)?.len / MIB)
    }

    fn drain(cache: &'static Cache) -> Vec<usize> {
        std::iter::from_fn(|| Some(cache.pop()?.len / MIB)).collect()
    }

    #[test]
    fn the_shortest_region_that_fits_is_taken_and_none_that_wastes_more_than_a_quarter() {
        let cache = cache();
        for mib in [8, 5, 4, 16] {
            assert!(put(cache, mib).is_empty());
        }

        assert_eq!(take(cache, 3), None);
        assert_eq!(take(cache, 17), None);
        assert_eq!(take(cache, 4), Some(4));
        assert_eq!(take(cache, 4), Some(5));
        assert_eq!(take(cache, 4), None);
        assert_eq!(cache.bytes(), 24 * MIB);
        assert_eq!(drain(cache), [8, 16]);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_region_that_is_not_aligned_as_asked_stays() {
        let cache = cache();
        cache.put(region(2, 4));

        assert!(cache.take(4 * MIB, 4 * MIB).is_none());
        assert!(cache.take(4 * MIB, 2 * MIB).is_some());
    }

    #[test]
    fn the_oldest_regions_go_when_there_are_too_many_bytes() {
        let cache = cache();
        for mib in [10, 20, 30] {
            assert!(put(cache, mib).is_empty());
        }

        assert_eq!(put(cache, 24), [10, 20]);
        assert_eq!(cache.bytes(), 54 * MIB);
        assert_eq!(put(cache, 65), [65]);
        assert_eq!(put(cache, 64), [30, 24]);
        assert_eq!(drain(cache), [64]);
    }

    #[test]
    fn as_many_regions_are_kept_as_there_are_places() {
        let cache = cache();
        for _ in 0..CACHED_REGIONS {
            assert!(put(cache, 1).is_empty());
        }

        assert_eq!(put(cache, 2), [1]);
        assert_eq!(cache.bytes(), (CACHED_REGIONS + 1) * MIB);
    }
}

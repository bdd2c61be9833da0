//! The reference count of a ledger, and in the same word what its last holder must know.

use crate::sync::{AtomicUsize, Ordering};

/// The allocation is charged to this ledger.
const OWNING: usize = 1;

/// The allocation has other ledgers: they are changed under the tree's mutex only.
const SHARED: usize = 2;

/// The memory has weak references, from which buffers are made: see [`try_retain`](Count::try_retain). Never changes.
const WATCHED: usize = 4;

/// One buffer, in the count.
const ONE: usize = 8;

/// No buffer: one less than the one buffer that zero stands for.
const NONE: usize = usize::MAX & !(ONE - 1);

/// How many buffers hold a ledger, whether it is the owning one, and whether there are others.
///
/// | bits | meaning |
/// |---|---|
/// | 0 | OWNING: the charge is this ledger's; changed under the tree's mutex |
/// | 1 | SHARED: the allocation has several ledgers, or its only one is moving in place; changed under the tree's mutex |
/// | 2 | WATCHED: the memory is foreign, and may be found again by its address |
/// | 3..64 | buffers that hold this ledger, less one; all ones (NONE): no buffer |
///
/// The count is on top, and one less, so that an addition or subtraction leaves in the processor's
/// carry flag whether it was the last buffer: one that has to return the old value takes longer.
///
/// # Invariants
///
/// 1. Each buffer is counted. A new buffer is made from one of the same ledger (without the mutex),
///    or, where SHARED is set, from one of another ledger (under the mutex).
/// 2. An allocation with one ledger has OWNING and not SHARED there, but while that ledger moves in place: see `claim`.
/// 3. Where WATCHED is set, a watcher makes new buffers too, from a count that is not zero. So the
///    last buffer is not known to be the last before the count is zero, and `is_sole` is false.
///
/// So one load that says *one buffer, OWNING, not SHARED* proves to the holder of that buffer that
/// nobody else can reach the allocation, now or later: that is [`is_sole`](Self::is_sole). The
/// flags stand in the count's word because two loads would leave a gap between them.
#[derive(Debug)]
pub(crate) struct Count(AtomicUsize);

/// What there is of an allocation beside a ledger that has no buffer any more, or gets none without the mutex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nobody else can reach the allocation.
    Nothing,
    /// The allocation has other ledgers, or had some at that instant: the rest is known under the mutex.
    Ledgers,
}

impl Count {
    /// No buffer, no ledger.
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(NONE))
    }

    /// One buffer on the only ledger. Nobody else knows the ledger.
    #[inline]
    pub(crate) fn reset_to_sole(&self) {
        // Relaxed: a buffer reaches other threads in order.
        self.0.store(OWNING, Ordering::Relaxed);
    }

    /// One buffer on the only ledger of memory that may have weak references. Nobody else knows the
    /// ledger.
    pub(crate) fn reset_to_watched(&self) {
        // Relaxed: a buffer reaches other threads in order.
        self.0.store(OWNING | WATCHED, Ordering::Relaxed);
    }

    /// One buffer on one ledger of several, not the owning one. Nobody else knows the ledger.
    pub(crate) fn reset_to_guest(&self, watched: bool) {
        let watched = if watched { WATCHED } else { 0 };
        // Relaxed: a buffer reaches other threads in order.
        self.0.store(SHARED | watched, Ordering::Relaxed);
    }

    /// One buffer on the owning ledger of several. Nobody else knows the ledger.
    pub(crate) fn reset_to_heir(&self, watched: bool) {
        let watched = if watched { WATCHED } else { 0 };
        // Relaxed: a buffer reaches other threads in order.
        self.0.store(SHARED | OWNING | watched, Ordering::Relaxed);
    }

    /// Another buffer. The caller has one, or the mutex and a live ledger.
    #[inline]
    pub(crate) fn retain(&self) {
        // Relaxed: the caller's buffer keeps all alive, and handing the new one to another thread
        // orders what follows (as in std's `Arc`).
        let word = self.0.fetch_add(ONE, Ordering::Relaxed);
        if word >= NONE {
            // After 2^61 buffers: more than can be told apart.
            std::process::abort();
        }
    }

    /// Another buffer, if the ledger has any. Under the mutex, for a ledger of which the caller has no
    /// buffer; or for a watched ledger, whose slot the caller knows to be in use or just given up.
    pub(crate) fn try_retain(&self) -> bool {
        self.0
            // Relaxed, both: a thread that makes a buffer has one, or is ordered by the mutex or by what
            // told it of the slot. The count cannot fall to zero in between.
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word < NONE).then(|| word + ONE)
            })
            .is_ok()
    }

    /// Another buffer, for a watcher without the mutex: if the ledger has any, and the allocation no other ledger. Else
    /// the answer says what there is: other ledgers, or nothing any more. It is that of one look.
    pub(crate) fn retain_alone(&self) -> Result<(), Left> {
        self.0
            // Acquire: partner of the Release in `set_alone`, so that the ledger's node is seen as it is since then.
            // Relaxed, of a failure: as in `try_retain`.
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                (word < NONE && word & SHARED == 0).then(|| word + ONE)
            })
            .map(drop)
            .map_err(|word| match word & SHARED {
                0 => Left::Nothing,
                _ => Left::Ledgers,
            })
    }

    /// Whether there are two buffers, of a watched ledger that is the only one: at this instant.
    pub(crate) fn is_pair(&self) -> bool {
        // Relaxed: a guess, which `claim` proves.
        self.0.load(Ordering::Relaxed) == OWNING | WATCHED | ONE
    }

    /// Sets SHARED if there is one buffer, of a watched ledger that is the only one, so that nobody makes another buffer
    /// without the mutex: until [`set_alone`](Self::set_alone). Under the mutex, by the holder of that buffer.
    pub(crate) fn claim(&self) -> bool {
        let alone = OWNING | WATCHED;
        self.0
            // Acquire: partner of the Release in `release`: what holders of other buffers did with the ledger's node comes
            // before what becomes of it. Relaxed, of a failure: nothing is done then.
            .compare_exchange(alone, alone | SHARED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Subtracts a buffer. `true` if that was the last one: then [`last_left`](Self::last_left) says
    /// what is left. Otherwise the caller must not touch the word any more. A
    /// [sole](Self::is_sole) holder need not call this.
    #[inline]
    pub(crate) fn release(&self) -> bool {
        // Release: what this buffer's holder did comes before the block is freed; the partners
        // are the Acquire in `last_left` and in `is_sole`.
        self.0.fetch_sub(ONE, Ordering::Release) < ONE
    }

    /// What is left after the last buffer was subtracted.
    ///
    /// Whether there are other ledgers may have changed since the subtraction. The last one of them may
    /// have ended meanwhile, and handed the charge over to this one; then nothing is left.
    pub(crate) fn last_left(&self) -> Left {
        // Acquire: partner of the Release in `release`, of all buffers that were subtracted before,
        // and of that in `set_alone`.
        if self.0.load(Ordering::Acquire) & SHARED == 0 {
            Left::Nothing
        } else {
            Left::Ledgers
        }
    }

    /// Whether the caller's buffer is the last one of its ledger, and the allocation has other
    /// ledgers. If so, the word changes under the mutex only: the caller takes it, asks again, and
    /// [`release_last`](Self::release_last) needs no read-modify-write. Always `false` where WATCHED
    /// is set, because watchers make buffers without the mutex.
    #[inline]
    pub(crate) fn is_last_of_shared(&self) -> bool {
        // Acquire: partner of the Release in `release`. A thread that dropped another buffer of
        // this ledger may never have had the mutex (a clone's drop subtracts and is done), so the
        // mutex does not order what it read before this. The caller passes that order on to the thread
        // that frees the block or writes to it: by the Release in `set_alone`, or by the mutex.
        let word = self.0.load(Ordering::Acquire);
        word & !OWNING == SHARED
    }

    /// Gives up the buffer of which [`is_last_of_shared`](Self::is_last_of_shared) was asked under
    /// the mutex, which is still held.
    pub(crate) fn release_last(&self) {
        // Relaxed, both: nobody else has a buffer of this ledger, and a thread that makes one, or
        // changes a flag, has the mutex. What holders did with the block was acquired by
        // `is_last_of_shared`, and comes before what the next holder of the mutex does. (This store
        // ends the release sequence of their subtractions.)
        let word = self.0.load(Ordering::Relaxed);
        self.0.store(word.wrapping_sub(ONE), Ordering::Relaxed);
    }

    /// Whether the caller's buffer is the only way to the allocation.
    #[inline]
    pub(crate) fn is_sole(&self) -> bool {
        // Acquire: partner of the Release in `release` and in `set_alone`: all that others did
        // with the memory comes before what a sole owner does to it.
        self.0.load(Ordering::Acquire) == OWNING
    }

    /// How many buffers hold the ledger at this instant.
    pub(crate) fn buffers(&self) -> usize {
        // Relaxed: a number for a reader.
        self.0.load(Ordering::Relaxed).wrapping_add(ONE) / ONE
    }

    /// Whether the allocation has, or had, several ledgers.
    pub(crate) fn is_shared(&self) -> bool {
        // Relaxed: a thread that sees the bit takes the mutex. A thread that does not see it, and saw
        // a count of zero before, knows that there is no other ledger: the bit is set only while there
        // is a buffer.
        self.0.load(Ordering::Relaxed) & SHARED != 0
    }

    /// Whether the allocation is charged to this ledger at this instant.
    pub(crate) fn is_owning(&self) -> bool {
        // Relaxed: a fact for a reader; decisions are made under the mutex, which orders it.
        self.0.load(Ordering::Relaxed) & OWNING != 0
    }

    /// Notes that there are several ledgers. Under the mutex; the caller keeps this one alive.
    pub(crate) fn set_shared(&self) {
        // Relaxed: a thread that needs more than the bit takes the mutex.
        self.0.fetch_or(SHARED, Ordering::Relaxed);
    }

    /// Notes that this ledger is the only one left. Under the mutex.
    pub(crate) fn set_alone(&self) {
        // Release: partner of the Acquire in `is_sole`: what holders of the other ledgers did,
        // which the mutex ordered before us, comes before what a sole owner does.
        self.0.fetch_and(!SHARED, Ordering::Release);
    }

    /// Notes, of an owning ledger that was the only one, that there is another, which owns now.
    /// Under the mutex; the caller keeps this one alive.
    pub(crate) fn yield_to_another(&self) {
        // Relaxed: a thread that needs more than the bits takes the mutex. The flags are known, so
        // that one addition changes both.
        let word = self.0.fetch_add(SHARED - OWNING, Ordering::Relaxed);
        debug_assert_eq!(word & (SHARED | OWNING), OWNING);
    }

    /// Notes whether this ledger owns the allocation from now on. Under the mutex.
    pub(crate) fn set_owning(&self, owning: bool) {
        if owning {
            // Relaxed: a thread that needs more than the bit takes the mutex.
            self.0.fetch_or(OWNING, Ordering::Relaxed);
        } else {
            // Relaxed: a thread that needs more than the bit takes the mutex.
            self.0.fetch_and(!OWNING, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_buffers_leaves_nothing() {
        let count = Count::new();
        count.reset_to_sole();
        count.retain();

        assert!(!count.is_sole());
        assert!(!count.release());
        assert!(count.is_sole());
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Nothing);
    }

    #[test]
    fn one_buffer_is_not_sole_while_there_are_other_ledgers() {
        let count = Count::new();
        count.reset_to_sole();
        count.set_shared();

        assert!(!count.is_sole());
        count.set_alone();
        assert!(count.is_sole());
        count.set_shared();
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Ledgers);
    }

    #[test]
    fn a_guest_does_not_own_until_it_is_told() {
        let count = Count::new();
        count.reset_to_guest(false);

        assert!(!count.is_owning());
        count.set_owning(true);
        assert!(count.is_owning());
        assert_eq!(count.buffers(), 1);
    }

    #[test]
    fn the_last_buffer_of_a_watched_ledger_is_not_sole_and_zero_is_final() {
        let count = Count::new();
        count.reset_to_watched();

        assert!(!count.is_sole());
        assert!(count.try_retain());
        assert!(!count.release());
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Nothing);
        assert!(!count.try_retain());
    }

    /// A count that one of the constructors set.
    fn count(reset: impl FnOnce(&Count)) -> Count {
        let count = Count::new();
        reset(&count);
        count
    }

    #[test]
    fn a_ledger_without_buffers_gets_none_whatever_its_flags() {
        let ended = [
            Count::new(),
            count(|count| {
                count.reset_to_watched();
                assert!(count.release());
            }),
        ];
        for count in ended {
            assert!(!count.try_retain());
            assert_eq!(count.retain_alone(), Err(Left::Nothing));
            assert_eq!(count.buffers(), 0);
            count.set_shared();
            assert!(!count.try_retain());
            assert_eq!(count.retain_alone(), Err(Left::Ledgers));
        }
    }

    #[test]
    fn a_watcher_makes_buffers_of_the_only_ledger_alone() {
        let alone = count(Count::reset_to_watched);
        let guest = count(|count| count.reset_to_guest(true));

        assert_eq!(alone.retain_alone(), Ok(()));
        assert_eq!(guest.retain_alone(), Err(Left::Ledgers));

        assert_eq!((alone.buffers(), guest.buffers()), (2, 1));
    }

    #[test]
    fn a_pair_is_two_buffers_of_a_watched_ledger_that_is_the_only_one() {
        let watched = count(Count::reset_to_watched);
        assert!(!watched.is_pair());
        watched.retain();
        assert!(watched.is_pair());
        watched.set_shared();
        assert!(!watched.is_pair());
        watched.set_alone();
        watched.retain();
        assert!(!watched.is_pair());

        let sole = count(Count::reset_to_sole);
        sole.retain();
        assert!(!sole.is_pair());
    }

    #[test]
    fn one_buffer_of_a_watched_ledger_claims_it_once() {
        let watched = count(Count::reset_to_watched);
        assert!(watched.claim());
        assert!(watched.is_shared() && watched.is_owning() && !watched.claim());
        watched.set_alone();
        watched.retain();
        assert!(!watched.claim());
        assert!(!count(Count::reset_to_sole).claim());
    }

    #[test]
    fn the_last_buffer_of_several_ledgers_is_told_from_all_others() {
        let guest = count(|count| count.reset_to_guest(false));
        let heir = count(|count| count.reset_to_heir(false));
        for count in [&guest, &heir] {
            assert!(count.is_last_of_shared() && count.is_shared());
            count.retain();
            assert!(!count.is_last_of_shared());
            assert!(!count.release());
            count.release_last();
            assert_eq!(count.buffers(), 0);
            assert_eq!(count.last_left(), Left::Ledgers);
        }
        assert_eq!((guest.is_owning(), heir.is_owning()), (false, true));
        assert!(!count(Count::reset_to_sole).is_last_of_shared());
        for watched in [true, false] {
            let guest = count(|count| count.reset_to_guest(watched));
            assert_eq!(guest.is_last_of_shared(), !watched);
            let heir = count(|count| count.reset_to_heir(watched));
            assert_eq!(heir.is_last_of_shared(), !watched);
        }
    }

    #[test]
    fn flags_change_without_the_number_of_buffers() {
        let count = count(Count::reset_to_sole);
        count.retain();
        count.yield_to_another();
        assert!(count.is_shared() && !count.is_owning());
        count.set_owning(true);
        count.set_owning(true);
        assert!(count.is_owning());
        count.set_owning(false);
        count.set_owning(false);
        assert!(!count.is_owning() && count.is_shared());
        count.set_alone();
        count.set_alone();
        assert!(!count.is_shared());
        assert_eq!(count.buffers(), 2);
    }
}

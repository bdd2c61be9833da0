//! A level that lacks room for requests that wait.

/// The index of no waiter and of no level.
pub(in crate::accounting) const NONE: u32 = u32::MAX;

/// A level at which requests wait, the oldest first.
#[derive(Debug)]
pub(in crate::accounting) struct Level<N> {
    pub(in crate::accounting) node: N,
    pub(super) first: u32,
    pub(super) last: u32,
    pub(in crate::accounting) waiters: u32,
    /// A lower bound of the bytes that must become free here before one of the waiters fits; 0: unknown.
    pub(in crate::accounting) least: usize,
    /// The sum of `loose` of the nodes below it.
    pub(in crate::accounting) loose: usize,
    /// What was loose when the level last became tight.
    pub(in crate::accounting) was_loose: usize,
    /// Look at every waiter, since what is withheld or needed has changed.
    pub(in crate::accounting) rescan: bool,
    /// Bytes by which others grew what is used here since it has waiters.
    pub(super) grown: u64,
    /// The value of `grown` at which the next waiter becomes a barrier.
    pub(super) next_barrier: u64,
    /// Barriers in the queue: those of plain waits, and those of admissions.
    pub(super) barriers: [u32; 2],
    /// Whether a waiter was told to ask others when the level was last found to be stuck, and nobody to give way, while
    /// the oldest waiter came no nearer.
    pub(super) asked: bool,
    pub(super) dirty: bool,
    /// The next dirty level, or the next free place.
    pub(super) next: u32,
}

impl<N> Level<N> {
    /// A level without waiters.
    pub(super) fn new(node: N) -> Self {
        Self {
            node,
            first: NONE,
            last: NONE,
            waiters: 0,
            least: usize::MAX,
            loose: 0,
            was_loose: 0,
            rescan: false,
            grown: 0,
            next_barrier: u64::MAX,
            barriers: [0; 2],
            asked: false,
            dirty: false,
            next: NONE,
        }
    }

    /// Whether a waiter may have been passed by as much as it may be.
    pub(super) fn may_raise(&self) -> bool {
        self.grown >= self.next_barrier
    }
}

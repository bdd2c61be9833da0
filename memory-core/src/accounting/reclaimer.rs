//! What a registration of a reclaimer is for the tree, and what a request tells it.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::outcome::AllocatorInfo;
use crate::sync::{AtomicBool, Ordering};

/// A registration, as the tree sees it. What it does is foreign code, but for `rank`.
pub(crate) trait Reclaimer: Send + Sync {
    /// Lower is asked earlier: the cost, and then the priority of the allocator.
    fn rank(&self) -> (u8, i32);

    /// About how many bytes could come back.
    fn estimate(&self) -> usize;

    /// Asks for `missing` bytes, unless it has been asked and has not answered; or, if the request does not `insist`,
    /// is to be left alone for a while.
    fn ask(self: Arc<Self>, shortage: &Arc<Shortage>, missing: usize, insist: bool) -> Answer;
}

/// What became of an ask when it returned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answer {
    /// It is out, and may be answered later.
    pub(crate) out: bool,
    /// Bytes that the allocator uses less.
    pub(crate) freed: usize,
}

/// A request that asks others for memory.
pub(crate) struct Shortage {
    pub(crate) requester: AllocatorInfo,
    /// Whether the request may wait for those who are asked.
    pub(crate) may_block: bool,
    /// The request was granted, or gave up.
    over: AtomicBool,
}

impl Shortage {
    pub(crate) fn new(requester: AllocatorInfo, may_block: bool) -> Arc<Self> {
        Arc::new(Self {
            requester,
            may_block,
            over: AtomicBool::new(false),
        })
    }

    /// Notes that the request is granted, or has given up.
    pub(crate) fn end(&self) {
        // Relaxed, both: a hint to stop working.
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether the request is granted, or has given up.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A registration in the list of its node, of which its owner has a handle until it takes it off the list.
pub(in crate::accounting) struct Registered {
    /// What [`Reclaimer::rank`] said.
    pub(in crate::accounting) rank: (u8, i32),
    pub(in crate::accounting) reclaimer: Arc<dyn Reclaimer>,
}

/// A registration that may help.
pub(crate) struct Candidate {
    pub(crate) reclaimer: Arc<dyn Reclaimer>,
    /// Bytes that its allocator uses beyond its reservation. What a reservation keeps, others do not get.
    pub(crate) freeable: usize,
    /// Cost, priority, and what its branch uses beyond its reservation.
    pub(in crate::accounting) order: (u8, i32, Reverse<usize>),
}

/// All shares of the spill reserve are taken.
pub(crate) struct AllShares;

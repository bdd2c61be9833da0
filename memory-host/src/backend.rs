//! What the backend has that no tree can see: bytes that are free in it, and can be lent again.

use arrow_memory_core::ManagerStats;

/// Bytes that the backend keeps and that no block holds. The next block may come from them, so they are no
/// overhead of the tree; for the host they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// The backend counts them.
    Exactly(usize),
    /// The backend knows of these, and there may be any number of others.
    AtLeast(usize),
}

impl Free {
    pub(crate) fn of(stats: &ManagerStats) -> Self {
        let cached = stats.cached_bytes.unwrap_or(0);
        if let Some(fragmented) = stats.fragmented_bytes {
            return Self::Exactly(fragmented.saturating_add(cached));
        }
        match fragmentation(stats) {
            // Whether what is cached lies in active pages is not known.
            Some(fragmentation) => Self::Exactly(fragmentation.max(cached)),
            None => Self::AtLeast(cached),
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Exactly(bytes) | Self::AtLeast(bytes) => bytes,
        }
    }
}

/// Bytes in active pages that are in no block, if the backend knows.
pub(crate) fn fragmentation(stats: &ManagerStats) -> Option<usize> {
    let difference = || {
        let (active, live) = stats.active_bytes.zip(stats.live_bytes)?;
        Some(active.saturating_sub(live))
    };
    stats.fragmented_bytes.or_else(difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_what_the_backend_counts_or_else_what_it_keeps() {
        let mut stats = ManagerStats::default();
        assert_eq!(Free::of(&stats), Free::AtLeast(0));
        stats.live_bytes = Some(60);
        stats.cached_bytes = Some(5);
        assert_eq!(Free::of(&stats), Free::AtLeast(5));
        stats.active_bytes = Some(100);
        assert_eq!(Free::of(&stats), Free::Exactly(40));
        stats.cached_bytes = Some(50);
        assert_eq!(Free::of(&stats), Free::Exactly(50));
        // Most of the active pages belong to others, such as the program's own heap.
        stats.fragmented_bytes = Some(7);
        assert_eq!(Free::of(&stats), Free::Exactly(57));
        assert_eq!(fragmentation(&stats), Some(7));
    }
}

//! The settings of mimalloc: [`MimallocOption`].

use std::ffi::c_int;

/// An option of mimalloc. Options hold for all users of mimalloc in the process.
///
/// They can also be set by environment variables: `MIMALLOC_PURGE_DELAY=100`. These are the ones
/// whose numbers are the same in versions 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MimallocOption {
    /// Milliseconds after which unused memory returns to the operating system; 0 for at once, -1
    /// for never.
    PurgeDelay,
    /// The factor by which the purge delay is multiplied for whole regions.
    ArenaPurgeMult,
    /// 1: purged memory is decommitted, and leaves the resident set; 0: the system may take it.
    PurgeDecommits,
    /// KiB that are reserved from the operating system at a time.
    ArenaReserve,
    /// Whether regions are committed as a whole: 0 no, 1 yes, 2 where the system overcommits.
    ArenaEagerCommit,
    /// 1: use large (2 or 4 MiB) pages of the operating system where it allows them.
    AllowLargeOsPages,
    /// The maximum number of NUMA nodes to use; 0 for all.
    UseNumaNodes,
    /// 1: print errors to standard error.
    ShowErrors,
    /// 1: print statistics to standard error when the program ends.
    ShowStats,
    /// How much is printed to standard error.
    Verbose,
}

impl MimallocOption {
    /// Its number in C.
    pub(crate) fn number(self) -> c_int {
        match self {
            Self::ShowErrors => 0,
            Self::ShowStats => 1,
            Self::Verbose => 2,
            Self::ArenaEagerCommit => 4,
            Self::PurgeDecommits => 5,
            Self::AllowLargeOsPages => 6,
            Self::PurgeDelay => 15,
            Self::UseNumaNodes => 16,
            Self::ArenaReserve => 23,
            Self::ArenaPurgeMult => 24,
        }
    }
}

//! [`Level`]: what has a limit.

use std::fmt;
use std::path::PathBuf;

/// What has a limit, and says how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// A cgroup: its version and its directory.
    Cgroup(Version, PathBuf),
    /// `RLIMIT_AS`.
    AddressSpace,
    /// `RLIMIT_DATA`.
    Data,
    /// The memory of the machine.
    Physical,
}

/// The version of the interface of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Level {
    /// Whether addresses count, also those without memory behind them.
    pub(crate) fn counts_addresses(&self) -> bool {
        matches!(self, Self::AddressSpace | Self::Data)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(_, path) => write!(f, "cgroup {}", path.display()),
            Self::AddressSpace => f.write_str("address space of the process"),
            Self::Data => f.write_str("data size of the process"),
            Self::Physical => f.write_str("memory of the machine"),
        }
    }
}

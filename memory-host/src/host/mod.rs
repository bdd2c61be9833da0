//! What the machine says: its limits, and how much is used of them. One file per platform.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Level, Machine};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{Level, Machine};

/// The smallest of the machine's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ceiling {
    pub(crate) bytes: usize,
    /// What has this limit, and says how much of it is used.
    pub(crate) level: Level,
    /// Which files said what.
    pub(crate) source: String,
}

/// The memory of a cgroup that the kernel cannot take back by itself, in bytes.
///
/// Page cache is no part of it, nor are slabs that can be freed: the kernel drops those before it kills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupMemory {
    pub(crate) anonymous: Option<usize>,
    /// Files in memory, such as those of `/dev/shm`: they could only go to swap.
    pub(crate) shared: Option<usize>,
    pub(crate) sockets: Option<usize>,
    pub(crate) kernel: Option<usize>,
    /// The directory that was read.
    pub(crate) path: String,
}
